"""Versions, for the operator: where they come from, what they are worth, which one is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import format_percent, gettext, lazy_gettext
from flask_babel.speaklater import LazyString

from captionapp.captioning.pointer import PointerChange
from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable, PromotionRefused, TaskBusy
from captionapp.feedback.insights import Share, share
from captionapp.training.compare import Outcome, Report
from captionapp.training.evaluate import MEASURES, Measure
from captionapp.training.job import unfinished
from captionapp.version_tasks import Task, TaskState, VersionTasks
from captionapp.votes import Tally, Votes
from captionapp.web import training
from captionapp.web.current import workflow
from captionapp.web.forms import ForceForm, first_error
from captionapp.web.language import translated
from captionapp.web.operator import require_operator
from captionapp.web.paging import asked_page
from captionapp.web.presenting import number

blueprint = Blueprint("models", __name__, url_prefix="/models")

RESULTS_PER_PAGE = 12
CHANGES_SHOWN = 12


OUTCOMES: dict[str, tuple[Outcome, LazyString]] = {
    "wins": ("win", lazy_gettext("Wins")),
    "losses": ("loss", lazy_gettext("Losses")),
    "ties": ("tie", lazy_gettext("Ties")),
}


@dataclass(frozen=True)
class Row:
    """A version as a page shows it. ``standing`` is ``current``, ``previous`` (what a rollback
    returns to) or empty; ``why`` says why it is current."""

    version: ModelVersion
    standing: str
    why: str
    report: Report | None


@blueprint.get("")
def table() -> str:
    require_operator()
    rows, problem = version_rows()
    runs = training.runs()
    state = runs.latest()
    return render_template(
        "models.html",
        rows=list(reversed(rows)),
        problem=problem,
        run=state,
        shown=training.described(state) if state else None,
        resumable=next(iter(unfinished(runs)), None),
        answers=_latest_answers(),
        settings=workflow().settings,
        changes=_moves(_changes())[: -CHANGES_SHOWN - 1 : -1],
    )


@blueprint.get("/<version>")
def show(version: str) -> str:
    require_operator()
    rows, problem = version_rows()
    row = _row(rows, version)
    chosen, label = OUTCOMES.get(request.args.get("show", ""), OUTCOMES["wins"])
    results = row.report.of(chosen) if row.report else []
    pages = max(1, -(-len(results) // RESULTS_PER_PAGE))
    page = min(asked_page(), pages)
    task = _task_of(version)
    return render_template(
        "model.html",
        row=row,
        problem=problem,
        lineage=_lineage(rows, row),
        figures=[shown(measure) for measure in MEASURES],
        outcomes=OUTCOMES,
        chosen=chosen,
        label=label,
        results=results[(page - 1) * RESULTS_PER_PAGE : page * RESULTS_PER_PAGE],
        page=page,
        pages=pages,
        tally=_tally(row.report),
        task=task,
        succeeded=task is not None and _succeeded(task, row.report),
        settings=workflow().settings,
    )


@blueprint.post("/<version>/evaluate")
def evaluate(version: str) -> ResponseReturnValue:
    require_operator()
    workflow().versions.get(version)
    if version == _current_name():
        flash(_current_already(version), "problem")
    else:
        _start(Task.EVALUATE, version)
    return redirect(url_for("models.show", version=version), 303)


@blueprint.get("/<version>/promote")
def confirm_promotion(version: str) -> str:
    require_operator()
    return _promotion_page(version, ForceForm(formdata=None))


@blueprint.post("/<version>/promote")
def promote(version: str) -> ResponseReturnValue:
    """Ask the gate; with the field ``force``, override it, which takes a written reason."""
    require_operator()
    workflow().versions.get(version)
    reason = ""
    if "force" in request.form:
        form = ForceForm()
        if not form.validate_on_submit():
            return make_response(_promotion_page(version, form, first_error(form)), 422)
        reason = form.reason.data
    _start(Task.PROMOTE, version, reason)
    return redirect(url_for("models.show", version=version), 303)


@blueprint.get("/rollback")
def confirm_rollback() -> str:
    require_operator()
    return render_template("rollback.html", last=_last_change())


@blueprint.post("/rollback")
def rollback() -> ResponseReturnValue:
    """Only from the version that the page named: two clicks must not go back twice."""
    require_operator()
    try:
        change = workflow().promotion.rollback(leave=request.form.get("from", ""))
    except PromotionRefused as error:
        flash(translated(error), "problem")
    except OSError as error:
        why = error.strerror or error
        flash(gettext("The rollback could not be stored: %(why)s.", why=why), "problem")
    else:
        news = gettext(
            "%(version)s is the current version again. Workers follow at once.",
            version=change.version,
        )
        flash(news, "done")
    return redirect(url_for("models.table"), 303)


def version_rows() -> tuple[list[Row], str]:
    """All versions, oldest first, and what is wrong if none can be served."""
    flow = workflow()
    problem = ""
    try:
        current, last = flow.versions.current().name, flow.versions.pointer.last()
    except ModelUnavailable as error:
        current, last, problem = "", None, translated(error)
    rows = [
        Row(
            version=version,
            standing=_standing(version, current, last),
            why=_why(last) if version.name == current else "",
            report=flow.promotion.report_of(version),
        )
        for version in flow.versions.list_with_current()
    ]
    return rows, problem


def shown(measure: Measure) -> tuple[str, str, Callable[[float], str], bool | None]:
    """A figure as the page shows it: label, field, format, whether more is better."""
    form: Callable[[float], str] = partial(number, digits=measure.decimals)
    if measure.share:
        form = partial(format_percent, format=f"0.{'0' * measure.decimals}%")
    return translated(measure.label), measure.field, form, measure.more_is_better


def newest_comparable(rows: list[Row]) -> Row | None:
    """The newest version that has been compared with the current one, else with any other."""
    current = next((row.version.name for row in rows if row.standing == "current"), "")
    compared = [row for row in rows if row.report]
    with_current = [row for row in compared if row.report and row.report.current == current]
    return next(reversed(with_current or compared), None)


def _row(rows: list[Row], name: str) -> Row:
    for row in rows:
        if row.version.name == name:
            return row
    workflow().versions.get(name)  # raises UnknownVersion
    raise AssertionError(f"{name} was made this very moment")


def _standing(version: ModelVersion, current: str, last: PointerChange | None) -> str:
    if version.name == current:
        return "current"
    return "previous" if last is not None and version.name == last.previous else ""


def _why(last: PointerChange | None) -> str:
    setting = workflow().settings.model
    if setting:
        return gettext("because CAPTIONAPP_MODEL names it")
    if last is None:
        return gettext("because none was promoted yet")
    return gettext("forced: %(reason)s", reason=last.reason) if last.forced else last.reason


def _lineage(rows: list[Row], row: Row) -> list[str]:
    """Names from the first ancestor that is known to this version."""
    parents = {one.version.name: one.version.parent for one in rows}
    chain = [row.version.name]
    while (parent := parents.get(chain[0], "")) and parent not in chain:
        chain.insert(0, parent)
    return chain


def _tally(report: Report | None) -> Tally | None:
    """Votes as they are now; those of the report were counted when it was made."""
    if report is None:
        return None
    return Votes(workflow().records).tally(report.candidate, report.current)


def _latest_answers() -> Share:
    """Accepted and all of the pictures that have an answer; the last one of each counts."""
    latest = {row.image_id: row for row in workflow().feedback.rows()}
    return share(list(latest.values()))


def _changes() -> list[PointerChange]:
    try:
        return workflow().promotion.history()
    except ModelUnavailable:  # the page says so already
        return []


def _moves(changes: list[PointerChange]) -> list[tuple[PointerChange, str]]:
    """Each change with the version that was served until then. Of a rollback that is another than
    ``previous``, to which the next one would lead."""
    before = [change.version for change in changes]
    return [*zip(changes, [changes[0].previous, *before[:-1]], strict=True)] if changes else []


def _last_change() -> PointerChange | None:
    changes = _changes()
    return changes[-1] if changes and changes[-1].previous else None


def _tasks() -> VersionTasks:
    return VersionTasks(workflow().settings.instance)


def _task_of(version: str) -> TaskState | None:
    state = _tasks().latest()
    return state if state is not None and state.version == version else None


def _succeeded(task: TaskState, report: Report | None) -> bool:
    """Whether what the task was for has happened since it was begun."""
    if task.task is Task.EVALUATE:
        return report is not None and report.created_at >= task.started_at
    return any(
        change.version == task.version and change.at >= task.started_at for change in _changes()
    )


def _start(task: Task, version: str, reason: str = "") -> None:
    try:
        _tasks().start(task, version, reason)
    except TaskBusy as error:
        flash(translated(error), "problem")
    except OSError as error:
        flash(_not_started(error), "problem")


def _promotion_page(version: str, form: ForceForm, problem: str = "") -> str:
    rows, _ = version_rows()
    row = _row(rows, version)
    if row.standing == "current":
        problem = problem or _current_already(version)
    current = next((one.version.name for one in rows if one.standing == "current"), "")
    report = row.report if row.report and row.report.current == current else None
    task = _task_of(version)
    return render_template(
        "promote.html",
        row=row,
        current=current,
        report=report,
        refusal=task.refusal if task and task.task is Task.PROMOTE else "",
        form=form,
        problem=problem,
        settings=workflow().settings,
    )


def _current_name() -> str:
    try:
        return workflow().versions.current().name
    except ModelUnavailable:  # the page says so
        return ""


def _current_already(version: str) -> str:
    return gettext("%(version)s is the current version already.", version=version)


def _not_started(error: OSError) -> str:
    return gettext("It could not be started: %(why)s.", why=error.strerror or error)
