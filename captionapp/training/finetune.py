"""Fine-tuning: a version and examples -> a better version. Imports torch.

The loss of a step is the cross-entropy of the corrections, a little of that of the rehearsed
pictures, and on these the divergence KL(starting version || this one) over all words at each place
of the caption: what the corrections say nothing about is to stay as it was (Li and Hoiem 2016,
"Learning without Forgetting"). ``weight_penalty`` is L2-SP (Li et al. 2018), apart from Adam's
moments, as AdamW's weight decay is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import TrainingFailed, TrainingStopped
from captionapp.training import checkpoints
from captionapp.training.batches import Batch, Batches
from captionapp.training.checkpoints import State
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.dataset import Example
from captionapp.training.features import FILE as SEEN_FILE
from captionapp.training.features import Features
from captionapp.training.learner import Learner
from captionapp.training.runs import UNFINISHED

__all__ = ["FinetuneConfig", "Progress", "TrainedCheckpoint", "finetune"]

#: Seconds between two reports of progress.
REPORT_SECONDS = 1.0
#: Share of the newest step in the loss and the speed that are reported.
RECENT = 0.1


@dataclass(frozen=True)
class TrainedCheckpoint:
    """A complete stock checkpoint in ``folder``, and what is to be told of how it was made."""

    folder: Path
    figures: dict[str, Any]


class Pace:
    """How fast it goes. Looking at a view is slow and done once; there are ``views`` of them."""

    def __init__(self, features: Features | None, views: int) -> None:
        self._features, self._views = features, views
        self._began = self._looking = 0.0
        self._step: float | None = None  # seconds of one without looking, a running mean
        self._pictures = 0
        self.pictures_per_second = 0.0

    def step_begins(self) -> None:
        self._began, self._looking = time.monotonic(), self._looked()

    def step_ends(self, pictures: int) -> None:
        seconds = time.monotonic() - self._began
        speed, step = pictures / seconds, seconds - (self._looked() - self._looking)
        if self._step is None:
            self._step, self.pictures_per_second = step, speed
        self._step += RECENT * (step - self._step)
        self.pictures_per_second += RECENT * (speed - self.pictures_per_second)
        self._pictures = pictures

    def seconds_for(self, steps: int) -> float:
        """That so many more steps will take."""
        seconds = steps * (self._step or 0.0)
        if self._features and self._features.looked:
            left = min(max(0, self._views - len(self._features)), steps * self._pictures)
            seconds += left * self._features.seconds / self._features.looked
        return seconds

    def _looked(self) -> float:
        return self._features.seconds if self._features else 0.0


def _views(config: FinetuneConfig, corrections: int, rehearsed: int, watched: int) -> int:
    return corrections * config.views + rehearsed * config.rehearsed_views + watched


def finetune(
    config: FinetuneConfig,
    start: ModelVersion,
    train: Sequence[Example],
    watched: Sequence[Example],
    rehearsal: Sequence[Example],
    run_folder: Path,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    on_skip: Callable[[str], None] = lambda sentence: None,
) -> TrainedCheckpoint:
    """Train ``start`` on ``train``; goes on from ``run_folder``'s checkpoint if there is one.

    ``config`` is ``choices.settled``: nothing in it is left to be chosen.
    ``watched`` are corrections that are not learnt: their loss, the held-out loss, is looked at
    after every pass, and at the end, to stop early and to choose the weights. With none, the mean
    over the steps of the steady rate is taken, or the last weights if there was no such step. The
    captions of ``rehearsal`` are ones that are to stay right.
    ``on_skip`` is told, in a sentence, of what was left out: a picture, or a checkpoint.

    Raises:
        ModelUnavailable: if the starting version cannot be loaded.
        TrainingStopped: if ``should_stop`` said so; a checkpoint has been saved.
        TrainingFailed: if no picture can be read, the loss is no number any more, or the result
            cannot be stored.
    """
    torch.manual_seed(config.seed)  # of LoRA's matrices
    learner = Learner(config, start)
    features = learner.features(run_folder / SEEN_FILE, on_skip)
    batches = Batches(config, learner.processor, learner.text_config, features, on_skip)
    watched = batches.readable(watched)
    steps_a_pass = math.ceil(len(train) / config.batch_size)
    steps = max(1, round(config.epochs * steps_a_pass))

    state = checkpoints.load(run_folder, learner, on_skip)
    if watched and state.first_held_out_loss is None:
        state.first_held_out_loss = learner.loss(batches.as_they_are(watched))
    began = time.monotonic() - state.seconds
    saved = reported = time.monotonic()
    pace = Pace(features, _views(config, len(train), len(rehearsal), len(watched)))
    while (done := _share_done(state, steps, config)) < 1 and _may_gain(state, config):
        pace.step_begins()
        learner.set_rate(done)
        torch.manual_seed(config.seed + state.step)  # of dropout, which a checkpoint may have
        batch = batches.draw(state.step, train, rehearsal)
        if batch:
            _note(state, learner.learn(batch))
            pace.step_ends(len(batch.pictures))
            if done >= config.steady_from:
                state.averaged += 1
                learner.average(state.averaged)
        elif batches.broken.issuperset(example.path for example in train):
            raise TrainingFailed("None of the pictures to train on can be read.")
        state.step += 1
        if watched and state.step % steps_a_pass == 0:
            _look(state, learner, batches.as_they_are(watched))
        now = time.monotonic()
        state.seconds = now - began

        stop = should_stop()
        if stop or now - saved > config.checkpoint_seconds:
            checkpoints.save(run_folder, learner, state, on_skip)
            saved = time.monotonic()
        if stop:
            raise TrainingStopped(
                f"The training was stopped after step {state.step} of {steps}; "
                "`flask model finetune --resume` goes on."
            )
        if now - reported > REPORT_SECONDS or state.step == steps:
            reported = now
            on_progress(_progress(state, config, steps, steps_a_pass, pace))

    if watched and state.looked_at != state.step:  # it ended within a pass
        _look(state, learner, batches.as_they_are(watched))
    checkpoints.save(run_folder, learner, state, on_skip)  # storing it may fail
    learner.take_result()
    learner.step_back()
    return TrainedCheckpoint(
        learner.export(run_folder / UNFINISHED, start), _figures(state, steps, config)
    )


def _note(state: State, loss: float) -> None:
    """Take the loss of a step into the running mean. Raises TrainingFailed if it is no number."""
    if not math.isfinite(loss):
        raise TrainingFailed("The loss is no number any more; lower the learning rate.")
    state.loss = loss if math.isnan(state.loss) else state.loss + RECENT * (loss - state.loss)


def _look(state: State, learner: Learner, watched: Iterator[Batch]) -> None:
    """Whether the last pass was a gain for corrections that are not trained on."""
    state.looked_at = state.step
    with learner.averaged():
        loss = learner.loss(watched)
        if math.isnan(loss):  # their pictures are gone
            return
        state.held_out_loss = loss
        if loss < state.best_held_out_loss:
            state.best_held_out_loss, state.best_step = loss, state.step
            state.looks_without_gain = 0
            learner.keep_as_best()
        else:
            state.looks_without_gain += 1


def _share_done(state: State, steps: int, config: FinetuneConfig) -> float:
    """Of the training, by steps or by time, whichever is over first."""
    time_over = state.seconds / (60 * config.minutes) if config.minutes else 0.0
    return max(state.step / steps, time_over)


def _may_gain(state: State, config: FinetuneConfig) -> bool:
    return state.looks_without_gain < config.patience


def _progress(
    state: State, config: FinetuneConfig, steps: int, steps_a_pass: int, pace: Pace
) -> Progress:
    left = pace.seconds_for(steps - state.step)
    if config.minutes:
        left = min(left, 60 * config.minutes - state.seconds)
    return Progress(
        step=state.step,
        steps=steps,
        epoch=state.step / steps_a_pass,
        loss=state.loss,
        held_out_loss=state.held_out_loss,
        pictures_per_second=pace.pictures_per_second,
        seconds_left=max(0.0, left),
    )


def _figures(state: State, steps: int, config: FinetuneConfig) -> dict[str, Any]:
    """What is told of a training; JSON has neither NaN nor infinity."""
    chosen = {"vision": config.vision, "method": config.method, "bf16": config.bf16}
    figures = {**asdict(state), "steps": steps, **chosen}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
