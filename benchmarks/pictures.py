"""Pictures that nobody has sent before, for the programs that measure over HTTP."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
#: Of a photograph, so many pixels in a square become others.
_CHANGED = 8


class Pictures:
    """JPEG files, one after the other, equal ones whenever they are begun from the start.

    They are drawn, smooth and of 640 x 480, or, with a ``folder``, are those that it holds, at any
    depth, each with a small square changed, so that none comes twice. ``prepare`` makes them before
    the clock starts: making them takes none of the servers' cores. Safe to call from many threads.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._files: list[Path] = []
        if folder is not None:
            self._files = sorted(
                path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES
            )
            if not self._files:
                raise ValueError(f"there are no pictures in {folder}")
        self._made: list[bytes] = []
        self._next = 0
        self._lock = threading.Lock()

    def prepare(self, count: int) -> None:
        """Have so many at hand."""
        while len(self._made) < self._next + count:
            self._made.append(self._make(len(self._made)))

    def rewind(self) -> None:
        """Begin again with the first one."""
        self._next = 0

    def __call__(self) -> bytes:
        """The next one; it is made now if it is not at hand."""
        with self._lock:
            number = self._next
            self._next += 1
        return self._made[number] if number < len(self._made) else self._make(number)

    def _make(self, number: int) -> bytes:
        random = np.random.default_rng(number)
        if not self._files:
            return drawn(random)
        return _changed(self._files[number % len(self._files)], random)


def drawn(random: np.random.Generator) -> bytes:
    """A smooth drawing in colours."""
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return _jpeg(coarse.resize((640, 480), Image.Resampling.BICUBIC), quality=75)


def _changed(path: Path, random: np.random.Generator) -> bytes:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    square = random.integers(0, 255, (_CHANGED, _CHANGED, 3), dtype=np.uint8)
    where = [int(random.integers(max(1, side - _CHANGED))) for side in picture.size]
    picture.paste(Image.fromarray(square), (where[0], where[1]))
    return _jpeg(picture, quality=90)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
