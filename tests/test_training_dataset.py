"""Imagefolders: what is read, and which fault is named how."""

from pathlib import Path

import pytest

from captionapp.errors import InvalidDataset
from captionapp.training.dataset import normalise_caption, read_imagefolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files; they are never decoded here."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> None:
    (folder / "metadata.csv").write_bytes(text.encode(encoding))


def test_one_caption_a_picture(folder: Path) -> None:
    write(folder, 'file_name,caption\na.jpg,"a dog, running"\nb.jpg,a cat\n')
    examples = read_imagefolder(folder)
    assert [e.path.name for e in examples] == ["a.jpg", "b.jpg"]
    assert examples[0].captions == ("a dog, running",)


def test_several_captions_without_the_empty_ones(folder: Path) -> None:
    write(folder, "file_name,caption_0,caption_1,caption_2,source\na.jpg,one, ,three,x\n")
    assert read_imagefolder(folder)[0].captions == ("one", "three")


def test_a_byte_order_mark_is_no_part_of_the_header(folder: Path) -> None:
    write(folder, "file_name,caption\na.jpg,ein Bär\n", encoding="utf-8-sig")
    assert read_imagefolder(folder)[0].captions == ("ein Bär",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,caption\na.jpg,x\n", "no column file_name"),
        ("file_name,captions\na.jpg,x\n", "no column caption"),
        ("", "no column file_name"),
        ("file_name,caption\nc.jpg,x\n", "row 2: there is no picture c.jpg"),
        ("file_name,caption\na.jpg,\n", "row 2: a.jpg has no caption"),
        ("file_name,caption\na.jpg\n", "row 2: a.jpg has no caption"),
        ("file_name,caption\n../a.jpg,x\n", "not the name of a file in the folder"),
        ("file_name,caption\n/etc/passwd,x\n", "not the name of a file in the folder"),
        ("file_name,caption\n,x\n", "not the name of a file in the folder"),
        ("file_name,caption\na.jpg,x\na.jpg,y\n", "lists a.jpg twice"),
    ],
)
def test_faults_are_named(folder: Path, text: str, reason: str) -> None:
    write(folder, text)
    with pytest.raises(InvalidDataset, match=reason):
        read_imagefolder(folder)


def test_a_folder_without_metadata_is_no_imagefolder(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="has no metadata.csv"):
        read_imagefolder(tmp_path)


def test_other_encodings_are_refused(folder: Path) -> None:
    write(folder, "file_name,caption\na.jpg,ein Bär\n", encoding="latin-1")
    with pytest.raises(InvalidDataset, match="cannot be read"):
        read_imagefolder(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A dog .", "a dog"), ("  Two\tdogs. ", "two dogs"), ("a t.v. set", "a t.v. set"), (".", "")],
)
def test_captions_are_normalised_for_training(text: str, expected: str) -> None:
    assert normalise_caption(text) == expected
