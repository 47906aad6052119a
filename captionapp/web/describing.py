"""A picture described in another way: alternatives, a beginning, words to avoid, a length."""

from __future__ import annotations

from flask import Blueprint, make_response, redirect, url_for
from flask.typing import ResponseReturnValue

from captionapp.errors import InvalidOptions
from captionapp.web import identity, pictures
from captionapp.web.connection import client_gone
from captionapp.web.current import workflow
from captionapp.web.forms import AskForm, first_error
from captionapp.web.language import translated

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


def _form_again(image_id: str, form: AskForm, problem: str) -> ResponseReturnValue:
    """The page again with everything the person asked for still in the form."""
    return make_response(pictures.page(image_id, ask=form, ask_problem=problem), 422)
