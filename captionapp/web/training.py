"""Trainings started, watched and stopped from the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from captionapp.errors import NotFound, TrainingBusy
from captionapp.training.runs import RunState, TrainingRuns
from captionapp.web.current import workflow
from captionapp.web.events import News, streams
from captionapp.web.forms import ButtonForm
from captionapp.web.operator import require_operator

blueprint = Blueprint("training", __name__, url_prefix="/models/training")

#: What became of a training, in words.
STATUS_WORDS = {
    "running": "A training is under way",
    "stopping": "The training is saving and stopping",
    "done": "The last training is done",
    "failed": "The last training failed",
    "stopped": "The last training was stopped",
    "interrupted": "The last training broke off",
}
#: Those can go on from where they were.
RESUMABLE = frozenset({"failed", "stopped", "interrupted"})


def runs() -> TrainingRuns:
    return TrainingRuns(workflow().settings.instance / "training")


@blueprint.post("")
def start() -> ResponseReturnValue:
    """A new one; with the field ``resume``, the one that did not finish."""
    require_operator()
    if not ButtonForm().validate_on_submit():
        return redirect(url_for("models.table"), 303)
    retain = workflow().settings.retain
    if retain and not Path(retain).is_dir():
        flash(f"CAPTIONAPP_RETAIN names {retain}, which is not a folder.", "problem")
        return redirect(url_for("models.table"), 303)
    resume = request.form.get("resume") or None
    # A training that goes on has its data already.
    arguments = ["--retain", retain] if retain and not resume else []
    try:
        runs().start_detached(arguments, resume)
    except (TrainingBusy, NotFound) as error:
        flash(str(error), "problem")
    except OSError as error:
        flash(f"The training could not be started: {error.strerror or error}.", "problem")
    return redirect(url_for("models.table"), 303)


@blueprint.post("/stop")
def stop() -> ResponseReturnValue:
    require_operator()
    if ButtonForm().validate_on_submit():
        runs().request_stop(request.form.get("run", ""))
    return redirect(url_for("models.table"), 303)


@blueprint.get("/events")
def events() -> Response:
    """How far the training is, as it goes on; ends with it."""
    require_operator()
    its = runs()  # the request is over when these are asked
    return streams().answer(lambda: news(its.latest()))


def news(state: RunState | None) -> News:
    """What a page shows of a training that changes, and whether it has ended."""
    if state is None:
        return {"status": "none"}, True
    return {"run": state.id, "status": state.status, **described(state)}, not state.active


def described(state: RunState) -> Mapping[str, Any]:
    """``title``, ``step`` of ``steps`` and ``figures``, a sentence; nulls before the first step."""
    progress = state.progress
    title = STATUS_WORDS.get(state.status, state.status)
    if progress is None:
        waiting = "The data and the model are being read." if state.active else ""
        return {"title": title, "step": None, "steps": None, "figures": waiting}
    parts = [
        f"step {progress.step} of {progress.steps}",
        f"pass {progress.epoch:.1f}",
        f"loss {progress.loss:.3f}",
        f"{progress.pictures_per_second:.1f} pictures a second",
    ]
    if progress.held_out_loss is not None:
        parts.insert(3, f"loss on watched pictures {progress.held_out_loss:.3f}")
    if state.active:
        parts.append(f"about {duration(progress.seconds_left)} left")
    sentence = ", ".join(parts)
    return {
        "title": title,
        "step": progress.step,
        "steps": progress.steps,
        "figures": f"{sentence[0].upper()}{sentence[1:]}.",
    }


def duration(seconds: float) -> str:
    """``75`` -> ``1:15 min``; hours above an hour."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
