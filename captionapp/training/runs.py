"""Trainings as runs: one at a time across all processes, each with a folder that tells of it.

A run folder holds ``state.json`` (status and process), ``progress.json`` (how far it is), ``stop``
(somebody wants it to end), ``plan.json`` (what is trained on what), ``checkpoint.pt``, ``seen.bin``
(what a frozen vision model saw) and, of a run that was started from the page, ``log.txt``. The lock
that keeps a second training away belongs to the process that trains: the system lets go of it
however that process ends.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captionapp import atomic, detached
from captionapp.errors import CaptionAppError, NotFound, TrainingBusy, TrainingStopped
from captionapp.sentences import Sentence
from captionapp.training.config import Progress

#: How long a started process may wait for the one that started it to let go of the lock.
HANDOVER_SECONDS = 30.0
#: What a run trains on what; without it there is nothing to go on with.
PLAN = "plan.json"
#: Files of a run that only matter until the next one begins; they may have gigabytes.
_BULKY = ("checkpoint.pt", "seen.bin")
#: Folder of a run in which its version is written until it is whole and moves away.
UNFINISHED = "version"
_FINETUNE = ("model", "finetune")
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """A training as it is now.

    ``status`` is ``running``, ``stopping`` (asked to, and about to), ``done``, ``failed``,
    ``stopped`` (by somebody) or ``interrupted`` (its process is gone); the last three can be
    resumed. ``started_at`` is ISO 8601 in UTC; ``message`` a sentence, or empty; ``version`` the
    name of the version that it made.
    """

    id: str
    status: str
    started_at: str
    progress: Progress | None
    message: str
    version: str | None
    pid: int

    @property
    def active(self) -> bool:
        """Whether it is under way."""
        return self.status in ("running", "stopping")


class Run:
    """A run in the hands of the process that trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        #: Set once the version is there.
        self.version: str | None = None

    def report(self, progress: Progress) -> None:
        """Let others see how far it is."""
        _try_to_write(self.folder / "progress.json", asdict(progress))

    def stop_requested(self) -> bool:
        """Whether somebody wants it to end."""
        return (self.folder / "stop").exists()

    def _set(self, status: str, message: str = "") -> None:
        state = _read(self.folder / "state.json") or {"started_at": _now()}
        state |= {"status": status, "message": message, "version": self.version}
        _try_to_write(self.folder / "state.json", state | detached.identity(os.getpid()))


