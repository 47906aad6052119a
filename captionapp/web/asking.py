"""``/feedback/next``: the pictures where an answer helps most, one after the other."""

from __future__ import annotations

from flask import Blueprint, Response, flash, make_response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext, ngettext

from captionapp import asking
from captionapp.caption_records import CaptionRecord
from captionapp.errors import FeedbackStoreError, InvalidFeedback, ModelUnavailable, NotFound
from captionapp.feedback.repository import Verdict
from captionapp.image_store import MEDIA_TYPE
from captionapp.web import errors, identity
from captionapp.web.current import workflow
from captionapp.web.forms import NextForm, first_error
from captionapp.web.language import translated
from captionapp.web.operator import require_operator
from captionapp.web.paging import asked_number
from captionapp.web.pictures import send_picture
from captionapp.web.presenting import as_shown, is_neutral

blueprint = Blueprint("asking", __name__, url_prefix="/feedback")

#: Pictures that one click has described; they share the queue with what people upload.
DESCRIBED_AT_ONCE = 16


@blueprint.get("/next")
def show() -> str:
    require_operator()
    questions = asking.least_sure(workflow())
    skip = asked_number("skip", 0)
    return _page(questions[skip:], skip, len(questions))


@blueprint.post("/next")
def answer() -> ResponseReturnValue:
    require_operator()
    form = NextForm()
    try:
        if not form.validate_on_submit():
            raise InvalidFeedback(first_error(form))
        row = workflow().answers.give(
            form.image_id.data,
            identity.contributor(),
            form.caption_id.data,
            form.verdict.data,
            form.correction.data or "",
            form.reasons.data or [],
            by_operator=True,
            shown_neutral=is_neutral(),
        )
    except InvalidFeedback as error:
        return _form_again(form, translated(error), 422)
    except FeedbackStoreError as error:
        response = _form_again(
            form, gettext("%(problem)s Your answer was not kept.", problem=translated(error)), 503
        )
        response.headers["Retry-After"] = str(errors.retry_after(error))
        return response
    accepted = row.verdict is Verdict.ACCEPTED
    flash(
        gettext("Noted: it is right. Next.")
        if accepted
        else gettext("Your description is kept. Next."),
        "done",
    )
    return redirect(url_for("asking.show", skip=form.skip.data or None), 303)


@blueprint.post("/next/describe")
def describe() -> ResponseReturnValue:
    require_operator()
    try:
        queued = asking.describe(workflow(), DESCRIBED_AT_ONCE)
    except ModelUnavailable as error:
        flash(translated(error), "problem")
    else:
        news = ngettext(
            "One picture is being described. Look again in a moment.",
            "%(num)s pictures are being described. Look again in a moment.",
            queued,
        )
        flash(news, "done")
    return redirect(url_for("asking.show"), 303)


@blueprint.get("/pictures/<image_id>")
def picture(image_id: str) -> Response:
    """Any stored picture. Unlike the page of a browser's own it asks for the password, which a
    browser then sends by itself, wherever the operator logged in."""
    require_operator()
    return send_picture(workflow().serve_file(image_id, None), MEDIA_TYPE, image_id)


@blueprint.get("/pictures/<image_id>/view")
def view(image_id: str) -> Response:
    """Any stored picture, in the size of a page."""
    require_operator()
    return send_picture(workflow().serve_view(image_id, None), MEDIA_TYPE, f"{image_id}-view")


@blueprint.get("/pictures/<image_id>/thumbnail")
def thumbnail(image_id: str) -> Response:
    """Any stored picture, small."""
    require_operator()
    path = workflow().serve_thumbnail(image_id, None)
    return send_picture(path, "image/webp", f"{image_id}-small")


def _form_again(form: NextForm, problem: str, status: int) -> Response:
    """The picture again, with everything that was written still in the form."""
    caption = workflow().captions.get(form.image_id.data or "", form.caption_id.data or "")
    left = len(asking.least_sure(workflow()))
    return make_response(_page([caption], form.skip.data or 0, left, form, problem), status)


def _page(
    questions: list[CaptionRecord],
    skip: int,
    left: int,
    form: NextForm | None = None,
    problem: str = "",
) -> str:
    """The first of the questions whose picture is still there."""
    for number, caption in enumerate(questions, start=skip):
        try:
            held = workflow().records.held(caption.image_id, None)
        except NotFound:
            continue
        if form is None:
            form = NextForm(formdata=None)
            form.correction.data = "" if held.hint else as_shown(caption)
        return render_template(
            "next.html",
            caption=caption,
            held=held,
            skip=number,
            left=left,
            form=form,
            problem=problem,
            undescribed=len(asking.undescribed(workflow())),
            at_once=DESCRIBED_AT_ONCE,
        )
    return render_template(
        "next.html",
        caption=None,
        skip=skip,
        left=left,
        undescribed=len(asking.undescribed(workflow())),
        at_once=DESCRIBED_AT_ONCE,
    )
