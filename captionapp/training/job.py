"""A fine-tuning from beginning to end: answers of people -> a plan -> a version."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionapp import atomic
from captionapp.errors import (
    ModelUnavailable,
    TooFewRows,
    TrainingFailed,
    TrainingStopped,
    UnknownVersion,
)
from captionapp.feedback.repository import Verdict
from captionapp.training.card import write_card
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.dataset import Example, FeedbackDataset, read_imagefolder
from captionapp.training.retained import keep_on_side, split_retained
from captionapp.training.runs import Run, TrainingRuns
from captionapp.training.split import Side

if TYPE_CHECKING:
    from captionapp.captioning.versions import ModelVersion, ModelVersions
    from captionapp.workflow import Workflow

PLAN = "plan.json"

#: Told, in a sentence, of what is left out.
OnSkip = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a training trains on; kept in the run's folder, so that it goes on with the same.

    ``start`` names a version. ``watched`` are corrections of the training side that only stop the
    training early: the held-out side, by which a version is judged, is not looked at at all.
    ``details`` go into the version, with ``config`` and the figures.
    """

    start: str
    config: FinetuneConfig
    corrections: Sequence[Example]
    watched: Sequence[Example]
    rehearsal: Sequence[Example]
    details: dict[str, Any]

    def save(self, run: Run) -> None:
        """Keep it.

        Raises:
            TrainingFailed: if it cannot be written.
        """
        content = asdict(self) | {
            "config": self.config.as_dict(),
            **{
                name: [[str(one.path), *one.captions] for one in getattr(self, name)]
                for name in _EXAMPLES
            },
        }
        try:
            atomic.write(run.folder / PLAN, json.dumps(content, ensure_ascii=False).encode())
        except OSError as error:
            raise TrainingFailed(
                f"What is to be trained could not be stored ({error.strerror or error})."
            ) from error

    @staticmethod
    def is_there(run: Run) -> bool:
        """Whether the run got so far as to have one."""
        return (run.folder / PLAN).exists()

    @classmethod
    def load(cls, run: Run) -> Plan:
        """The plan of a run.

        Raises:
            TrainingFailed: if it has none.
        """
        try:
            content = json.loads((run.folder / PLAN).read_text(encoding="utf-8"))
            content["config"] = FinetuneConfig.from_dict(content["config"])
            for name in _EXAMPLES:
                content[name] = [
                    Example(Path(path), tuple(captions)) for path, *captions in content[name]
                ]
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingFailed(
                f"The training {run.id} ended before it had begun ({error}); start a new one."
            ) from error


_EXAMPLES = ("corrections", "watched", "rehearsal")


def unfinished(runs: TrainingRuns) -> list[str]:
    """The trainings that are under way or can go on, newest first: what came before the last one
    that was done is over."""
    states = takewhile(lambda state: state.status != "done", runs.list())
    return [state.id for state in states if Plan.is_there(Run(runs.folder / state.id))]


def needed_versions(runs: TrainingRuns) -> set[str]:
    """The versions that these trainings started from, and still need."""
    needed = set()
    for run_id in unfinished(runs):
        try:
            needed.add(Plan.load(Run(runs.folder / run_id)).start)
        except TrainingFailed:  # a damaged plan needs nothing
            continue
    return needed


