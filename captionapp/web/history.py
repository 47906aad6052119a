"""The pictures of this browser."""

from __future__ import annotations

from flask import Blueprint, render_template

from captionapp.web import identity
from captionapp.web.current import workflow
from captionapp.web.forms import ButtonForm
from captionapp.web.paging import asked_page

blueprint = Blueprint("history", __name__)


@blueprint.get("/history")
def show() -> str:
    viewer = identity.contributor()
    return render_template(
        "history.html",
        pictures=workflow().pictures(viewer, asked_page()),
        viewer=viewer,
        button=ButtonForm(),
    )
