"""A picture described in another way: alternatives, a beginning, words to avoid, a length."""

from __future__ import annotations

from flask import (
    Blueprint,
    Response,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue

from captionapp.errors import InvalidOptions
from captionapp.looking import most_unsure
from captionapp.web import identity, pictures
from captionapp.web.connection import client_gone
from captionapp.web.current import workflow
from captionapp.web.forms import AskForm, first_error
from captionapp.web.language import translated
from captionapp.web.paging import asked_number
from captionapp.web.presenting import NEUTRAL, served_version, shown_words

blueprint = Blueprint("describing", __name__, url_prefix="/images/<image_id>")


@blueprint.post("/describe")
def ask(image_id: str) -> ResponseReturnValue:
    form = AskForm()
    contributor = identity.contributor()
    try:
        if not form.validate_on_submit():
            return _form_again(image_id, form, first_error(form))
        options = workflow().settings.decode_options(**form.wishes())
    except InvalidOptions as error:
        return _form_again(image_id, form, translated(error))
    workflow().describe(image_id, contributor, options)
    workflow().wait(image_id, contributor, workflow().settings.wait_seconds, client_gone())
    return redirect(url_for("pictures.show", image_id=image_id, _anchor="alternatives"), 303)


@blueprint.post("/neutral")
def neutral(image_id: str) -> ResponseReturnValue:
    """Have descriptions shown to this browser with guesses at gender, or without."""
    session[NEUTRAL] = bool(request.form.get("neutral"))
    return redirect(url_for("pictures.show", image_id=image_id), 303)


@blueprint.get("/captions/<caption_id>/attention/<int:word>.png")
def attention(image_id: str, caption_id: str, word: int) -> Response:
    """Where the model looked, to be laid over the picture."""
    veil = workflow().serve_veil(image_id, pictures.viewer_of(image_id), caption_id, word)
    response = make_response(veil)
    response.headers["Content-Type"] = "image/png"
    response.headers["Cache-Control"] = pictures.IMMUTABLE
    return response


@blueprint.get("/captions/<caption_id>/why")
def why(image_id: str, caption_id: str) -> str:
    """The words of a caption, how sure the model was of each, and where it looked: the page that
    hovering shows without going there."""
    viewer = pictures.viewer_of(image_id)
    view = workflow().picture(image_id, viewer)
    caption = workflow().captions.get(image_id, caption_id)
    words = shown_words(caption)
    beginning = most_unsure([word.probability for word in words])
    place = asked_number("word", words[beginning].place if words else 0)
    chosen = next((i for i, word in enumerate(words) if word.place >= place), len(words) - 1)
    return render_template(
        "why.html",
        view=view,
        caption=caption,
        words=words,
        chosen=chosen,
        served=served_version(),
    )


def _form_again(image_id: str, form: AskForm, problem: str) -> ResponseReturnValue:
    """The page again with everything the person asked for still in the form."""
    return make_response(pictures.page(image_id, ask=form, ask_problem=problem), 422)
