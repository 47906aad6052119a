"""The pictures of this browser."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext

from captionapp.web import identity
from captionapp.web.current import workflow
from captionapp.web.forms import ButtonForm

blueprint = Blueprint("history", __name__)


@blueprint.get("/history")
def show() -> str:
    viewer = identity.contributor()
    page = workflow().pictures(
        viewer, after=request.args.get("after", ""), before=request.args.get("before")
    )
    return render_template(
        "history.html",
        pictures=page,
        releases=workflow().letting_go.releases(viewer),
        viewer=viewer,
        button=ButtonForm(),
    )


@blueprint.post("/history/undo")
def undo() -> ResponseReturnValue:
    """Takes back what was let go of together."""
    moment = request.form.get("moment", "")
    back = workflow().letting_go.take_back(identity.contributor(), moment)
    if not back:
        flash(gettext("It is too late to bring these back."), "problem")
    return redirect(url_for("history.show"), 303)
