"""``/compare``: which of two captions is better, asked without saying whose they are."""

from __future__ import annotations

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext

from captionapp.comparison import Comparison
from captionapp.errors import NotFound, UnknownVersion
from captionapp.votes import Choice, Tally, Votes
from captionapp.web import identity
from captionapp.web.current import workflow
from captionapp.web.forms import VoteForm, first_error
from captionapp.web.models import newest_comparable, version_rows
from captionapp.web.operator import require_operator

blueprint = Blueprint("compare", __name__, url_prefix="/compare")


@blueprint.get("")
def show() -> str:
    require_operator()
    rows, _ = version_rows()
    asked = request.args.get("version", "")
    if asked:
        comparison = _comparison(asked)
    else:
        newest = newest_comparable(rows)
        comparison = _comparison(newest.version.name) if newest else None
    pair = next(comparison.left(_is_there), None) if comparison else None
    return render_template(
        "compare.html",
        comparison=comparison,
        pair=pair,
        asked=asked,
        tally=_tally(comparison) if comparison and not pair else None,
    )


@blueprint.post("")
def vote() -> ResponseReturnValue:
    require_operator()
    form = VoteForm()
    asked = request.args.get("version") or None
    back = redirect(url_for("compare.show", version=asked), 303)
    if not form.validate_on_submit():
        flash(first_error(form), "problem")
        return back
    comparison = _comparison(form.candidate.data)
    pair = comparison.pair(form.image_id.data) if comparison else None
    if comparison is None or pair is None or comparison.mark != form.mark.data:
        flash(
            gettext(
                "The versions have been evaluated again in the meantime; that vote was not kept."
            ),
            "problem",
        )
        return back
    comparison.votes.cast(
        pair.image_id,
        pair.version_a,
        pair.version_b,
        Choice(form.choice.data),
        identity.contributor(),
    )
    flash(gettext("Your vote is kept."), "done")
    return back


def _comparison(name: str) -> Comparison | None:
    """Of this version's report; None if it has none."""
    try:
        report = workflow().promotion.report(name)
    except UnknownVersion as error:
        raise NotFound(str(error)) from error
    if report is None:
        return None
    key = str(current_app.config["SECRET_KEY"])
    return Comparison(report, Votes(workflow().records), identity.contributor(), key)


def _is_there(image_id: str) -> bool:
    try:
        workflow().serve_file(image_id, None)
    except NotFound:
        return False
    return True


def _tally(comparison: Comparison) -> Tally:
    return comparison.votes.tally(comparison.report.candidate, comparison.report.current)
