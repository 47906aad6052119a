"""One training at a time, whoever starts it, and what others can see of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from captionapp import atomic, detached
from captionapp.errors import NotFound, TooFewRows, TrainingBusy, TrainingFailed, TrainingStopped
from captionapp.training.config import Progress
from captionapp.training.runs import HANDOVER_SECONDS, PLAN, TrainingRuns

HOLD = """
import sys, time
from pathlib import Path
from captionapp.training.runs import TrainingRuns
with TrainingRuns(Path(sys.argv[1])).begin() as run:
    print(run.id, flush=True)
    time.sleep(60)
"""
PROGRESS = Progress(3, 10, 0.5, 2.25, None, 12.0, 60.0)


@pytest.fixture
def runs(tmp_path: Path) -> TrainingRuns:
    return TrainingRuns(tmp_path / "instance" / "training")


@contextmanager
def training_elsewhere(runs: TrainingRuns) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process that trains until it is killed."""
    command = [sys.executable, "-c", HOLD, str(runs.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def test_a_run_tells_how_it_goes_and_how_it_ended(runs: TrainingRuns) -> None:
    assert runs.latest() is None
    with runs.begin() as run:
        run.report(PROGRESS)
        now = runs.get(run.id)
        assert (now.status, now.progress, now.pid) == ("running", PROGRESS, os.getpid())
        assert now.active and now.version is None
        run.version = "trained-1"
    done = runs.latest()
    assert done and (done.id, done.status, done.version) == (run.id, "done", "trained-1")
    assert not done.active


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (TrainingStopped("The training was stopped after step 3."), "stopped", "after step 3"),
        (TrainingFailed("The loss is no number any more."), "failed", "no number"),
        (RuntimeError("shapes differ"), "failed", "RuntimeError: shapes differ"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
    ],
)
def test_what_ends_a_training_is_its_status(
    runs: TrainingRuns, error: BaseException, status: str, message: str
) -> None:
    with pytest.raises(type(error)), runs.begin() as run:
        (run.folder / PLAN).touch()
        raise error
    latest = runs.latest()
    assert latest and latest.status == status and message in latest.message


def test_a_run_that_is_refused_before_it_has_a_plan_leaves_nothing(runs: TrainingRuns) -> None:
    with pytest.raises(TooFewRows), runs.begin():
        raise TooFewRows("There are 2 corrected pictures.")
    assert not [path for path in runs.folder.iterdir() if path.is_dir()]


def test_a_second_training_is_refused_whatever_process_asks(runs: TrainingRuns) -> None:
    with training_elsewhere(runs) as (run_id, process):
        with pytest.raises(TrainingBusy, match=f"process {process.pid}"), runs.begin():
            pass
        with pytest.raises(TrainingBusy):
            runs.start_detached([])
        assert [state.id for state in runs.list()] == [run_id]
    with runs.begin() as run:  # the lock went with the process that was killed
        assert run.id != run_id
    assert runs.get(run_id).status == "interrupted"


def test_only_a_process_that_was_started_waits_for_the_lock(
    runs: TrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever types --resume while one trains is told so at once."""
    waited: list[float] = []

    def lock(path: Path, timeout: float) -> FileLock:
        waited.append(timeout)
        return FileLock(path, timeout=0)

    with runs.begin() as run:
        monkeypatch.setattr("captionapp.training.runs.FileLock", lock)
        for handed_over in (False, True):
            with pytest.raises(TrainingBusy), runs.begin(run.id, handed_over=handed_over):
                pass
    assert waited == [0, HANDOVER_SECONDS]


def test_a_process_that_nobody_waited_for_does_not_train(runs: TrainingRuns) -> None:
    with training_elsewhere(runs) as (run_id, process):
        assert runs.get(run_id).status == "running"
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays, as a zombie
        assert runs.get(run_id).status == "interrupted"


def test_another_process_of_the_same_number_is_not_the_training(
    runs: TrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runs.begin() as run:
        import psutil

        since = psutil.Process().create_time()
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: since + 3600)
        assert runs.get(run.id).status == "interrupted"


def test_stopping_is_asked_for_by_a_file(runs: TrainingRuns) -> None:
    with runs.begin() as run:
        assert not run.stop_requested()
        runs.request_stop(run.id)
        assert run.stop_requested()
        assert runs.get(run.id).status == "stopping"
    runs.request_stop(run.id)  # too late, and no error
    with runs.begin(run.id) as again:  # a run that is resumed is not stopped by an old wish
        assert not again.stop_requested()
        assert runs.get(run.id).status == "running"


def test_a_stop_right_after_the_start_is_heard(
    runs: TrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is asked for before the process that was started has the lock."""
    started: list[list[str]] = []

    def start(arguments: list[str], *rest: Any) -> dict[str, Any]:
        started.append(arguments)
        return detached.identity(os.getpid())

    monkeypatch.setattr(detached, "start", start)
    state = runs.start_detached([])
    runs.request_stop(state.id)
    assert started == [["model", "finetune", "--run", state.id]]
    with pytest.raises(TrainingBusy), runs.begin(state.id):  # --resume takes neither
        pass
    with pytest.raises(TrainingStopped), runs.begin(state.id, handed_over=True) as run:
        assert run.stop_requested()
        raise TrainingStopped("Stopped.")
    runs.start_detached([], resume=state.id)  # that one's wish is over
    with runs.begin(state.id, handed_over=True) as run:
        assert not run.stop_requested()


@pytest.mark.parametrize("run_id", ["20260101-000000-abcd", "../models", "", "training.lock"])
def test_only_runs_are_runs(runs: TrainingRuns, run_id: str) -> None:
    (runs.folder.parent / "models").mkdir(parents=True)
    (runs.folder.parent / "models" / "state.json").write_text("{}")
    with pytest.raises(NotFound):
        runs.get(run_id)
    with pytest.raises(NotFound):
        runs.request_stop(run_id)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"status": "done", "message": ""}'])
def test_a_run_whose_state_is_damaged_is_passed_over(runs: TrainingRuns, content: str) -> None:
    with runs.begin() as whole:
        pass
    with runs.begin() as damaged:
        pass
    (damaged.folder / "state.json").write_text(content)
    assert [state.id for state in runs.list()] == [whole.id]
    assert runs.latest() == runs.get(whole.id)
    with runs.begin():
        pass
    assert len(runs.list()) == 2


@pytest.mark.parametrize("content", ["half a", '{"step": 1}', '{"step": 1, "future": 2}'])
def test_progress_that_is_not_understood_is_none(runs: TrainingRuns, content: str) -> None:
    with runs.begin() as run:
        run.report(PROGRESS)
    (run.folder / "progress.json").write_text(content)
    assert runs.get(run.id).progress is None


def test_a_checkpoint_lasts_until_the_next_training(runs: TrainingRuns) -> None:
    with pytest.raises(TrainingStopped), runs.begin() as first:
        (first.folder / "checkpoint.pt").write_bytes(b"1")
        raise TrainingStopped("Stopped.")
    with pytest.raises(TrainingStopped), runs.begin(first.id):
        assert (first.folder / "checkpoint.pt").exists()
        raise TrainingStopped("Stopped again.")
    half = first.folder / "version" / "model.safetensors"  # killed while it was stored
    half.parent.mkdir()
    half.write_bytes(b"half")
    with pytest.raises(TrainingStopped), runs.begin() as second:
        assert (first.folder / "checkpoint.pt").exists()  # this one may yet fail to begin
        (second.folder / "version").mkdir()
        runs.keep_only(second)
        assert not (first.folder / "checkpoint.pt").exists()
        assert not half.parent.exists() and (second.folder / "version").exists()
        (second.folder / "checkpoint.pt").write_bytes(b"2")
        raise TrainingStopped("Stopped.")
    with runs.begin(second.id):
        pass
    assert not (second.folder / "checkpoint.pt").exists()  # it is done


def test_a_full_disk_does_not_end_a_training(
    runs: TrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with runs.begin() as run:
        monkeypatch.setattr(atomic, "write", full)
        run.report(PROGRESS)
    assert runs.get(run.id).progress is None
