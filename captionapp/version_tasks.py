"""Judging and promoting a version from the page: long work, in a process of its own.

It loads two models and captions many pictures, which neither the memory nor the threads of a
worker are for. One at a time across all workers; what came of it is read from what it changed,
the report or the pointer, and from the last line that it printed.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock

from captionapp import atomic, detached
from captionapp.captioning.pointer import now
from captionapp.errors import TaskBusy
from captionapp.sentences import Sentence

LOCK_SECONDS = 10


class Task(StrEnum):
    """What is done with a version; the command of ``flask model``."""

    EVALUATE = "evaluate"
    PROMOTE = "promote"


@dataclass(frozen=True)
class TaskState:
    """The last task as it is now.

    ``started_at`` is ISO 8601 in UTC. Once it no longer runs, ``refusal`` is the sentence that the
    command ended in if it failed with one, and ``last_line`` whatever it printed last.
    """

    id: str
    task: Task
    version: str
    started_at: str
    running: bool
    refusal: str
    last_line: str


class VersionTasks:
    """Tasks of the instance folder ``instance``; their traces are in ``evaluations/``."""

    def __init__(self, instance: Path) -> None:
        self.instance = instance
        self._state = instance / "evaluations" / "task.json"
        self._log = instance / "evaluations" / "task.log"

    def latest(self) -> TaskState | None:
        """The task that was started last; None if none ever was, or its trace is damaged."""
        try:
            return self._latest(json.loads(self._state.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _latest(self, state: dict[str, Any]) -> TaskState:
        running = detached.lives(state)
        said = "" if running else detached.last_line(self._log)
        return TaskState(
            id=str(state["id"]),
            task=Task(state["task"]),
            version=str(state["version"]),
            started_at=str(state["started_at"]),
            running=running,
            refusal=said.removeprefix("Error: ") if said.startswith("Error: ") else "",
            last_line=said,
        )

    def start(self, task: Task, version: str, force_reason: str = "") -> TaskState:
        """Begin a task. A promotion with a reason overrides what the gate says.

        Raises:
            TaskBusy: if one is under way.
            OSError: if the process cannot be started.
        """
        self._state.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["model", task.value, version]
        if task is Task.PROMOTE and force_reason:
            arguments.append(f"--force={force_reason}")
        with FileLock(f"{self._state}.lock", timeout=LOCK_SECONDS):
            other = self.latest()
            if other is not None and other.running:
                raise TaskBusy(
                    Sentence(
                        "%(version)s is being judged (since %(since)s); there is one at a time."
                        " Wait for it.",
                        version=other.version,
                        since=other.started_at,
                    )
                )
            known = {
                "id": uuid.uuid4().hex,
                "task": task.value,
                "version": version,
                "started_at": now(),
            }
            known |= detached.start(arguments, self.instance, self._log)
            atomic.write(self._state, json.dumps(known, indent=2).encode())
        state = self.latest()
        assert state is not None  # it was just written
        return state
