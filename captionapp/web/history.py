"""The gallery: the pictures of this browser, and what it can do with many of them."""

from __future__ import annotations

import math
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
from captionapp.web.forms import ButtonForm, FeedbackForm, first_error
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
    if opened:
        pictures = _from(opened, viewer, chosen)
    elif valid:
        pictures = _page(viewer, chosen, wanted.place())
    else:  # nothing: all pictures would be taken for the answer to what was asked
        pictures = Page([], 0, 0, "", "")
    counts = workflow().gallery.counts(viewer)
    shown = render_template(
        "history.html",
        pictures=pictures,
        opened=opened.image_id if opened else "",
        back=_back(viewer),
        answer=form,
        problem=problem,
        asked=asked,
        place=wanted.place(),
        filter_problem="" if valid else first_error(asked),
        states=STATES,
        counts={"": sum(counts.values())} | {state.value: n for state, n in counts.items()},
        releases=_releases(viewer),
        viewer=viewer,
        button=ButtonForm(formdata=None),
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
        viewer=viewer,
        button=ButtonForm(formdata=None),
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
    back = redirect(url_for("history.show", **asked.arguments(**wanted.place())), 303)
    if not chosen:
        flash(gettext("Choose some pictures first."), "problem")
        return back
    if request.form.get("do") == "delete":
        workflow().letting_go.release(chosen, viewer)
        return back
    return _download(chosen, viewer, request.form.get("form", ""))


@blueprint.post("/history/undo")
def undo() -> ResponseReturnValue:
    """Takes back what was let go of together."""
    moment = request.form.get("moment", "")
    if not workflow().letting_go.take_back(identity.contributor(), moment):
        flash(gettext("It is too late to bring these back."), "problem")
    arguments = wanted.asked().arguments(**wanted.place())
    return redirect(url_for("history.show", **arguments), 303)


def _page(viewer: str, chosen: Wanted, place: dict[str, str]) -> Page:
    """The page at this place; if all that was there has gone, the last one on the way to it."""
    found = workflow().pictures(viewer, chosen, **place)  # type: ignore[arg-type]
    if found.items or not found.total:
        return found
    return workflow().pictures(viewer, chosen, before=None if "before" in place else "")


def _from(opened: PictureView, viewer: str, chosen: Wanted) -> Page:
    """A page that begins with this picture, whether or not it is one of those wanted."""
    gallery = workflow().gallery
    cursor = gallery.cursor(viewer, opened.image_id, chosen.sort)
    rest = workflow().pictures(viewer, chosen, after=cursor, per_page=PER_PAGE - 1)
    items = [opened, *(one for one in rest.items if one.image_id != opened.image_id)]
    ahead = gallery.page(viewer, chosen, before=cursor, limit=1).image_ids
    return Page(items, 0, rest.total, cursor if ahead else "", rest.older)


def _back(viewer: str) -> PictureView | None:
    """The picture that was answered or left out last."""
    image_id = request.args.get("back", "")
    return workflow().pictures_of([image_id], viewer).get(image_id) if image_id else None


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
