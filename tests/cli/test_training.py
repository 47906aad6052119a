"""`flask model finetune`, as a command and as a process that is interrupted and killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from captionapp.captioning.versions import ModelVersions
from captionapp.feedback.repository import Verdict
from captionapp.settings import ROOT
from captionapp.training.config import Progress
from captionapp.training.runs import TrainingRuns
from captionapp.workflow import Workflow
from tests.test_training_job import Answers
from tests.waiting import until

TINY = ["--full", "--batch-size", "4", "--set", "bf16=false", "--set", "min_corrections=3"]

#: Seconds that a process may take to import torch on a machine that is busy.
SLOW = 180


@pytest.fixture
def tiny(
    make_app: Callable[..., Flask], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Flask:
    """An application, and an environment, that serve a tiny BLIP; some pictures are corrected."""
    monkeypatch.setenv("CAPTIONAPP_MODEL", str(checkpoint))
    app = make_app()
    flow: Workflow = app.extensions["captionapp"]
    del flow.versions.current  # type: ignore[attr-defined]  # the fake's
    answers = Answers(flow)
    for _ in range(12):
        answers.answered("a red cat on the beach")
    for _ in range(4):
        answers.answered("a red ball", Verdict.ACCEPTED)
    return app


def invoke(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["model", "finetune", *arguments])


def runs_of(app: Flask) -> TrainingRuns:
    return TrainingRuns(Path(app.instance_path) / "training")


def versions_of(app: Flask) -> list[str]:
    """Of the instance folder, as another process sees them."""
    versions = ModelVersions(Path(app.instance_path) / "models", ROOT / "fine-tuned-model")
    return [one.name for one in versions.list() if one.origin == "trained"]


def test_it_makes_a_version_that_can_be_loaded(tiny: Flask) -> None:
    result = invoke(tiny, *TINY, "--epochs", "2")
    assert result.exit_code == 0, result.output
    (name,) = versions_of(tiny)
    assert f"{name} is there" in result.output and f"evaluate {name}" in result.output
    assert "corrected pictures" in result.output and "rehearsing" in result.output
    # There is no terminal, so a line a pass says how far it is, also where nothing is watched.
    assert re.search(r"^step (\d+) of \1: pass 2.0, loss ", result.output, re.M), result.output
    state = runs_of(tiny).latest()
    assert state and (state.status, state.version) == ("done", name)
    assert state.progress and state.progress.step == state.progress.steps
    flow: Workflow = tiny.extensions["captionapp"]
    details = flow.versions.get(name).details
    assert details["config"]["batch_size"] == 4 and details["config"]["epochs"] == 2
    assert details["parent"] == flow.versions.current().name != name  # nothing is promoted
    from captionapp.captioning.blip import BlipCaptioner

    BlipCaptioner.load(flow.versions.get(name).folder, name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resume"], "There is no training to go on with."),
        (["--resume", "--epochs", "3"], "give nothing else"),
        (["--set", "learning_speed=1"], "learning_speed is no hyperparameter. There are epochs, "),
        (["--set", "epochs"], "'epochs' is not NAME=VALUE."),
        (["--set", "=3"], "'=3' is not NAME=VALUE."),
        (["--set", "warmup=2"], "Error: warmup is 2.0; it is a share"),
        (["--set", "steady_from=0.1"], "steady_from is 0.1; it must be above warmup, 0.1"),
        (["--set", "way_back=1"], "Error: way_back is 1.0; it is a share"),
        (["--set", "steady_from=1.5"], "Error: steady_from is 1.5; it is a share, from 0 to 1."),
        (["--set", "crop=1.01"], "Error: crop is 1.01; it is a share, from 0 to 1."),
        (["--set", "crop=0"], "Error: crop is 0.0; it must be above 0."),
        (["--set", "betas=[0.9,2]"], "each is from 0 to below 1"),
        (["--set", "method=some"], "auto, full or lora"),
        (["--set", "patience=soon"], "patience"),
        (["--set", "min_corrections=100"], "100 are needed"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    tiny: Flask, arguments: list[str], sentence: str
) -> None:
    result = invoke(tiny, *arguments)
    assert result.exit_code != 0
    assert sentence in result.output and "Traceback" not in result.output
    assert not [*runs_of(tiny).folder.glob("*-*")]  # nor is anything left of it


def test_the_time_left_has_sixty_seconds_a_minute() -> None:
    from captionapp.cli.training import _line

    progress = Progress(3, 10, 0.5, 2.25, 2.5, 12.0, seconds_left=59.7)
    assert _line(progress) == (
        "pass 0.5, loss 2.25, loss on watched pictures 2.50, 12.0 pictures/s, 1:00 left"
    )


def test_the_rate_is_that_of_the_method_in_use() -> None:
    from captionapp.cli.training import configured

    assert configured({"learning_rate": 0.5}).lora_learning_rate == 0.5
    assert configured({}).lora_learning_rate != configured({}).learning_rate


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command as a process; the environment names instance and model."""
    processes = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "model", "finetune"]
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_ctrl_c_saves_and_resume_goes_on(tiny: Flask, start: Any) -> None:
    process = start(*TINY, "--epochs", "100000", "--set", "patience=100000")
    runs = runs_of(tiny)
    until(lambda: (state := runs.latest()) and state.progress, SLOW)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SLOW)
    state = runs.latest()
    assert process.returncode == 1 and state and state.status == "stopped"
    assert "Saving and stopping" in said and "--resume" in said and "Traceback" not in said
    checkpoint = runs.folder / state.id / "checkpoint.pt"
    assert checkpoint.exists() and not versions_of(tiny)
    # Another one that fails before it begins takes nothing away.
    assert "100000 are needed" in invoke(tiny, "--set", "min_corrections=100000").output
    assert checkpoint.exists()

    plan = runs.folder / state.id / "plan.json"
    content = json.loads(plan.read_text())
    step = stopped_at(state.message)
    content["config"]["epochs"] = 1  # it is past that, so there is only the version to make
    plan.write_text(json.dumps(content))
    result = invoke(tiny, "--resume")
    assert result.exit_code == 0, result.output
    (name,) = versions_of(tiny)
    details = tiny.extensions["captionapp"].versions.get(name).details
    assert details["figures"]["step"] == step and runs.get(state.id).status == "done"
    assert not checkpoint.exists()


