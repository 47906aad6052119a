"""A fine-tuning from beginning to end: answers of people -> a plan -> a version."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionapp import atomic
from captionapp.errors import (
    InvalidDataset,
    ModelUnavailable,
    TooFewRows,
    TrainingFailed,
    TrainingStopped,
    UnknownVersion,
)
from captionapp.feedback.repository import Verdict
from captionapp.training.card import write_card
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.dataset import (
    Example,
    FeedbackDataset,
    FeedbackExample,
    read_imagefolder,
)
from captionapp.training.retained import keep_on_side, split_retained
from captionapp.training.runs import PLAN, Run, TrainingRuns
from captionapp.training.split import Side, Sides

if TYPE_CHECKING:
    from captionapp.captioning.versions import ModelVersion, ModelVersions
    from captionapp.workflow import Workflow

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
    """The trainings that are under way or can go on, newest first: those since the last one that
    was done."""
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
        InvalidDataset: if ``retain`` is not an imagefolder, or nothing of it can be rehearsed.
        ModelUnavailable, FeedbackStoreError.
    """
    start = workflow.versions.current()
    dataset = workflow.feedback_dataset()
    for skipped in dataset.skipped:
        on_skip(f"The picture {skipped.image_id} is left out: {skipped.reason}")
    chance = random.Random(config.seed)
    learnt, watched = _apart(_corrections(dataset, config, chance), config, workflow.sides())
    retained, described = _retained(retain, config, workflow.sides(), chance, on_skip)
    kinds = {
        "accepted": [one.example for one in dataset.train if one.verdict is Verdict.ACCEPTED],
        "unanswered": _unanswered(workflow, start.name, dataset),
        "retained": retained,
    }
    for name, examples in kinds.items():
        if len(examples) > config.rehearsed_at_most:
            kinds[name] = chance.sample(examples, config.rehearsed_at_most)
    return Plan(
        start=start.name,
        config=config,
        corrections=[one.example for one in learnt],
        watched=[one.example for one in watched],
        rehearsal=[one for examples in kinds.values() for one in examples],
        details={
            "parent": start.name,
            "data_fingerprint": dataset.fingerprint,
            "data": {
                "corrected": len(learnt),
                "watched": len(watched),
                **{name: len(examples) for name, examples in kinds.items()},
                "held_out": len(dataset.held_out),
            },
            "retain": described,
        },
    )


def _corrections(
    dataset: FeedbackDataset, config: FinetuneConfig, chance: random.Random
) -> list[FeedbackExample]:
    """The corrections of the training side, shuffled. Raises TooFewRows as ``make_plan`` does."""
    corrections = [one for one in dataset.train if one.verdict is Verdict.CORRECTED]
    if len(corrections) < config.min_corrections:
        missing = config.min_corrections - len(corrections)
        raise TooFewRows(
            f"There are {len(corrections)} corrected pictures to train on, and at least "
            f"{config.min_corrections} are needed: {missing} are missing. (Of all answered "
            "pictures a part is held out to judge by, and accepted ones teach nothing new.)"
        )
    chance.shuffle(corrections)
    return corrections


def _apart(
    corrections: Sequence[FeedbackExample], config: FinetuneConfig, sides: Sides
) -> tuple[list[FeedbackExample], list[FeedbackExample]]:
    """Corrections -> (what is learnt, what only stops the training early). Near-duplicates stay
    together: one that is learnt tells nothing about another."""
    wanted = round(config.held_out_share * len(corrections))
    group = sides.groups_of(one.image_id for one in corrections)
    together: dict[str, list[FeedbackExample]] = {}
    for one in corrections:
        together.setdefault(group[one.image_id], []).append(one)
    watched: list[FeedbackExample] = []
    for alike in together.values():
        if len(watched) + len(alike) <= wanted:
            watched += alike
    if len(watched) < config.min_held_out:
        return list(corrections), []
    chosen = {one.image_id for one in watched}
    return [one for one in corrections if one.image_id not in chosen], watched


def _retained(
    retain: Path | None,
    config: FinetuneConfig,
    sides: Sides,
    chance: random.Random,
    on_skip: OnSkip,
) -> tuple[list[Example], dict[str, Any] | None]:
    """What is rehearsed of the folder, and what the version says of that. The rest judges."""
    if retain is None:
        return [], None
    folder = retain.resolve()
    examples = read_imagefolder(folder, must_exist=False)
    rehearsed, judging = split_retained(examples, config.retain_held_out)
    if len(rehearsed) > config.rehearsed_at_most:
        rehearsed = chance.sample(rehearsed, config.rehearsed_at_most)
    kept = keep_on_side(rehearsed, sides, Side.TRAIN, on_skip)
    keep_on_side(judging, sides, Side.HELD_OUT, on_skip)
    if config.rehearsed_at_most and not kept:
        raise InvalidDataset(
            f"{folder} has no picture that can be rehearsed: what it lists is missing, cannot be "
            "read, or is held out to judge by. Name another folder with --retain DIR or "
            "CAPTIONAPP_RETAIN."
        )
    return kept, {
        "folder": str(folder),
        "held_out_share": config.retain_held_out,
        "pictures": len(kept),
    }


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
    with suppress(UnknownVersion):  # it was killed after the last thing it had to do
        run.version = versions.get(name).name
        return versions.get(name)
    if should_stop():  # asked for while the data was read
        raise TrainingStopped(
            "The training was stopped before its first step; "
            "`flask model finetune --resume` goes on."
        )
    start = _starting(versions, plan.start)
    from captionapp.training.choices import settled
    from captionapp.training.finetune import finetune  # imports torch

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
    version = _keep(made.folder, name, start, versions, details)
    run.version = version.name
    return version


def _keep(
    folder: Path, name: str, start: ModelVersion, versions: ModelVersions, details: dict[str, Any]
) -> ModelVersion:
    """Make a version of the checkpoint in ``folder``. Raises TrainingFailed if it cannot."""
    try:
        write_card(folder, name, start, versions, details)
        return versions.add_trained(folder, name, details)
    except OSError as error:
        raise TrainingFailed(
            f"The version could not be stored ({error.strerror or error}). "
            "`flask model finetune --resume` tries that again."
        ) from error


def _starting(versions: ModelVersions, name: str) -> ModelVersion:
    current = versions.current()  # may be named by the setting, and then not be in the list
    try:
        return current if current.name == name else versions.get(name)
    except UnknownVersion as error:
        raise ModelUnavailable(
            f"The version that the training began with is gone: {error}"
        ) from error


def _unanswered(workflow: Workflow, version: str, dataset: FeedbackDataset) -> list[Example]:
    """Stored pictures of the training side without an answer, with what the version said of them.
    Nobody knows whether that is right, but the new version is to go on saying it.

    All of them get their sides by this: they may be corrected one day, or be near to one held out.
    """
    answered = workflow.feedback.image_ids()
    said = {
        image_id: text
        for image_id, text in workflow.captions.by(version).items()
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
