"""What a request spent its time on, and which pictures it was about.

Domain code says ``with timed("decode"):`` and ``about(image_id)``; whoever answers the request
collects it. Outside a collection both do nothing, so that commands and tests need not care.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Work:
    """Seconds by step, and the ids of pictures, each once and in order.

    A step that comes several times, as decoding does with several files, adds up.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)

    def add(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds


_work: ContextVar[Work | None] = ContextVar("work", default=None)


def collect() -> Work:
    """A new collection for everything this thread does from now on."""
    work = Work()
    _work.set(work)
    return work


def collected() -> Work | None:
    """The current collection: take it along to add, from another thread, what was done there."""
    return _work.get()


def stop_collecting() -> None:
    """Forget the current collection: the thread goes on to something else."""
    _work.set(None)


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``step``, also when it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        work = _work.get()
        if work is not None:
            work.add(step, time.perf_counter() - started)


def about(image_id: str) -> None:
    """The request has to do with this picture."""
    work = _work.get()
    if work is not None and image_id not in work.pictures:
        work.pictures.append(image_id)