def stopped_at(message: str) -> int:
    return int(message.split("after step ")[1].split()[0])


@pytest.mark.usefixtures("hardly_nice")
def test_a_detached_training_is_a_session_of_its_own_and_can_be_stopped(tiny: Flask) -> None:
    runs = runs_of(tiny)
    started = runs.start_detached([*TINY, "--epochs", "100000", "--set", "patience=100000"])
    assert started.status == "running" and started.pid != os.getpid()
    assert os.getsid(started.pid) == started.pid
    until(lambda: runs.get(started.id).progress, SLOW)
    busy = invoke(tiny)
    assert busy.exit_code == 1 and f"process {started.pid}" in busy.output
    runs.request_stop(started.id)
    until(lambda: not runs.get(started.id).active, SLOW)
    assert runs.get(started.id).status == "stopped"
    assert (runs.folder / started.id / "log.txt").read_text().startswith("Fine-tuning tiny-")


@pytest.mark.usefixtures("hardly_nice")
def test_a_detached_training_that_fails_says_why(tiny: Flask) -> None:
    runs = runs_of(tiny)
    started = runs.start_detached(["--set", "min_corrections=1000"])
    until(lambda: not runs.get(started.id).active, SLOW)
    assert runs.get(started.id).status == "failed"
    assert "1000 are needed" in runs.get(started.id).message


@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_any_moment_it_goes_on_and_lists_nothing_half_written(
    tiny: Flask, start: Any, attempt: int
) -> None:
    """benchmarks/kill_training.py does this twenty times while training and while saving."""
    options = [*TINY, "--epochs", "60", "--set", "checkpoint_seconds=0.01"]
    process = start(*options)
    runs = runs_of(tiny)
    until(lambda: (state := runs.latest()) and state.progress, SLOW)
    time.sleep(random.Random(attempt).uniform(0, 1.0))
    process.kill()
    process.wait()
    for name in versions_of(tiny):  # it was nearly done
        assert (Path(tiny.instance_path) / "models" / name / "model.safetensors").exists()
    state = runs.latest()
    assert state and state.status in ("interrupted", "done")
    if state.status == "interrupted":
        assert invoke(tiny, "--resume").exit_code == 0
    assert len(versions_of(tiny)) == 1
