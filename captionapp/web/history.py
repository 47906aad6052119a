"""The gallery: the pictures of this browser, and what it can do with many of them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext

from captionapp import takeout
from captionapp.errors import NotFound
from captionapp.gallery import PER_PAGE, Wanted
from captionapp.results import Page, PictureView
from captionapp.web import identity, wanted
from captionapp.web.current import workflow
from captionapp.web.forms import FeedbackForm, first_error
from captionapp.web.presenting import is_neutral
from captionapp.web.wanted import STATES

blueprint = Blueprint("history", __name__)

#: Cards that a page asks for again at once, because something of them has changed.
MOST_CARDS = 100


@blueprint.get("/history")
def show() -> ResponseReturnValue:
    return page(request.args.get("at", ""))


def page(at: str, form: FeedbackForm | None = None, problem: str = "") -> ResponseReturnValue:
    """The gallery; with ``at``, from that picture on, its form open. ``form`` is an answer to it
    that could not be kept, and ``problem`` says why."""
    viewer = identity.contributor()
    asked = wanted.asked()
    valid = asked.validate()
    chosen = asked.chosen() if valid else Wanted()
    opened = workflow().pictures_of([at], viewer).get(at) if at else None
    place = wanted.place() | ({"at": at} if opened else {})
    if opened:
        pictures = _from(opened, viewer, chosen)
    elif valid:
        pictures = _page(viewer, chosen, at)
    else:  # nothing: all pictures would be taken for the answer to what was asked
        pictures = Page([], 0, 0, "", "")
    counts = workflow().gallery.counts(viewer)
    shown = render_template(
        "history.html",
        pictures=pictures,
        opened=opened.image_id if opened else "",
        back=_back(opened, viewer, chosen) if opened else None,
        answer=form,
        problem=problem,
        asked=asked,
        place=place,
        filter_problem="" if valid else first_error(asked),
        states=STATES,
        counts={"": sum(counts.values())} | {state.value: n for state, n in counts.items()},
        releases=_releases(viewer),
        viewer=viewer,
    )
    return shown if valid else (shown, 422)


@blueprint.get("/history/next")
def following() -> ResponseReturnValue:
    """To the next description behind the picture ``after`` that waits for an answer."""
    viewer = identity.contributor()
    asked = wanted.asked()
    chosen = asked.chosen() if asked.validate() else Wanted()
    after = request.args.get("after", "")
    workflow().gallery.refresh(viewer)
    gallery = workflow().gallery
    found = gallery.next_unanswered(
        viewer, chosen, gallery.cursor(viewer, after, chosen.sort), besides=after
    )
    if found:
        # Without a fragment: a browser gives the focus to the field only if the address has none.
        return redirect(url_for("history.show", **asked.arguments(at=found, back=after)))
    if gallery.next_unanswered(viewer, chosen, ""):
        flash(gettext("That was the last one. Some were left out on the way."), "done")
    else:
        flash(gettext("That was the last one: every description here has an answer."), "done")
    return redirect(url_for("history.show", **asked.arguments()))


@blueprint.get("/history/cards")
def cards() -> str:
    """These cards of the gallery as they are now; those that are gone are left out."""
    viewer = identity.contributor()
    image_ids = request.args.getlist("picture")[:MOST_CARDS]
    return render_template(
        "cards.html",
        views=list(workflow().pictures_of(image_ids, viewer).values()),
        asked=wanted.asked(),
        place=wanted.place(),
        viewer=viewer,
    )


@blueprint.get("/history/keys")
def keys() -> str:
    return render_template("keys.html")


@blueprint.post("/history/selection")
def selection() -> ResponseReturnValue:
    """What is done with the pictures that were chosen, or with all that the address asks for."""
    viewer = identity.contributor()
    asked = wanted.asked()
    chosen = request.form.getlist("picture")
    if request.form.get("everything") and asked.validate():
        workflow().gallery.refresh(viewer)
        chosen = workflow().gallery.matching(viewer, asked.chosen())
    if not chosen:
        flash(gettext("Choose some pictures first."), "problem")
        return _to_page()
    if request.form.get("do") == "delete":
        workflow().letting_go.release(chosen, viewer)
        return _to_page()
    return _download(chosen, viewer, request.form.get("form", ""))


@blueprint.post("/history/undo")
def undo() -> ResponseReturnValue:
    """Takes back what was let go of together."""
    moment = request.form.get("moment", "")
    taken_back = workflow().letting_go.take_back(identity.contributor(), moment)
    if not taken_back:
        flash(gettext("It is too late to bring these back."), "problem")
    return _to_page(taken_back[0] if taken_back else "")


def beside(image_id: str) -> ResponseReturnValue:
    """Back to the page that the address names, to the picture next to this one, which is gone."""
    viewer = identity.contributor()
    asked = wanted.asked()
    chosen = asked.chosen() if asked.validate() else Wanted()
    gallery = workflow().gallery
    return _to_page(
        gallery.neighbour(viewer, chosen, image_id)
        or gallery.neighbour(viewer, chosen, image_id, backwards=True)
    )


def _to_page(image_id: str = "") -> ResponseReturnValue:
    """Back to the page that the address names, where this picture is."""
    arguments = wanted.asked().arguments(**wanted.place())
    anchor = f"picture-{image_id}" if image_id else None
    return redirect(url_for("history.show", **arguments, _anchor=anchor), 303)


def _page(viewer: str, chosen: Wanted, at: str) -> Page:
    """The page behind or before the cursor in the address, or behind the picture ``at``, which is
    gone; if nothing is left there, the last page on the way to it."""
    after = request.args.get("after", "")
    before = request.args.get("before")
    if at:
        after = workflow().gallery.cursor(viewer, at, chosen.sort) or after
    found = workflow().pictures(viewer, chosen, after=after, before=before)
    if found.items or not found.total:
        return found
    return workflow().pictures(viewer, chosen, before="" if before is None else None)


def _from(opened: PictureView, viewer: str, chosen: Wanted) -> Page:
    """A page that begins with this picture, whether or not it is one of those wanted."""
    gallery = workflow().gallery
    cursor = gallery.cursor(viewer, opened.image_id, chosen.sort)
    rest = workflow().pictures(viewer, chosen, after=cursor, per_page=PER_PAGE - 1)
    items = [opened, *(one for one in rest.items if one.image_id != opened.image_id)]
    ahead = gallery.neighbour(viewer, chosen, opened.image_id, backwards=True)
    return Page(items, 0, rest.total, cursor if ahead else "", rest.older)


def _back(opened: PictureView, viewer: str, chosen: Wanted) -> PictureView | None:
    """The picture that was answered or left out last; from there on, the one before it."""
    image_id = request.args.get("back") or workflow().gallery.neighbour(
        viewer, replace(chosen, state=None), opened.image_id, backwards=True
    )
    return workflow().pictures_of([image_id], viewer).get(image_id)


def _releases(viewer: str) -> list[tuple[str, int, int]]:
    """What can be brought back: its name, how many pictures, and for how many minutes."""
    now = datetime.now(UTC)
    return [
        (one.moment, one.pictures, max(1, math.ceil((one.until - now).total_seconds() / 60)))
        for one in workflow().letting_go.releases(viewer)
    ]


def _download(image_ids: list[str], viewer: str, form: str) -> Response:
    """The chosen pictures as one of ``takeout.FORMS``, made while it is sent."""
    found = takeout.FORMS.get(form)
    if found is None:
        raise NotFound("There is no such form.")
    made = found.make(workflow(), image_ids, viewer, is_neutral())
    response = Response(made, mimetype=found.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{found.file_name}"'
    return response
