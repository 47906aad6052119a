"""A queue with a model that only pretends, and what it tells."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image

from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import CaptionFailed
from tests.conftest import FakeCaptioner, draw

PLAIN = DecodeOptions()


class Service:
    """Hands out one captioner, whose batches wait until ``gate`` is open."""

    def __init__(self, captioner: Any) -> None:
        self.held = captioner
        self.gate = threading.Event()
        self.gate.set()
        if not isinstance(captioner, Exception):
            said = captioner.caption
            captioner.caption = lambda *given: self.gate.wait(10) and said(*given)

    def captioner(self) -> Any:
        if isinstance(self.held, Exception):
            raise self.held
        return self.held


class Watcher:
    """Keeps what a queue tells."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.batches: list[int] = []
        self.steps: list[str] = []

    def queue_depth(self, waiting: int) -> None:
        self.depths.append(waiting)

    def batch_begun(self, size: int) -> None:
        self.batches.append(size)

    def step(self, name: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.steps.append(name)


class FussyCaptioner(FakeCaptioner):
    """Fails the whole batch if a picture in it is one pixel wide."""

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        if any(image.width == 1 for image in images):
            raise CaptionFailed("no words for a line")
        return super().caption(images, options)


def submit(queue: CaptionQueue, options: DecodeOptions = PLAIN, width: int = 8) -> Any:
    with queue.reserve(1) as reservation:
        return reservation.submit(lambda: draw(size=(width, 8)), options)
