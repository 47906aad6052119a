"""What people answer, and the operator's view of the answers."""

from __future__ import annotations

import io
import math

from flask import (
    Blueprint,
    Response,
    flash,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_babel import gettext
from wtforms import SelectChoice

from captionapp.errors import FeedbackStoreError, InvalidFeedback
from captionapp.feedback.repository import FeedbackRow, Verdict
from captionapp.web import errors, history, identity, pictures, wanted
from captionapp.web.current import workflow
from captionapp.web.forms import FeedbackForm, FilterForm, first_error
from captionapp.web.language import translated
from captionapp.web.operator import require_operator
from captionapp.web.paging import asked_page
from captionapp.web.presenting import is_neutral

blueprint = Blueprint("feedback", __name__)

ROWS_PER_PAGE = 50


@blueprint.post("/images/<image_id>/feedback")
def give(image_id: str) -> ResponseReturnValue:
    form = FeedbackForm()
    if not form.validate_on_submit():
        return _form_again(image_id, form, first_error(form), 422)
    try:
        row = workflow().answers.give(
            image_id,
            identity.contributor(),
            form.caption_id.data,
            form.verdict.data,
            form.correction.data or "",
            form.reasons.data or [],
            shown_neutral=is_neutral(),
        )
    except InvalidFeedback as error:
        return _form_again(image_id, form, translated(error), 422)
    except FeedbackStoreError as error:
        response = _form_again(
            image_id,
            form,
            gettext("%(problem)s Your answer was not kept.", problem=translated(error)),
            503,
        )
        response.headers["Retry-After"] = str(errors.retry_after(error))
        return response
    if request.args.get("then") == "next":
        arguments = wanted.asked().arguments(after=image_id)
        return redirect(url_for("history.following", **arguments), 303)
    if row.verdict is Verdict.ACCEPTED:
        flash(gettext("Thank you. It is noted that the description is right."), "done")
    else:
        flash(gettext("Thank you. Your description is kept and will be shown from now on."), "done")
    return redirect(url_for("pictures.show", image_id=image_id), 303)


def _form_again(image_id: str, form: FeedbackForm, problem: str, status: int) -> Response:
    """The page again with everything the person wrote still in the form."""
    if request.args.get("then") == "next":
        return make_response(history.page(image_id, form, problem), status)
    return make_response(pictures.page(image_id, form, problem), status)


@blueprint.get("/feedback")
def table() -> ResponseReturnValue:
    require_operator()
    everything = workflow().feedback.rows()
    form, rows, problem = filtered(everything)
    rows.reverse()
    pages = max(1, math.ceil(len(rows) / ROWS_PER_PAGE))
    page = min(asked_page(), pages)
    shown = render_template(
        "feedback.html",
        form=form,
        problem=problem,
        rows=rows[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE],
        page=page,
        pages=pages,
        total=len(rows),
        everything=len(everything),
    )
    return (shown, 422) if problem else shown


@blueprint.get("/feedback/download")
def download() -> ResponseReturnValue:
    """The rows for a spreadsheet: nothing in it runs as a formula, and Excel reads it as UTF-8."""
    require_operator()
    _, rows, problem = filtered(workflow().feedback.rows())
    if problem:
        return errors.render_error(422, problem)
    text = io.StringIO(newline="")
    workflow().feedback.write_for_spreadsheets(text, rows)
    response = make_response(text.getvalue().encode("utf-8-sig"))
    response.headers["Content-Type"] = "text/csv; charset=utf-8"
    response.headers["Content-Disposition"] = 'attachment; filename="feedback.csv"'
    return response


def filtered(rows: list[FeedbackRow]) -> tuple[FilterForm, list[FeedbackRow], str]:
    """The filter that the address asks for, the rows that it keeps, and what is wrong with it.

    One that cannot be understood keeps nothing: all rows would be taken for the answer to it.
    """
    form = FilterForm(request.args)
    names = dict.fromkeys(row.model_version for row in rows)
    form.version.choices = [
        SelectChoice("", gettext("any")),
        *(SelectChoice(name, name) for name in names if name),
    ]
    if not form.validate():
        return form, [], first_error(form)
    return form, form.chosen().of(rows), ""
