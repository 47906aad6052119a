"""The pictures that benchmarks/http_load.py sends."""

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
        pictures.prepare(3)
        sent = ids(pictures, 5)
        assert len(set(sent)) == 5
        pictures.rewind()
        assert ids(pictures, 5) == sent


def test_what_is_prepared_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures()
    pictures()
    pictures.prepare(2)
    monkeypatch.setattr(pictures, "_make", lambda number: b"made now")
    assert b"made now" not in (pictures(), pictures())
    assert pictures() == b"made now"


def test_photographs_keep_their_size(folder: Path) -> None:
    pictures = Pictures(folder)
    sizes = [Image.open(io.BytesIO(pictures())).size for _ in range(4)]
    assert sizes == [(64, 48), (5, 100)] * 2


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        Pictures(tmp_path)
