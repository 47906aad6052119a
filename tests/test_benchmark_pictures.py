"""The pictures that benchmarks/http_load.py and overload.py send."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pictures import Pictures
from captionapp.images import ImageLimits, decode
from tests.conftest import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dogs").mkdir()
    draw(size=(64, 48)).save(tmp_path / "dogs" / "one.jpg")
    draw(size=(5, 100)).save(tmp_path / "two.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    return tmp_path


def ids(pictures: Pictures, count: int) -> list[str]:
    return [decode(pictures(), ImageLimits()).image_id for _ in range(count)]


def test_no_picture_comes_twice_and_all_servers_get_the_same(folder: Path) -> None:
    for pictures in (Pictures(), Pictures(folder)):
        pictures.begin(1, ahead=3)
        first = ids(pictures, 5)
        pictures.begin(2, ahead=0)
        second = ids(pictures, 5)
        assert len({*first, *second}) == 10
        pictures.begin(1, ahead=4)
        ids(pictures, 1)  # a slower server is sent fewer
        pictures.begin(2, ahead=2)
        assert ids(pictures, 5) == second


def test_what_is_at_hand_is_not_made_again_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = Pictures()
    pictures.begin(0, ahead=2)
    monkeypatch.setattr(pictures, "_make", lambda number: b"made now")
    assert b"made now" not in (pictures(), pictures())
    assert pictures.late == 0
    assert pictures() == b"made now"
    assert pictures.late == 1
    pictures.begin(1, ahead=1)
    assert pictures.late == 0


def test_no_more_are_made_ahead_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pictures.AHEAD_BYTES", 1000)
    pictures = Pictures()
    monkeypatch.setattr(pictures, "_make", lambda number: bytes(400))
    pictures.begin(0, ahead=10)
    for _ in range(10):
        pictures()
    assert pictures.late == 7


def test_photographs_keep_their_size(folder: Path) -> None:
    pictures = Pictures(folder)
    sizes = [Image.open(io.BytesIO(pictures())).size for _ in range(4)]
    assert sizes == [(64, 48), (5, 100)] * 2


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        Pictures(tmp_path)
