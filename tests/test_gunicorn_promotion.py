"""Promotion and rollback under clients, with gunicorn as a process and two tiny checkpoints."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.versions import ModelVersions
from tests.gunicorn_server import ROOT, Server
from tests.marked import MARKS, attribution, fits, make_marked, on_page, picture
from tests.waiting import until

pytestmark = pytest.mark.server


@pytest.fixture
def instance(tmp_path: Path, checkpoint: Path) -> Path:
    """An instance folder with the versions left and right."""
    versions = ModelVersions(tmp_path / "instance" / "models", checkpoint)
    for name, mark in MARKS.items():
        versions.pull(str(make_marked(checkpoint, tmp_path / "made" / name, mark)))
    return tmp_path / "instance"


def flask(instance: Path, *args: str) -> str:
    """Run a command as a person would, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "model", *args],
        cwd=ROOT,
        env=os.environ | {"CAPTIONAPP_INSTANCE": str(instance)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def clients(server: Server, number: int) -> Iterator[list[tuple[int, Any]]]:
    """So many clients send picture after picture; what they got, in the end all of it."""
    answers: list[tuple[int, Any]] = []
    finished = threading.Event()

    def send(seed: int) -> None:
        browser, chance = server.browser(), random.Random(seed)
        while not finished.is_set():
            page = browser.upload(picture(chance))
            answers.append((page.status, on_page(page.text)))

    with ThreadPoolExecutor(number) as pool:
        streams: list[Future[None]] = [pool.submit(send, seed) for seed in range(number)]
        try:
            yield answers
        finally:
            finished.set()
        for stream in streams:
            stream.result()  # raises what failed


def swaps(server: Server, version: str) -> int:
    """How often a worker has begun to serve this version instead of another."""
    return sum(line["event"].startswith(f"serving {version} instead of") for line in server.lines())


def test_promotion_and_rollback_under_clients(
    start_server: Callable[..., Server], instance: Path
) -> None:
    versions = ModelVersions(instance / "models", ROOT)
    left, right = [one.name for one in versions.list()]
    assert (left[:5], right[:6]) == ("left-", "right-")
    versions.set_current(left)
    server = start_server(model="", workers="2")
    server.until_ready()
    with clients(server, 4) as answers:
        until(lambda: len(answers) > 8)
        assert right in flask(instance, "promote", right)
        until(lambda: swaps(server, right) == 2)
        assert left in flask(instance, "rollback")
        until(lambda: swaps(server, left) == 2)
        for times in (2, 3):  # the commands again, without the processes
            versions.set_current(right, previous=left)
            until(lambda t=times: swaps(server, right) == 2 * t)
            versions.set_current(left)
            until(lambda t=times: swaps(server, left) == 2 * t)
        seen = len(answers)
        until(lambda: len(answers) > seen + 8)
    assert {status for status, _ in answers} == {200}
    shown = [caption for _, caption in answers if caption]
    assert shown and all(fits(text, version) for text, version in shown)
    assert {version for _, version in shown} == {left, right}
    found = attribution(instance)
    assert found.captions == len(answers) and not found.wrong
    assert "Traceback" not in server.log.read_text()
    assert server.stop() == 0
