from __future__ import annotations

import errno
import os
import sqlite3
from typing import Any

import pytest
from flask.testing import FlaskCliRunner
from sqlalchemy.exc import OperationalError

from captionapp.workflow import Workflow


@pytest.fixture
def fail(workflow: Workflow, runner: FlaskCliRunner, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command in which this error comes up."""

    def run(error: Exception) -> Any:
        def prune(keep: int) -> list[str]:
            raise error

        monkeypatch.setattr(workflow.promotion, "prune", prune)
        return runner.invoke(args=["model", "prune"])

    return run


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, FULL, "/srv/current.json"), f"/srv/current.json: {FULL}."),
        (OSError("It is not there."), "It is not there."),
        (
            sqlite3.OperationalError("database or disk is full"),
            "The database cannot be used: database or disk is full.",
        ),
        (
            OperationalError("INSERT", {}, sqlite3.OperationalError("disk I/O error")),
            "The database cannot be used: disk I/O error.",
        ),
    ],
)
def test_a_disk_that_fails_is_a_sentence(fail: Any, error: Exception, sentence: str) -> None:
    result = fail(error)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {sentence}\n"


def test_whoever_stops_reading_is_told_nothing(fail: Any) -> None:
    result = fail(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.exit_code, result.output) == (1, "")
