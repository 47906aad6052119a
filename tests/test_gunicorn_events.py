"""Streams of events under gunicorn: bounded, and no worker waits for them when it stops."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captionapp import detached
from tests.gunicorn_server import Server
from tests.waiting import until

pytestmark = pytest.mark.server

OPERATOR = {"Authorization": "Basic " + base64.b64encode(b"operator:secret").decode()}


@pytest.fixture
def server(tmp_path: Path, checkpoint: Path) -> Iterator[Server]:
    """A server whose instance folder tells of a training; this process pretends to be it."""
    folder = tmp_path / "instance" / "training" / "20261101-100000-ab12"
    folder.mkdir(parents=True)
    state = {"status": "running", "started_at": "2026-11-01T10:00:00Z", "message": ""}
    state |= {"version": None} | detached.identity(os.getpid())
    (folder / "state.json").write_text(json.dumps(state))
    server = Server(
        tmp_path / "instance",
        tmp_path / "log",
        model=str(checkpoint),
        admin_password="secret",
        threads="8",
    )
    try:
        server.until_alive()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


class Watcher:
    """A page that watches; ``status`` is what it was answered."""

    def __init__(self, server: Server) -> None:
        address = server.base.removeprefix("http://")
        self.connection = http.client.HTTPConnection(address, timeout=20)
        self.connection.request("GET", "/models/training/events", headers=OPERATOR)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture
def watch(server: Server) -> Iterator[Callable[[], Watcher]]:
    watchers: list[Watcher] = []

    def begin() -> Watcher:
        watchers.append(Watcher(server))
        return watchers[-1]

    yield begin
    for watcher in watchers:
        watcher.close()


def test_streams_are_bounded_and_a_stop_does_not_wait_for_them(
    server: Server, watch: Callable[[], Watcher]
) -> None:
    watching = [watch(), watch()]  # a quarter of the eight threads
    assert [one.status for one in watching] == [200, 200]
    assert watching[0].answer.readline() == b"retry: 2000\n"
    assert watch().status == 503
    assert server.status("/healthz") == 200
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)  # a stop that waited for them would take all of graceful_timeout
    assert b"event: news" in watching[0].answer.read()


def test_a_browser_that_goes_away_gives_its_place_back(
    server: Server, watch: Callable[[], Watcher]
) -> None:
    for watcher in (watch(), watch()):
        assert watcher.status == 200
        watcher.close()
    until(lambda: watch().status == 200, 25)
