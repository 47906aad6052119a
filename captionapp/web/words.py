"""What pages call the values that the domain names: kinds, outcomes, periods."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from flask_babel import format_date, gettext, lazy_gettext
from flask_babel.speaklater import LazyString
from markupsafe import Markup

from captionapp.feedback.insights import Period
from captionapp.feedback.repository import Reason

REASON_LABELS: Mapping[Reason, LazyString] = {
    Reason.INACCURATE: lazy_gettext("inaccurate"),
    Reason.ASSUMPTIVE: lazy_gettext("assumes too much"),
    Reason.MISSING_DETAILS: lazy_gettext("misses details"),
    Reason.TOO_LONG: lazy_gettext("too long"),
    Reason.HARD_TO_READ: lazy_gettext("hard to read"),
    Reason.WRONG_TONE: lazy_gettext("wrong tone"),
}

#: ``ModelVersion.origin``
ORIGINS: Mapping[str, LazyString] = {
    "shipped": lazy_gettext("shipped"),
    "pulled": lazy_gettext("pulled"),
    "trained": lazy_gettext("trained"),
    "local": lazy_gettext("a folder"),
    "hub cache": lazy_gettext("from the hub’s cache"),
}

#: ``details["data"]`` of a trained version
KINDS: Mapping[str, LazyString] = {
    "corrected": lazy_gettext("corrected"),
    "watched": lazy_gettext("watched"),
    "accepted": lazy_gettext("accepted"),
    "unanswered": lazy_gettext("unanswered"),
    "retained": lazy_gettext("retained"),
    "held_out": lazy_gettext("held out"),
}

#: ``Report.slices``
SLICES: Mapping[str, LazyString] = {
    "accepted before": lazy_gettext("accepted before"),
    "corrected": lazy_gettext("corrected"),
    "low contrast": lazy_gettext("low contrast"),
    "people": lazy_gettext("people"),
    "counts": lazy_gettext("counts"),
}

#: ``Insights.unit``: its name, and the heading of what is told by it
UNITS: Mapping[str, tuple[LazyString, LazyString]] = {
    "day": (lazy_gettext("Day"), lazy_gettext("Accepted, by day")),
    "week": (lazy_gettext("Week"), lazy_gettext("Accepted, by week")),
    "month": (lazy_gettext("Month"), lazy_gettext("Accepted, by month")),
    "year": (lazy_gettext("Year"), lazy_gettext("Accepted, by year")),
}


def verdict(judgement: str, other: str) -> Markup:
    """A report's judgement as a sentence that names the ``other`` version."""
    name = Markup("<code>{}</code>").format(other)
    if judgement == "better":
        said = gettext("Better than %(other)s.", other=name)
    elif judgement == "not better":
        said = gettext("Not better than %(other)s.", other=name)
    else:
        said = gettext("It cannot be told whether it is better than %(other)s.", other=name)
    return Markup(said)


def period(its: Period, unit: str) -> str:
    """What a day, week, month or year is called."""
    if unit == "day":
        return str(format_date(its.first, "medium"))
    if unit == "week":
        return gettext("from %(day)s", day=format_date(its.first, "medium"))
    return str(format_date(its.first, "LLLL y" if unit == "month" else "y"))


def init_app(app: Flask) -> None:
    """Makes them known to the templates."""
    app.jinja_env.filters["period"] = period
    app.jinja_env.globals.update(
        verdict=verdict,
        reason_labels=REASON_LABELS,
        origins=ORIGINS,
        kinds=KINDS,
        slices=SLICES,
        units=UNITS,
    )
