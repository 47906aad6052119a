"""What frozen layers of a vision model see in views of pictures: looked at once, kept in a file.

So memory stays small however large the model is, and a training that goes on after a crash need
not look again.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

FILE = "seen.bin"
_KEY_BYTES = 16
_CHECK_BYTES = 4


class Features:
    """Records of one size: a key, the numbers as float16, a checksum. They are only appended.

    ``shape`` is that of what is seen of a picture, (places, width); ``see`` makes it of pixels, and
    ``by`` says what that is: what others saw is not found in the file. The file takes
    ``most_bytes`` at most: what finds no room is seen anew each time. ``on_skip`` is told, once,
    that the disk has none.
    """

    def __init__(
        self,
        file: Path,
        shape: tuple[int, int],
        see: Callable[[torch.Tensor], torch.Tensor],
        by: str,
        most_bytes: int,
        on_skip: Callable[[str], None],
    ) -> None:
        self.file, self.shape, self._see, self._by, self._on_skip = file, shape, see, by, on_skip
        self._numbers = 2 * shape[0] * shape[1]  # bytes of them
        self._record = _KEY_BYTES + self._numbers + _CHECK_BYTES
        self._room = most_bytes // self._record
        self._places: dict[bytes, int] = {}  # number of the record by key
        self._records = 0
        #: Views looked at by this process, and the seconds that took.
        self.looked, self.seconds = 0, 0.0
        self._find()

    def __len__(self) -> int:
        """Views that are kept."""
        return len(self._places)

    def of(
        self, views: Sequence[str], pixels: Callable[[Sequence[int]], torch.Tensor]
    ) -> torch.Tensor:
        """(n, places, width): what is seen in views, each named by what it shows.

        ``pixels`` makes those of the views at some places of ``views``, for what is not kept yet.
        """
        names = [f"{self._by} {view}" for view in views]
        keys = [hashlib.sha256(name.encode()).digest()[:_KEY_BYTES] for name in names]
        found = self._read(keys)
        missing = [place for place, one in enumerate(found) if one is None]
        if missing:
            began = time.monotonic()
            fresh = self._see(pixels(missing)).half()
            for place, one in zip(missing, fresh, strict=True):
                found[place] = one
                self._append(keys[place], one)
            self.looked += len(missing)
            self.seconds += time.monotonic() - began
        return torch.stack([one for one in found if one is not None]).float()

    def _find(self) -> None:
        """The records of an earlier process, without half a one at the end."""
        try:
            with self.file.open("r+b") as file:
                whole = self.file.stat().st_size // self._record
                file.truncate(whole * self._record)
                self._records = whole
                for number in range(whole):
                    file.seek(number * self._record)
                    self._places[file.read(_KEY_BYTES)] = number
        except FileNotFoundError:
            return
        except OSError as error:
            self._give_up(error)

    def _read(self, keys: Sequence[bytes]) -> list[torch.Tensor | None]:
        if not self._places:
            return [None] * len(keys)
        with self.file.open("rb") as file:
            return [self._one(file, self._places.get(key)) for key in keys]

    def _one(self, file: BinaryIO, number: int | None) -> torch.Tensor | None:
        if number is None:
            return None
        file.seek(number * self._record + _KEY_BYTES)
        content = bytearray(file.read(self._numbers))
        check = file.read(_CHECK_BYTES)
        if zlib.crc32(content).to_bytes(_CHECK_BYTES) != check:  # the power failed meanwhile
            return None
        return torch.frombuffer(content, dtype=torch.float16).view(self.shape)

    def _append(self, key: bytes, seen: torch.Tensor) -> None:
        if self._records >= self._room:
            return
        content = seen.contiguous().numpy().tobytes()
        record = key + content + zlib.crc32(content).to_bytes(_CHECK_BYTES)
        try:
            with self.file.open("ab") as file:
                file.write(record)
        except OSError as error:
            self._give_up(error)
        else:
            self._places[key] = self._records
            self._records += 1

    def _give_up(self, error: OSError) -> None:
        self._room = 0
        self._on_skip(f"What the model sees is not kept, so this takes longer: {error}")
