"""Trainings started, watched and stopped from the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import force_locale, gettext, lazy_gettext
from flask_babel.speaklater import LazyString

from captionapp.errors import NotFound, TrainingBusy
from captionapp.training.runs import RunState, TrainingRuns
from captionapp.web.current import workflow
from captionapp.web.events import News, streams
from captionapp.web.language import locale, translated
from captionapp.web.operator import require_operator
from captionapp.web.presenting import number

blueprint = Blueprint("training", __name__, url_prefix="/models/training")

#: What became of a training, in words.
STATUS_WORDS: Mapping[str, LazyString] = {
    "running": lazy_gettext("A training is under way"),
    "stopping": lazy_gettext("The training is saving and stopping"),
    "done": lazy_gettext("The last training is done"),
    "failed": lazy_gettext("The last training failed"),
    "stopped": lazy_gettext("The last training was stopped"),
    "interrupted": lazy_gettext("The last training broke off"),
}


def runs() -> TrainingRuns:
    return TrainingRuns(workflow().settings.instance / "training")


@blueprint.post("")
def start() -> ResponseReturnValue:
    """A new one; with the field ``resume``, that run, which did not finish."""
    require_operator()
    retain = workflow().settings.retain
    if retain and not Path(retain).is_dir():
        message = gettext("CAPTIONAPP_RETAIN names %(path)s, which is not a folder.", path=retain)
        flash(message, "problem")
        return redirect(url_for("models.table"), 303)
    resume = request.form.get("resume") or None
    # A training that goes on has its data already.
    arguments = ["--retain", retain] if retain and not resume else []
    try:
        runs().start_detached(arguments, resume)
    except (TrainingBusy, NotFound) as error:
        flash(translated(error), "problem")
    except OSError as error:
        message = gettext(
            "The training could not be started: %(why)s.", why=error.strerror or error
        )
        flash(message, "problem")
    return redirect(url_for("models.table"), 303)


@blueprint.post("/stop")
def stop() -> ResponseReturnValue:
    require_operator()
    runs().request_stop(request.form.get("run", ""))
    return redirect(url_for("models.table"), 303)


@blueprint.get("/events")
def events() -> Response:
    """How far the training is, as it goes on; ends with it."""
    require_operator()
    # The request is over when these are asked.
    its, app, language = runs(), current_app._get_current_object(), str(locale())  # type: ignore[attr-defined]

    def look() -> News:
        with app.app_context(), force_locale(language):
            return news(its.latest())

    return streams().answer(look)


def news(state: RunState | None) -> News:
    """What a page shows of a training that changes, and whether it has ended."""
    if state is None:
        return {"status": "none"}, True
    return {"run": state.id, "status": state.status, **described(state)}, not state.active


def described(state: RunState) -> Mapping[str, Any]:
    """``title``, ``step`` of ``steps`` and ``figures``, a sentence; nulls before the first step."""
    progress = state.progress
    title = str(STATUS_WORDS.get(state.status, state.status))
    if progress is None:
        waiting = gettext("The data and the model are being read.") if state.active else ""
        return {"title": title, "step": None, "steps": None, "figures": waiting}
    parts = [
        gettext("Step %(step)s of %(steps)s", step=progress.step, steps=progress.steps),
        gettext("pass %(epoch)s", epoch=number(progress.epoch, 1)),
        gettext("loss %(loss)s", loss=number(progress.loss, 3)),
        gettext("%(speed)s pictures a second", speed=number(progress.pictures_per_second, 1)),
    ]
    if progress.held_out_loss is not None:
        watched = number(progress.held_out_loss, 3)
        parts.insert(3, gettext("loss on watched pictures %(loss)s", loss=watched))
    if state.active:
        parts.append(gettext("about %(time)s left", time=duration(progress.seconds_left)))
    return {
        "title": title,
        "step": progress.step,
        "steps": progress.steps,
        "figures": f"{', '.join(parts)}.",
    }


def duration(seconds: float) -> str:
    """``75`` -> ``1:15 min``; hours above an hour."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
