"""The first page, and the pictures it sends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask import Blueprint, flash, jsonify, redirect, render_template, session, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext, ngettext
from werkzeug.datastructures import FileStorage

from captionapp.errors import AddressRefused, InvalidOptions
from captionapp.results import IncomingFile, Rejected, Submission
from captionapp.web import identity
from captionapp.web.connection import client_gone
from captionapp.web.current import workflow
from captionapp.web.errors import prefers_json, render_error
from captionapp.web.examples import EXAMPLES
from captionapp.web.forms import UploadForm, first_error
from captionapp.web.intake import card
from captionapp.web.language import translated

if TYPE_CHECKING:
    from captionapp.addresses import PictureFetcher

blueprint = Blueprint("upload", __name__)

#: Reasons travel to the next page in the session cookie, which holds 4 kB.
MAX_FLASHED = 5


@blueprint.get("/")
def form() -> ResponseReturnValue:
    identity.contributor()  # uploads sent side by side are those of one browser
    identity.renew()
    return _page(UploadForm(), [])


@blueprint.post("/captions")
def describe() -> ResponseReturnValue:
    upload_form = UploadForm()
    if not upload_form.validate_on_submit():
        return _refused(upload_form, [first_error(upload_form)])
    files = _given(upload_form)
    limit = workflow().settings.max_files
    if not files:
        message = gettext("Choose at least one picture, then send the form again.")
        return _refused(upload_form, [message])
    if len(files) > limit:
        message = gettext(
            "At most %(most)s pictures can be sent at a time; these were %(count)s.",
            most=limit,
            count=len(files),
        )
        return _refused(upload_form, [message])

    contributor = identity.contributor()
    try:
        submission = workflow().submit(files, contributor, upload_form.prompt.data or "")
    except InvalidOptions as error:
        return _refused(upload_form, [translated(error)])
    ticket = upload_form.ticket()
    if ticket:
        workflow().arrivals.note(contributor, ticket, submission)
    if not submission.accepted:
        say = _reason if prefers_json() else _sentence
        return _refused(upload_form, [say(rejected) for rejected in submission.rejected])
    if prefers_json():
        found = workflow().pictures_of(submission.accepted, contributor)
        cards = [card(one, found.get(one), contributor) for one in submission.accepted]
        return jsonify(pictures=cards), 202
    return _to_next_page(submission, contributor)


def _to_next_page(submission: Submission, contributor: str) -> ResponseReturnValue:
    identity.renew()
    _flash(submission.rejected)
    if len(submission.accepted) > 1:
        return redirect(url_for("history.show"), 303)
    image_id = submission.accepted[0]
    workflow().wait(image_id, contributor, workflow().settings.wait_seconds, client_gone())
    return redirect(url_for("pictures.show", image_id=image_id), 303)


def _refused(upload_form: UploadForm, problems: list[str]) -> ResponseReturnValue:
    if prefers_json():
        return render_error(422, " ".join(problems))
    return _page(upload_form, problems), 422


def _page(upload_form: UploadForm, problems: list[str]) -> str:
    return render_template(
        "upload.html",
        form=upload_form,
        problems=problems,
        settings=workflow().settings,
        examples=EXAMPLES.values(),
    )


def _given(upload_form: UploadForm) -> list[IncomingFile]:
    """What the form brings: an address first, since it may turn out that nobody can fetch it now,
    and then nothing is to have been stored."""
    given = []
    fetcher, address = workflow().fetcher, (upload_form.address.data or "").strip()
    if fetcher is not None and address:
        given.append(_fetched(fetcher, address))
    example = EXAMPLES.get(upload_form.example.data or "")
    if example is not None:
        given.append(IncomingFile(str(example.label), example.read))
    return given + [_incoming(file) for file in upload_form.images.data or []]


def _fetched(fetcher: PictureFetcher, address: str) -> IncomingFile:
    """A picture from the web, fetched here: no place in the queue is kept while that takes its
    time. Why it is refused is said as of any other file."""
    name = fetcher.name_of(address)
    try:
        data = fetcher.fetch(address)
    except AddressRefused as error:
        return IncomingFile(name, partial(_refuse, error))
    return IncomingFile(name, lambda: data)


def _refuse(error: AddressRefused) -> bytes:
    raise error


def _incoming(file: FileStorage) -> IncomingFile:
    """A file that is read when its turn comes, and never much further than its limit."""
    most = workflow().settings.max_file_mb * 1_000_000 + 1
    return IncomingFile(file.filename or "", lambda: file.stream.read(most))


def _sentence(rejected: Rejected) -> str:
    return f"{rejected.name}: {_reason(rejected)}"


def _reason(rejected: Rejected) -> str:
    return translated(rejected.reason)


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
