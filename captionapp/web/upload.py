"""The first page, and the pictures it sends."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, session, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext, ngettext
from werkzeug.datastructures import FileStorage

from captionapp.errors import InvalidOptions
from captionapp.results import IncomingFile, Rejected
from captionapp.web import identity
from captionapp.web.current import workflow
from captionapp.web.forms import UploadForm, first_error
from captionapp.web.language import translated

blueprint = Blueprint("upload", __name__)

#: Reasons travel to the next page in the session cookie, which holds 4 kB.
MAX_FLASHED = 5


@blueprint.get("/")
def form() -> ResponseReturnValue:
    identity.contributor()  # uploads sent side by side are those of one browser
    return _page(UploadForm(), [])


@blueprint.post("/captions")
def describe() -> ResponseReturnValue:
    upload_form = UploadForm()
    if not upload_form.validate_on_submit():
        return _page(upload_form, [first_error(upload_form)]), 422
    files = upload_form.images.data or []
    limit = workflow().settings.max_files
    if not files:
        message = gettext("Choose at least one picture, then send the form again.")
        return _page(upload_form, [message]), 422
    if len(files) > limit:
        message = gettext(
            "At most %(most)s pictures can be sent at a time; these were %(count)s.",
            most=limit,
            count=len(files),
        )
        return _page(upload_form, [message]), 422

    contributor = identity.contributor()
    try:
        submission = workflow().submit(
            [_incoming(file) for file in files], contributor, upload_form.prompt.data or ""
        )
    except InvalidOptions as error:
        return _page(upload_form, [translated(error)]), 422
    if not submission.accepted:
        return _page(upload_form, [_sentence(rejected) for rejected in submission.rejected]), 422

    identity.renew()
    _flash(submission.rejected)
    if len(submission.accepted) > 1:
        return redirect(url_for("history.show"), 303)
    image_id = submission.accepted[0]
    workflow().wait(image_id, contributor, workflow().settings.wait_seconds)
    return redirect(url_for("pictures.show", image_id=image_id), 303)


def _page(upload_form: UploadForm, problems: list[str]) -> str:
    return render_template(
        "upload.html", form=upload_form, problems=problems, settings=workflow().settings
    )


def _incoming(file: FileStorage) -> IncomingFile:
    """A file that is read when its turn comes, and never much further than its limit."""
    most = workflow().settings.max_file_mb * 1_000_000 + 1
    return IncomingFile(file.filename or "", lambda: file.stream.read(most))


def _sentence(rejected: Rejected) -> str:
    return f"{rejected.name}: {translated(rejected.reason)}"


def _flash(rejected: list[Rejected]) -> None:
    session.pop("_flashes", None)  # messages nobody has read would outgrow the cookie
    for one in rejected[:MAX_FLASHED]:
        flash(_sentence(one), "problem")
    if len(rejected) > MAX_FLASHED:
        more = ngettext(
            "One more file could not be used either.",
            "%(num)s more files could not be used either.",
            len(rejected) - MAX_FLASHED,
        )
        flash(more, "problem")
