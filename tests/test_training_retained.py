from __future__ import annotations

from pathlib import Path

from captionapp.training.dataset import Example
from captionapp.training.retained import split_retained


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
