"""Fixtures: an application in a temporary instance folder, with a captioner that only pretends."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from PIL import Image, ImageDraw

from captionapp import create_app, detached
from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import Caption, DecodeOptions, Looks, Word
from captionapp.captioning.versions import ModelVersion
from captionapp.feedback.repository import CsvFeedbackRepository
from captionapp.records import Records
from captionapp.training.dataset import Example
from captionapp.workflow import Workflow
from tests.gunicorn_server import Server

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core: torch, which reads this when it is imported, would take all of them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class FakeCaptioner:
    """Answers at once with the next of ``replies``, the last one again and again.

    A reply that is an exception is raised. What it was asked is kept in ``calls``.
    """

    def __init__(self, model_version: str = "fake-1", replies: Sequence[Any] = ("a red ball",)):
        self.model_version = model_version
        self.replies = list(replies)
        self.calls: list[tuple[int, DecodeOptions]] = []
        self.looked: list[str] = []

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        self.calls.append((len(images), options))
        captions = []
        for _ in images:
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if isinstance(reply, Exception):
                raise reply
            captions.append(self._captions(reply, options))
        return captions

    def _captions(self, reply: str | Sequence[str], options: DecodeOptions) -> Caption:
        """A reply that is several texts is one with alternatives; the first word of a text is one
        that it was unsure of."""
        replies = [reply] if isinstance(reply, str) else reply[: options.alternatives]
        first, *others = [
            self._caption(f"{options.prompt} {text}".strip(), 0.5 / number, options)
            for number, text in enumerate(replies, start=1)
        ]
        return dataclasses.replace(first, others=tuple(others))

    def _caption(self, text: str, probability: float, options: DecodeOptions) -> Caption:
        given = len(options.prompt.split())
        words = tuple(
            Word(word, None if i < given else 0.05 if i == given else 0.8)
            for i, word in enumerate(text.split())
        )
        return Caption(text, probability, self.model_version, options, 0.01, words)

    def look(self, image: Image.Image, text: str) -> Looks:
        """At four fields, at each word at another one most of all."""
        self.looked.append(text)
        fields = [[0.7 if field == i % 4 else 0.1 for field in range(4)] for i in range(100)]
        return Looks(2, 2, tuple(map(tuple, fields[: len(text.split())])))


class HeldCaptioner(FakeCaptioner):
    """Begins a batch, which sets ``begun``, and ends it once it is let ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        self.begun.set()
        assert self.go.wait(30)
        return super().caption(images, options)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests never see the settings, nor touch the instance folder, of whoever runs them."""
    for name in list(os.environ):
        if name.startswith("CAPTIONAPP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CAPTIONAPP_INSTANCE", str(tmp_path / "instance"))


@pytest.fixture
def hardly_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that waits for a detached process. That gives way to whatever else computes, which
    here is another worker's tests."""
    monkeypatch.setattr(detached, "NICENESS", 1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP."""
    from tests.tiny_blip import make_tiny_blip

    return make_tiny_blip(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP that says more."""
    from tests.tiny_blip import make_wordy_blip

    return make_wordy_blip(tmp_path_factory.mktemp("checkpoint") / "wordy")


@pytest.fixture
def start(checkpoint: Path) -> ModelVersion:
    """What trainings of a tiny BLIP start from."""
    from tests.trainings import tiny_version

    return tiny_version(checkpoint)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[str, int], list[Example]]:
    """``pictures(caption, count)`` draws so many different ones to train on."""
    from tests.trainings import drawn

    return partial(drawn, tmp_path)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "captionapp.db")
    yield records
    records.close()


@pytest.fixture
def repository(tmp_path: Path) -> CsvFeedbackRepository:
    return CsvFeedbackRepository(tmp_path / "feedback.csv")


@pytest.fixture
def start_server(tmp_path: Path, checkpoint: Path) -> Iterator[Callable[..., Server]]:
    """``start_server(*arguments, **settings)`` is a gunicorn that serves a tiny BLIP."""
    servers: list[Server] = []

    def start(*args: str, **settings: str) -> Server:
        settings = {"model": str(checkpoint), "torch_threads": "1"} | settings
        server = Server(tmp_path / "instance", tmp_path / "log", *args, **settings)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def captioner() -> FakeCaptioner:
    return FakeCaptioner()


@pytest.fixture
def held() -> Iterator[HeldCaptioner]:
    """Let go at the end, so that no thread of a test is left waiting."""
    held = HeldCaptioner()
    yield held
    held.go.set()


@pytest.fixture
def make_app(tmp_path: Path, captioner: FakeCaptioner) -> Iterator[Any]:
    """``make_app(**settings)`` builds an application with the fake captioner; closed at the end."""
    apps: list[Flask] = []

    def make(**config: Any) -> Flask:
        app = create_app(
            {"TESTING": True, "WTF_CSRF_ENABLED": False, "CAPTIONAPP_RATE_LIMIT": ""} | config
        )
        workflow: Workflow = app.extensions["captionapp"]
        serve(workflow, captioner)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["captionapp"].close(timeout=10)


@pytest.fixture
def make_queue() -> Iterator[Callable[..., CaptionQueue]]:
    """``make_queue(service)``; all go on, and are closed, at the end."""
    queues: list[tuple[Any, CaptionQueue]] = []

    def make(service: Any, size: int = 8, batch_size: int = 4, **kwargs: Any) -> CaptionQueue:
        queue = CaptionQueue(service, size, batch_size, **kwargs)
        queues.append((service, queue))
        return queue

    yield make
    for service, queue in queues:
        service.gate.set()
        queue.close(10)


def serve(workflow: Workflow, captioner: FakeCaptioner) -> None:
    """Have the application serve this captioner as its current version."""
    version = ModelVersion(
        name=captioner.model_version,
        folder=Path("nowhere"),
        origin="shipped",
        created_at="2026-01-01T00:00:00Z",
    )
    workflow.versions.current = lambda: version  # type: ignore[method-assign]
    workflow.service._load = lambda _: captioner  # type: ignore[assignment]


@pytest.fixture
def app(make_app: Any) -> Flask:
    return make_app()


@pytest.fixture
def workflow(app: Flask) -> Workflow:
    return app.extensions["captionapp"]


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def draw(colour: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A ball on a meadow."""
    image = Image.new("RGB", size, "#7a4")
    width, height = size
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def png() -> bytes:
    return encoded(draw())