class TrainingRuns:
    """The runs in ``folder`` (``instance/training``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> Sequence[RunState]:
        """All runs, newest first."""
        return [*self._newest_first()]

    def latest(self) -> RunState | None:
        """The newest run, if there is any."""
        return next(self._newest_first(), None)

    def get(self, run_id: str) -> RunState:
        """The run of this id.

        Raises:
            NotFound: if there is none.
        """
        state = self._state(run_id) if _is_id(run_id) else None
        if state is None:
            raise NotFound(Sentence("There is no training %(name)s.", name=run_id))
        return state

    def request_stop(self, run_id: str) -> None:
        """Have a run save what it has and end, soon; nothing happens if it is not under way.

        Raises:
            NotFound: if there is no such run.
        """
        if self.get(run_id).active:
            (self.folder / run_id / "stop").touch()

    def start_detached(self, arguments: Sequence[str], resume: str | None = None) -> RunState:
        """Start ``flask model finetune`` with these arguments as a process of its own.

        ``resume`` is the id of a run that is to go on instead of a new one.

        It has its own session, so that it outlives this process and its signals, and a low
        priority; what it prints goes to the run's ``log.txt``.

        Raises:
            TrainingBusy: if one is under way.
            NotFound: if there is no run to resume.
            OSError: if the process or its folder cannot be made.
        """
        with self._alone(0):
            run = self._new() if resume is None else Run(self.folder / self.get(resume).id)
            arguments = ["--run", run.id, *(["--resume"] if resume else []), *arguments]
            (run.folder / "stop").unlink(missing_ok=True)
            process = detached.start(
                [*_FINETUNE, *arguments], self.folder.parent, run.folder / "log.txt"
            )
            # It waits for the lock, so this is written before it writes anything.
            state = {"status": "running", "started_at": _now(), "message": "", "version": None}
            _write(run.folder / "state.json", state | process)
        return self.get(run.id)

    @contextmanager
    def begin(self, run_id: str | None = None, *, handed_over: bool = False) -> Iterator[Run]:
        """Be the one training, as a new run or as one that was there before; keep its state.

        ``handed_over``: ``start_detached`` made the run for this process, and may still have the
        lock; if somebody has asked the run to stop since then, that holds.

        How the block ends decides what became of the run: stopped after ``TrainingStopped``, failed
        after another error, done otherwise. A new run that is refused before it has a plan leaves
        nothing.

        Raises:
            TrainingBusy: if one is under way.
            NotFound: if there is no such run.
            OSError: if the folder cannot be written.
        """
        seconds, itself = (HANDOVER_SECONDS, run_id) if handed_over else (0, None)
        with self._alone(seconds, itself):
            run = self._new() if run_id is None else Run(self.folder / self.get(run_id).id)
            if not handed_over:
                (run.folder / "stop").unlink(missing_ok=True)
            run._set("running")
            try:
                yield run
            except TrainingStopped as error:
                run._set("stopped", str(error))
                raise
            except CaptionAppError as error:
                if run_id is None and not (run.folder / PLAN).exists():
                    shutil.rmtree(run.folder, ignore_errors=True)  # refused before it had begun
                else:
                    run._set("failed", str(error))
                raise
            except BaseException as error:
                run._set("failed", f"The training ended with {type(error).__name__}: {error}")
                raise
            run._set("done")
            for name in _BULKY:
                (run.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _alone(self, seconds: float, itself: str | None = None) -> Iterator[None]:
        """With the lock, for which it waits so long, and no other run under way than ``itself``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "training.lock", timeout=seconds):
                # One that was just started has not got the lock yet.
                others = [state for state in self.list() if state.active and state.id != itself]
                if others:
                    raise TrainingBusy(_busy(others[0]))
                yield
        except Timeout as error:
            latest = self.latest()
            raise TrainingBusy(_busy(latest)) from error

    def _new(self) -> Run:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        run = Run(self.folder / f"{stamp}-{uuid.uuid4().hex[:4]}")
        run.folder.mkdir()
        return run

    def keep_only(self, run: Run) -> None:
        """Remove the checkpoints and half-stored versions of the other runs, which would fill the
        disk.

        For a run that has begun: one that failed before must not cost what can be resumed.
        """
        for name in _BULKY:
            for file in self.folder.glob(f"*/{name}*"):
                if file.parent != run.folder or file.suffix == ".tmp":
                    file.unlink(missing_ok=True)
        for folder in self.folder.glob(f"*/{UNFINISHED}"):
            if folder.parent != run.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _newest_first(self) -> Iterator[RunState]:
        """Read one by one: whoever watches a training wants the first, twice a second."""
        names = [path.parent.name for path in self.folder.glob("*/state.json")]
        for name in sorted(filter(_is_id, names), reverse=True):
            if state := self._state(name):
                yield state

    def _state(self, run_id: str) -> RunState | None:
        """What the run's files say; None if they say nothing that can be understood."""
        folder = self.folder / run_id
        try:
            state = _read(folder / "state.json") or {}
            status, message = str(state["status"]), str(state["message"])
            if status == "running":
                if not detached.lives(state):
                    status = "interrupted"
                    message = message or detached.last_line(folder / "log.txt")
                elif (folder / "stop").exists():
                    status = "stopping"
            return RunState(
                id=run_id,
                status=status,
                started_at=str(state["started_at"]),
                progress=_progress(folder / "progress.json"),
                message=message,
                version=state["version"],
                pid=int(state["pid"]),
            )
        except (KeyError, TypeError, ValueError):  # edited by hand, or damaged
            return None


def _progress(path: Path) -> Progress | None:
    """How far a run is; None if that is not told, or in the words of another version of ours."""
    try:
        content = _read(path)
        return Progress(**content) if content else None
    except TypeError:
        return None


def _busy(other: RunState | None) -> Sentence:
    if other is None or not other.active:
        return Sentence("A training is under way; there is one at a time. Wait for it, or stop it.")
    return Sentence(
        "A training has been under way since %(since)s (process %(process)s); there is one at a"
        " time. Wait for it, or stop it.",
        since=other.started_at,
        process=str(other.pid),
    )


def _is_id(name: str) -> bool:
    return bool(_RUN_ID.fullmatch(name))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: dict[str, Any]) -> None:
    atomic.write(path, json.dumps(content, indent=2, ensure_ascii=False).encode())


def _try_to_write(path: Path, content: dict[str, Any]) -> None:
    """A full disk must not end a training because its progress cannot be told."""
    try:
        _write(path, content)
    except OSError as error:
        logger.warning("%s could not be written: %s", path, error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
