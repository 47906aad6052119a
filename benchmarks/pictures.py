"""Pictures that nobody has sent before, for the programs that measure over HTTP."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
#: Bytes that pictures made ahead take at most.
AHEAD_BYTES = 1_000_000_000
#: Of a photograph, so many pixels in a square become others.
_CHANGED = 8
#: More pictures than a run sends.
_RUN = 1_000_000


class Pictures:
    """JPEG files, one after the other. Each run has its own, which are the same ones every time.

    They are drawn, smooth and of 640 x 480, or, with a ``folder``, are those that it holds, at any
    depth, each with a small square changed, so that none comes twice. What is made before the clock
    starts takes none of the servers' cores while it runs. Safe to call from many threads.
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
        self._first = self._next = 0
        #: Of this run, how many were made when they were asked for.
        self.late = 0
        self._lock = threading.Lock()

    def begin(self, run: int, ahead: int) -> None:
        """Begin the run of this number, with so many pictures at hand, or as many as there is room
        for."""
        self._first = self._next = run * _RUN
        self.late, self._made, room = 0, [], AHEAD_BYTES
        while len(self._made) < ahead and room > 0:
            self._made.append(self._make(self._first + len(self._made)))
            room -= len(self._made[-1])

    def __call__(self) -> bytes:
        """The next one; it is made now if it is not at hand."""
        with self._lock:
            number = self._next
            self._next += 1
            at_hand = number - self._first < len(self._made)
            self.late += not at_hand
        return self._made[number - self._first] if at_hand else self._make(number)

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