def make_plan(
    workflow: Workflow, config: FinetuneConfig, retain: Path | None, on_skip: OnSkip
) -> Plan:
    """Gather what the current version is to learn, and what it is not to forget.

    Raises:
        TooFewRows: if there are too few corrections to learn from.
        InvalidDataset: if ``retain`` is not an imagefolder.
        ModelUnavailable, FeedbackStoreError.
    """
    start = workflow.versions.current()
    dataset = workflow.feedback_dataset()
    for skipped in dataset.skipped:
        on_skip(f"The picture {skipped.image_id} is left out: {skipped.reason}")
    corrections = [one for one in dataset.train if one.verdict is Verdict.CORRECTED]
    if len(corrections) < config.min_corrections:
        missing = config.min_corrections - len(corrections)
        raise TooFewRows(
            f"There are {len(corrections)} corrected pictures to train on, and at least "
            f"{config.min_corrections} are needed: {missing} are missing. (Of all answered "
            "pictures a part is held out to judge by, and accepted ones teach nothing new.)"
        )
    chance = random.Random(config.seed)
    chance.shuffle(corrections)
    watched = round(config.held_out_share * len(corrections))
    watched = watched if watched >= config.min_held_out else 0
    kinds = {
        "accepted": [one.example for one in dataset.train if one.verdict is Verdict.ACCEPTED],
        "unanswered": _unanswered(workflow, start.name, dataset),
        "retained": [],
    }
    described: dict[str, Any] | None = None
    if retain is not None:
        folder = retain.resolve()
        examples = read_imagefolder(folder, must_exist=False)
        rehearsed, judging = split_retained(examples, config.retain_held_out)
        sides = workflow.sides()
        if len(rehearsed) > config.rehearsed_at_most:
            rehearsed = chance.sample(rehearsed, config.rehearsed_at_most)
        kinds["retained"] = keep_on_side(rehearsed, sides, Side.TRAIN, on_skip)
        keep_on_side(judging, sides, Side.HELD_OUT, on_skip)
        described = {"folder": str(folder), "held_out_share": config.retain_held_out}
    for name, examples in kinds.items():
        if len(examples) > config.rehearsed_at_most:
            kinds[name] = chance.sample(examples, config.rehearsed_at_most)
    if described is not None:
        described["pictures"] = len(kinds["retained"])
    counts = {name: len(examples) for name, examples in kinds.items()}
    return Plan(
        start=start.name,
        config=config,
        corrections=[one.example for one in corrections[watched:]],
        watched=[one.example for one in corrections[:watched]],
        rehearsal=[one for examples in kinds.values() for one in examples],
        details={
            "parent": start.name,
            "data_fingerprint": dataset.fingerprint,
            "data": {
                "corrected": len(corrections) - watched,
                "watched": watched,
                **counts,
                "held_out": len(dataset.held_out),
            },
            "retain": described,
        },
    )


def carry_out(
    plan: Plan,
    run: Run,
    versions: ModelVersions,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    on_skip: OnSkip,
) -> ModelVersion:
    """Train, or go on with it, and make a version of the result.

    Raises:
        ModelUnavailable: if the starting version is gone or cannot be loaded.
        TrainingStopped, TrainingFailed: as ``finetune`` does, or if something cannot be stored.
    """
    name = f"trained-{run.id}"
    try:
        run.version = versions.get(name).name  # it was killed after the last thing it had to do
        return versions.get(name)
    except UnknownVersion:
        pass
    if should_stop():  # asked for while the data was read
        raise TrainingStopped(
            "The training was stopped before its first step; "
            "`flask model finetune --resume` goes on."
        )
    start = _starting(versions, plan.start)
    from captionapp.training.finetune import finetune  # imports torch
    from captionapp.training.learner import settled

    config = settled(plan.config, start, len(plan.corrections))
    if config != plan.config:
        plan = replace(plan, config=config)
        plan.save(run)  # before anything is learnt: a resumed training goes on with the same
    made = finetune(
        plan.config,
        start,
        plan.corrections,
        plan.watched,
        plan.rehearsal,
        run.folder,
        on_progress,
        should_stop,
        on_skip,
    )
    details = {
        **plan.details,
        "config": plan.config.as_dict(),
        "figures": made.figures,
        "seconds": made.figures["seconds"],
    }
    try:
        write_card(made.folder, name, start, versions, details)
        version = versions.add_trained(made.folder, name, details)
    except OSError as error:
        raise TrainingFailed(
            f"The version could not be stored ({error.strerror or error}). "
            "`flask model finetune --resume` tries that again."
        ) from error
    run.version = version.name
    return version


def _starting(versions: ModelVersions, name: str) -> ModelVersion:
    current = versions.current()  # may be named by the setting, and then not be in the list
    try:
        return current if current.name == name else versions.get(name)
    except UnknownVersion as error:
        raise ModelUnavailable(
            f"The version that the training began with is gone: {error}"
        ) from error


def _unanswered(workflow: Workflow, version: str, dataset: FeedbackDataset) -> list[Example]:
    """Stored pictures without an answer, with what the version said of them: it is not known to be
    right, but it is what the version says.

    They get their sides too, since they may be corrected one day, or be near to a held-out one.
    """
    answered = workflow.feedback.image_ids()
    said = {
        image_id: text
        for image_id, text in workflow.records.captions_by(version).items()
        if image_id not in answered
    }
    sides = workflow.sides().assign(
        [(image_id, partial(workflow.store.load, image_id)) for image_id in sorted(said)]
    )
    return [
        Example(workflow.store.path(image_id), (said[image_id],))
        for image_id in sorted(said)
        if sides.get(image_id) is Side.TRAIN and image_id in workflow.store
    ]
