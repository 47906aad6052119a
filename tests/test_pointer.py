from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from captionapp.captioning.pointer import HISTORY, Pointer
from captionapp.errors import ModelUnavailable, PointerMoved, PromotionRefused, UnknownVersion


@pytest.fixture
def pointer(tmp_path: Path) -> Pointer:
    return Pointer(tmp_path / "models" / "current.json")


def test_nothing_was_promoted_yet(pointer: Pointer) -> None:
    assert pointer.last() is None
    assert pointer.history() == []


def test_a_change_is_read_back_with_all_before_it(pointer: Pointer) -> None:
    first = pointer.move("v1", "shipped-1", "better", False)
    second = pointer.move("v2", "v1", "because", True, expected="v1")
    assert pointer.last() == second
    assert pointer.history() == [first, second]
    assert (second.previous, second.reason, second.forced) == ("v1", "because", True)
    content = json.loads(pointer.path.read_text())
    assert content["version"] == "v2" and content["since"].endswith("Z")


def test_a_pointer_that_names_something_else_by_now_is_not_moved(pointer: Pointer) -> None:
    with pytest.raises(PointerMoved, match="the shipped version"):
        pointer.move("v2", "", "", False, expected="v1")
    pointer.move("v1", "", "", False, expected="")
    with pytest.raises(PointerMoved, match="v1 was made the current version"):
        pointer.move("v2", "", "", False, expected="")
    assert [change.version for change in pointer.history()] == ["v1"]


def test_an_older_form_of_the_file_is_read(pointer: Pointer) -> None:
    pointer.path.parent.mkdir()
    pointer.path.write_text('{"version": "v1", "since": "2026-01-01T00:00:00Z"}')
    last = pointer.last()
    assert last is not None
    assert (last.version, last.at, last.previous) == ("v1", "2026-01-01T00:00:00Z", "")
    assert len(pointer.history()) == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": "v1", "history": [1]}'])
def test_a_damaged_file_is_said_and_can_be_put_right(pointer: Pointer, content: str) -> None:
    pointer.path.parent.mkdir()
    pointer.path.write_text(content)
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        pointer.last()
    pointer.move("v1", "", "", False)
    assert [change.version for change in pointer.history()] == ["v1"]


def test_the_history_does_not_grow_for_ever_and_leftovers_go(pointer: Pointer) -> None:
    for number in range(HISTORY + 5):
        pointer.move(f"v{number}", "", "", False)
    assert len(pointer.history()) == HISTORY + 1
    left = pointer.path.with_name("current.json.0123.tmp")
    left.write_text("half")
    pointer.move("last", "", "", False)
    assert not left.exists()


def test_what_fails_at_the_last_moment_changes_nothing(pointer: Pointer) -> None:
    first = pointer.move("v1", "", "", False)

    def gone() -> None:
        raise UnknownVersion("There is no version v2.")

    with pytest.raises(UnknownVersion):
        pointer.move("v2", "v1", "", False, check=gone)
    assert pointer.history() == [first]
    pointer.move("v3", "v1", "", False)  # the lock was let go of


def test_nothing_moves_while_it_is_held(pointer: Pointer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captionapp.captioning.pointer.LOCK_SECONDS", 0.05)
    with pointer.held(), pytest.raises(PromotionRefused, match="Another process"):
        pointer.move("v1", "", "", False)
    assert pointer.last() is None
    assert pointer.move("v1", "", "", False) == pointer.last()


def _move(path: Path, number: int) -> None:
    pointer = Pointer(path)
    for step in range(10):
        pointer.move(f"v{number}-{step}", "", "", False)


def test_no_change_of_several_processes_is_lost(pointer: Pointer) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_move, args=(pointer.path, n)) for n in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert {other.exitcode for other in others} == {0}
    assert len({change.version for change in pointer.history()}) == 30
