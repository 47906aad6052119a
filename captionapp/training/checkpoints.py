"""Where a training goes on after a crash: one file, whole or not there. Imports torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from captionapp.training.learner import Learner

FILE = "checkpoint.pt"


@dataclass
class State:
    """Where a training is: what a checkpoint holds besides weights and Adam's moments."""

    step: int = 0
    seconds: float = 0.0  # of training, all its parts together
    loss: float = math.nan  # of the corrections, a running mean
    # Held-out losses are those of the watched corrections.
    first_held_out_loss: float | None = None  # of the version that it started from
    held_out_loss: float | None = None  # at the last look
    best_held_out_loss: float = math.inf
    best_step: int = 0
    looks_without_gain: int = 0
    looked_at: int = 0  # the step of the last look
    averaged: int = 0  # steps of which there is a mean


def save(
    run_folder: Path,
    learner: Learner,
    state: State,
    on_skip: Callable[[str], None],
) -> None:
    """Replace the checkpoint; if there is no room for it, say so and leave the old one."""
    content = {
        "state": asdict(state),
        "trained": {name: p.detach() for name, p in learner.trained.items()},
        "best": learner.best,
        "mean": learner.mean,
        "optimizer": learner.optimizer.state_dict(),
    }
    path = run_folder / FILE
    temporary = path.with_name(f"{FILE}.tmp")  # one process trains at a time
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as the second
        temporary.unlink(missing_ok=True)
        on_skip(f"A checkpoint could not be saved and is left out: {error}")


def load(run_folder: Path, learner: Learner, on_skip: Callable[[str], None]) -> State:
    """Give the learner what was saved; the state that was saved with it, a new one if nothing was
    or it is not this learner's. Then the learner is as it was."""
    path = run_folder / FILE
    try:
        content = torch.load(path, weights_only=True)
        state = State(**content["state"])  # an older release may have had other fields
        best, mean = content["best"], content.get("mean")  # an older release had no mean
        weights = learner.fitting(content["trained"])
        best, mean = (learner.fitting(one) if one else None for one in (best, mean))
        learner.optimizer.load_state_dict(content["optimizer"])  # all of it or nothing
    except FileNotFoundError:
        return State()
    except Exception as error:  # of a broken file almost anything can be raised
        on_skip(f"{path} cannot be used, so the training begins anew: {error}")
        return State()
    with torch.no_grad():
        for name, parameter in learner.trained.items():
            parameter.copy_(weights[name])
    learner.best, learner.mean = best, mean
    return state
