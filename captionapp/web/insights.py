"""What the answers add up to, for the operator: tables, and charts drawn here."""

from __future__ import annotations

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from captionapp.feedback.insights import insights
from captionapp.web import charts
from captionapp.web.current import workflow
from captionapp.web.feedback import filtered
from captionapp.web.operator import require_operator

blueprint = Blueprint("insights", __name__)


@blueprint.get("/insights")
def show() -> ResponseReturnValue:
    require_operator()
    everything = workflow().feedback.rows()
    form, rows, problem = filtered(everything)
    found = insights(rows)
    shown = render_template(
        "insights.html",
        form=form,
        problem=problem,
        everything=len(everything),
        found=found,
        chart=charts.time_chart(found.periods),
        rate_bar=charts.rate_bar,
        count_bar=charts.count_bar,
    )
    return (shown, 422) if problem else shown
