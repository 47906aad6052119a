from __future__ import annotations

from pathlib import Path

import pytest

from captionapp.records import Records
from captionapp.training.dataset import Example
from captionapp.training.evaluate import read_picture
from captionapp.training.retained import keep_on_side, not_trained_on, split_retained
from captionapp.training.split import Side, Sides
from captionapp.workflow import Workflow
from tests.drawing import pattern


def test_a_picture_stays_on_its_side_wherever_the_folder_is_and_whatever_else_is_in_it() -> None:
    many = [Example(Path(f"a/{number}.jpg"), ("x",)) for number in range(500)]
    rehearsed, held_out = split_retained(many, 0.2)
    assert (
        rehearsed + held_out != many
        and sorted([*rehearsed, *held_out], key=lambda e: int(e.path.stem)) == many
    )
    assert 70 < len(held_out) < 130
    moved = [Example(Path("b") / example.path.name, ("x",)) for example in many[::3]]
    again = split_retained(moved, 0.2)[1]
    assert {e.path.name for e in again} == {e.path.name for e in held_out} & {
        e.path.name for e in moved
    }
    assert split_retained(many, 0)[1] == []


@pytest.fixture
def records(workflow: Workflow) -> Records:
    return workflow.records


def drawn(folder: Path, number: int, size: int = 64) -> Example:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}-{size}.png"
    pattern(number).resize((size, size)).save(path)
    return Example(path, ("a quilt",))


def refuse(sentence: str) -> None:
    raise AssertionError(sentence)


def test_what_is_held_out_is_not_rehearsed_whatever_folder_it_is_in(
    records: Records, tmp_path: Path
) -> None:
    sides = Sides(records, 0, 0.5)
    answered = drawn(tmp_path / "uploads", 1)
    image_id = read_picture(answered.path).image_id
    sides.assign([(image_id, lambda: pattern(1))], Side.HELD_OUT)
    same, near, other = (
        drawn(tmp_path / "retained", 1),
        drawn(tmp_path / "retained", 1, 48),
        drawn(tmp_path / "retained", 2),
    )
    assert keep_on_side([same, near, other], sides, Side.TRAIN, refuse) == [other]


def test_what_was_rehearsed_never_judges(records: Records, tmp_path: Path) -> None:
    sides = Sides(records, 0, 0.999)  # drawn, all would be held out
    rehearsed, judging = drawn(tmp_path / "retained", 1), drawn(tmp_path / "retained", 2)
    assert keep_on_side([rehearsed], sides, Side.TRAIN, refuse) == [rehearsed]
    copies = [drawn(tmp_path / "copy", number, 48) for number in (1, 2)]
    assert not_trained_on(copies, sides) == copies[1:]
    assert not_trained_on([rehearsed, judging], sides) == [judging]
    # Having been asked about has not put it on a side.
    assert keep_on_side([judging], sides, Side.TRAIN, refuse) == [judging]


def test_a_picture_that_cannot_be_read_is_told_and_left_out(
    records: Records, tmp_path: Path
) -> None:
    sides, good, broken = Sides(records, 0, 0.5), drawn(tmp_path, 1), drawn(tmp_path, 2)
    broken.path.write_bytes(b"no picture")
    said: list[str] = []
    assert keep_on_side([broken, good], sides, Side.TRAIN, said.append) == [good]
    assert len(said) == 1 and broken.path.name in said[0]
    assert not_trained_on([broken], sides) == [broken]  # whoever opens it says so
