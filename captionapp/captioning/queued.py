"""What waits in the queue before the model, and who is told of it: see ``batching``."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from captionapp.captioning.captioner import Captioner, DecodeOptions
from captionapp.errors import Dropped

#: (image_id, options key) of a job, see ``jobs``.
JobName = tuple[str, str]


class Observer(Protocol):
    """Who is told what happens in a queue; ``Metrics`` for one."""

    def queue_depth(self, waiting: int) -> None:
        """So many captions wait."""

    def batch_begun(self, size: int) -> None:
        """So many pictures are captioned together."""

    def step(self, name: str, seconds: float) -> None:
        """A picture took so long to ``prepare``, waited so long in the ``queue``; or a batch was
        so long in the ``model``."""


@dataclass(eq=False)
class Request:
    """A caption with these options, or, without options, what ``call`` makes of the picture.

    ``image`` and ``captioner`` are there once it is prepared, for that captioner, or ``error`` why
    it could not be. ``name`` is what the queue's ``take`` is asked for in its turn. ``load`` reads
    the picture from where it is stored, so that what waits holds a small one at most.
    """

    load: Callable[[], Image.Image]
    options: DecodeOptions | None
    call: Callable[[Captioner, Image.Image], Any] | None = None
    future: Future[Any] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    name: JobName | None = None
    image: Image.Image | None = None
    error: Exception | None = None
    captioner: Captioner | None = None

    @property
    def is_prepared(self) -> bool:
        return self.image is not None or self.error is not None

    def goes_with(self, other: Request) -> bool:
        """Whether one batch can hold both; a call is alone."""
        if self.call or other.call:
            return self is other
        return self.options == other.options


def drop(request: Request) -> None:
    """Its turn has come, or it was taken out of the queue, and nobody wants it."""
    request.future.set_exception(Dropped("Nobody waits for this description any more."))


def fail(requests: list[Request], error: Exception) -> None:
    """Those that have no answer yet fail with this."""
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
