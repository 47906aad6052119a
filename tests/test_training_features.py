"""What was seen is kept, whole or not at all, and within bounds."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SHAPE = (3, 4)


class Eyes:
    """See a picture's number everywhere; what they looked at is in ``looked``."""

    def __init__(self, file: Path, most_bytes: int = 10**6, by: str = "eyes") -> None:
        from captionapp.training.features import Features

        self.looked: list[float] = []
        self.skipped: list[str] = []
        self.features = Features(file, SHAPE, self._see, by, most_bytes, self.skipped.append)

    def at(self, *views: int) -> list[float]:
        """What is seen in views, which are named by a number."""

        def pixels(places: Sequence[int]) -> Any:
            return torch.tensor([float(views[place]) for place in places])

        seen = self.features.of([f"view {view}" for view in views], pixels)
        assert seen.shape == (len(views), *SHAPE) and seen.dtype == torch.float32
        return [float(one.unique()) for one in seen]

    def _see(self, pixels: Any) -> Any:
        self.looked += pixels.tolist()
        return pixels[:, None, None].expand(-1, *SHAPE)


def test_what_others_saw_is_not_taken(tmp_path: Path) -> None:
    assert Eyes(tmp_path / "seen.bin").at(1) == [1]
    others = Eyes(tmp_path / "seen.bin", by="other eyes")
    assert others.at(1) == [1] and others.looked == [1]


def test_each_view_is_looked_at_once_also_by_a_later_process(tmp_path: Path) -> None:
    eyes = Eyes(tmp_path / "seen.bin")
    assert eyes.at(1, 2) == [1, 2]
    assert eyes.at(2, 3, 1) == [2, 3, 1]
    assert eyes.looked == [1, 2, 3]
    later = Eyes(tmp_path / "seen.bin")
    assert later.at(3, 2, 4) == [3, 2, 4]
    assert later.looked == [4] and len(later.features) == 4


def test_half_a_record_is_looked_at_again(tmp_path: Path) -> None:
    file = tmp_path / "seen.bin"
    Eyes(file).at(1, 2)
    file.write_bytes(file.read_bytes()[:-3])
    later = Eyes(file)
    assert later.at(1, 2, 5) == [1, 2, 5]
    assert later.looked == [2, 5]
    assert Eyes(file).at(1, 2, 5) == [1, 2, 5]


def test_a_damaged_record_is_looked_at_again(tmp_path: Path) -> None:
    file = tmp_path / "seen.bin"
    Eyes(file).at(1, 2)
    content = bytearray(file.read_bytes())
    content[30] ^= 1
    file.write_bytes(content)
    later = Eyes(file)
    assert later.at(1, 2) == [1, 2] and later.looked == [1]
    assert later.at(1, 2) == [1, 2] and later.looked == [1]


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "seen.bin"
    eyes = Eyes(file, most_bytes=100)
    assert eyes.at(1, 2, 3) == [1, 2, 3] == eyes.at(1, 2, 3)
    assert 0 < file.stat().st_size <= 100
    assert eyes.looked == [1, 2, 3, 3]


def test_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = Eyes(tmp_path / "seen.bin")
    eyes.at(1)
    original = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "a" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    assert eyes.at(1, 2, 3) == [1, 2, 3] == eyes.at(1, 2, 3)
    assert len(eyes.skipped) == 1 and "No space left" in eyes.skipped[0]
