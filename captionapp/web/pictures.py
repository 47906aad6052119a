"""A picture's page, its bytes, and what its owner can do with it."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, redirect, render_template, send_file, url_for
from flask.typing import ResponseReturnValue

from captionapp.errors import NotFound
from captionapp.image_store import MEDIA_TYPE
from captionapp.web import history, identity
from captionapp.web.connection import client_gone
from captionapp.web.current import workflow
from captionapp.web.forms import AskForm, FeedbackForm
from captionapp.web.operator import is_operator
from captionapp.web.presenting import description_of, hint_of, served_version

blueprint = Blueprint("pictures", __name__, url_prefix="/images/<image_id>")

#: The address says everything about the bytes, so that they never change under it.
IMMUTABLE = "private, max-age=31536000, immutable"


@blueprint.get("")
def show(image_id: str) -> str:
    return page(image_id)


def page(
    image_id: str,
    form: FeedbackForm | None = None,
    problem: str = "",
    ask: AskForm | None = None,
    ask_problem: str = "",
) -> str:
    """The page of a picture; with ``form``, an answer that could not be kept, with ``ask``, a
    wish that could not be met, and why.

    Raises:
        NotFound: if this browser does not hold the picture and the operator is not asking.
    """
    viewer = viewer_of(image_id)
    view = workflow().picture(image_id, viewer)
    filled = form is not None
    if form is None:
        form = FeedbackForm(formdata=None)
    description = description_of(view, viewer)
    if not filled and description is not None:
        form.correction.data = "" if hint_of(view, description) else description.text
        form.caption_id.data = view.caption.id if view.caption else ""
    return render_template(
        "picture.html",
        view=view,
        description=description,
        form=form,
        problem=problem,
        ask=ask or AskForm.of(view.asked),
        ask_problem=ask_problem,
        served=served_version(),
        viewer=viewer,
    )


@blueprint.get("/file")
def file(image_id: str) -> Response:
    path = workflow().serve_file(image_id, viewer_of(image_id))
    return send_picture(path, MEDIA_TYPE, image_id)


@blueprint.get("/view")
def view(image_id: str) -> Response:
    path = workflow().serve_view(image_id, viewer_of(image_id))
    return send_picture(path, MEDIA_TYPE, f"{image_id}-view")


@blueprint.get("/thumbnail")
def thumbnail(image_id: str) -> Response:
    path = workflow().serve_thumbnail(image_id, viewer_of(image_id))
    return send_picture(path, "image/webp", f"{image_id}-small")


@blueprint.post("/delete")
def delete(image_id: str) -> ResponseReturnValue:
    if not workflow().letting_go.release([image_id], identity.contributor()):
        raise NotFound("There is no such picture, or it is not one of yours.")
    return history.beside(image_id)


@blueprint.post("/again")
def again(image_id: str) -> ResponseReturnValue:
    contributor = identity.contributor()
    workflow().again(image_id, contributor)
    workflow().wait(image_id, contributor, workflow().settings.wait_seconds, client_gone())
    return redirect(url_for("pictures.show", image_id=image_id), 303)


def viewer_of(image_id: str) -> str | None:
    """Who looks: this browser, or None for the operator, who sees everybody's pictures."""
    viewer = identity.contributor()
    if is_operator():
        try:
            workflow().records.held(image_id, viewer)
        except NotFound:
            return None
    return viewer


def send_picture(path: Path, media_type: str, stem: str) -> Response:
    """A stored file as an answer that may be kept. Raises NotFound if the file is gone."""
    try:
        response = send_file(
            path, mimetype=media_type, download_name=f"{stem}{path.suffix}", conditional=True
        )
    except FileNotFoundError as error:
        raise NotFound("The picture is no longer there.") from error
    response.headers["Content-Disposition"] = f'inline; filename="{stem}{path.suffix}"'
    response.headers["Cache-Control"] = IMMUTABLE
    return response
