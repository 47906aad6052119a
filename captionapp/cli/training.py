"""``flask model finetune``: from corrections to a version."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from captionapp.captioning.versions import ModelVersion
from captionapp.cli.model import group
from captionapp.errors import NotFound
from captionapp.training import job
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.runs import Run, TrainingRuns
from captionapp.web.current import workflow

_DEFAULTS = FinetuneConfig()


def _pairs(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """``name=value``, the value as JSON; text need not be quoted."""
    chosen = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE.")
        try:
            chosen[name] = json.loads(text)
        except ValueError:
            chosen[name] = text
    return chosen


@group.command("finetune")
@click.option(
    "--retain",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An imagefolder with captions that are to stay right.",
)
@click.option("--resume", is_flag=True, help="Go on with the last training that did not finish.")
@click.option(
    "--lora", "method", flag_value="lora", help="Train small matrices beside the weights."
)
@click.option("--full", "method", flag_value="full", help="Train all weights.")
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Passes over the corrections, at most; {_DEFAULTS.epochs:g}.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0), help="Time to train, at most; 0: no limit."
)
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), help="The highest, of AdamW."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Corrections in a step.")
@click.option("--seed", type=int, help="Of order and augmentation.")
@click.option(
    "--set",
    "others",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_pairs,
    help="Any other hyperparameter; captionapp/training/config.py says what they do.",
)
@click.option("--run", "run_id", hidden=True, help="Of the run that the page has made for this.")
def finetune(
    retain: Path | None,
    resume: bool,
    run_id: str | None,
    others: dict[str, Any],
    **given: Any,
) -> None:
    """Fine-tune the current version on people's corrections, and store what comes of it.

    Ctrl-C saves and stops; --resume goes on. Nothing is served differently until the new version is
    promoted.
    """
    flow = workflow()
    runs = TrainingRuns(flow.settings.instance / "training")
    chosen = {name: value for name, value in given.items() if value is not None} | others
    if resume and (chosen or retain):
        raise click.UsageError("--resume goes on as the training was begun: give nothing else.")
    config = configured(chosen)
    handed_over = run_id is not None
    if resume and not run_id:
        run_id = _to_resume(runs)
    with runs.begin(run_id, handed_over=handed_over) as run, _interrupts() as interrupted:
        if resume:
            plan = job.Plan.load(run)
        else:
            plan = job.make_plan(flow, config, retain, _say)
            plan.save(run)
        runs.keep_only(run)
        _say(described(plan))
        version = _watched(plan, run, interrupted)
    click.echo(f"{version.name} is there, in {version.folder}.")
    click.echo(f"See what it is worth: flask model evaluate {version.name}")


def configured(chosen: dict[str, Any]) -> FinetuneConfig:
    """The defaults, but for what was chosen; a learning rate is that of the method in use."""
    from pydantic import TypeAdapter, ValidationError

    names = _DEFAULTS.as_dict()
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise click.UsageError(f"{unknown[0]} is no hyperparameter. There are {', '.join(names)}.")
    if "learning_rate" in chosen:
        chosen = {"lora_learning_rate": chosen["learning_rate"]} | chosen
    try:
        return TypeAdapter(FinetuneConfig).validate_python(_DEFAULTS.as_dict() | chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")  # that is how pydantic quotes ours
        raise click.UsageError(f"{name}: {said}".lstrip(": ")) from error


def _to_resume(runs: TrainingRuns) -> str:
    for run_id in job.unfinished(runs):
        return run_id
    raise NotFound("There is no training to go on with.")


def _watched(plan: job.Plan, run: Run, interrupted: Callable[[], bool]) -> ModelVersion:
    """Carry the plan out with a bar that shows how it goes, or lines where there is no terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    passes = 0

    def on_progress(progress: Progress) -> None:
        nonlocal passes
        run.report(progress)
        bar.total = progress.steps
        bar.update(progress.step - bar.n)
        bar.set_postfix_str(_line(progress))
        if bar.disable and int(progress.epoch) > passes:  # a line a pass, in a log
            passes = int(progress.epoch)
            _say(f"step {progress.step} of {progress.steps}: {_line(progress)}")

    def on_skip(sentence: str) -> None:
        with bar.external_write_mode():
            _say(sentence)

    def should_stop() -> bool:
        return interrupted() or run.stop_requested()

    layout = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"
    with tqdm(total=1, unit="step", disable=None, bar_format=layout) as bar:
        versions = workflow().versions
        return job.carry_out(plan, run, versions, on_progress, should_stop, on_skip)


def _line(progress: Progress) -> str:
    watched = progress.held_out_loss
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    parts = [
        f"pass {progress.epoch:.1f}",
        f"loss {progress.loss:.2f}",
        *([f"loss on watched pictures {watched:.2f}"] if watched is not None else []),
        f"{progress.pictures_per_second:.1f} pictures/s",
        f"{minutes}:{seconds:02} left",
    ]
    return ", ".join(parts)


def described(plan: job.Plan) -> str:
    """What is about to be trained, in a sentence."""
    data = plan.details["data"]
    rehearsed = ", ".join(
        f"{data[kind]} {kind}" for kind in ("accepted", "unanswered", "retained") if data[kind]
    )
    return (
        f"Fine-tuning {plan.start} on {data['corrected']} corrected pictures"
        + (f", stopping by {data['watched']} more" if data["watched"] else "")
        + (f"; rehearsing {rehearsed}." if rehearsed else "; there is nothing to rehearse.")
    )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or the system asked the process to end; twice ends it at once."""
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        _say("Saving and stopping; once more stops at once.")

    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
