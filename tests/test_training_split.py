"""Sides of a split: for good, whatever comes in whatever order; near-duplicates together."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from captionapp.errors import InvalidImage, NotFound
from captionapp.records import Records
from captionapp.training import split
from captionapp.training.split import MAX_DISTANCE, Side, Sides, groups, perceptual_hash


@pytest.fixture(autouse=True)
def _a_number_is_its_own_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests give a number for a picture."""

    def hashed(picture: Any) -> int:
        return picture if isinstance(picture, int) else perceptual_hash(picture)

    monkeypatch.setattr(split, "perceptual_hash", hashed)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "captionapp.db")
    yield records
    records.close()


def named(number: int) -> str:
    """The id of the picture whose hash is ``number``; neighbours are not neighbours in it."""
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def pictures(hashes: Sequence[int]) -> list[tuple[str, Callable[[], Any]]]:
    return [(named(one), lambda one=one: one) for one in hashes]


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


#: Far from each other: every two differ in 32 bits (rows of a Hadamard matrix).
FAR = [sum(((i & j).bit_count() % 2) << j for j in range(64)) for i in range(64)]


def one_on(side: Side, sides: Sides) -> int:
    """A hash of FAR whose picture was given this side."""
    return next(one for one in FAR if sides.assign(pictures([one]))[named(one)] is side)


def bits(count: int, first: int = 0) -> int:
    return sum(1 << (first + i) for i in range(count))


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    """Hashes of which many are near to others, some in chains that link far ones."""
    found = {draw(st.integers(0, 2**64 - 1)) for _ in range(draw(st.integers(1, 5)))}
    for _ in range(draw(st.integers(0, 15))):
        base = draw(st.sampled_from(sorted(found)))
        flipped = draw(st.sets(st.integers(0, 63), min_size=1, max_size=MAX_DISTANCE + 3))
        found.add(base ^ sum(1 << bit for bit in flipped))
    return draw(st.permutations(sorted(found)))


@settings(max_examples=30, deadline=None)
@given(hashes=families(), calls=st.lists(st.integers(0, 20), max_size=5), seed=st.integers(0, 9))
def test_no_picture_ever_moves_and_no_near_duplicates_are_parted(
    hashes: list[int], calls: list[int], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = Records(Path(folder) / "captionapp.db")
        seen: dict[str, Side | None] = {}
        for end in [*sorted(min(call, len(hashes)) for call in calls), len(hashes)]:
            given_now = Sides(records, seed, 0.5).assign(pictures(hashes[:end]))
            assert given_now.keys() == {named(one) for one in hashes[:end]}
            assert seen.items() <= given_now.items()
            seen = given_now
        records.close()
    for one in hashes:
        for other in hashes:
            sides = {seen[named(one)], seen[named(other)]} - {None}
            assert distance(one, other) > MAX_DISTANCE or len(sides) < 2


@settings(max_examples=30, deadline=None)
@given(data=st.data(), hashes=families())
def test_one_call_puts_whole_groups_on_one_side_in_any_order(
    data: st.DataObject, hashes: list[int]
) -> None:
    given_in_order = []
    for order in (hashes, data.draw(st.permutations(hashes))):
        with tempfile.TemporaryDirectory() as folder:
            records = Records(Path(folder) / "captionapp.db")
            given_in_order.append(Sides(records, 7, 0.5).assign(pictures(order)))
            records.close()
    assert given_in_order[0] == given_in_order[1]
    assert None not in given_in_order[0].values()
    for group in groups(hashes):
        assert len({given_in_order[0][named(hashes[i])] for i in group}) == 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_held_out_is_near_the_setting(records: Records, share: float) -> None:
    drawn = Sides(records, 3, share)
    held_out = sum(drawn._drawn(named(i)) is Side.HELD_OUT for i in range(1, 2001))
    assert held_out / 2000 == pytest.approx(share, abs=0.03)  # three standard deviations


def test_another_seed_draws_others(records: Records) -> None:
    one, other = Sides(records, 1, 0.5), Sides(records, 2, 0.5)
    moved = sum(one._drawn(named(i)) is not other._drawn(named(i)) for i in range(1, 501))
    assert 150 < moved < 350


def test_neither_settings_nor_a_picture_that_is_gone_move_a_side(records: Records) -> None:
    before = Sides(records, 1, 0.5).assign(pictures(FAR))
    assert set(before.values()) == {Side.TRAIN, Side.HELD_OUT}

    def gone() -> Any:
        raise AssertionError("a settled picture is not looked at again")

    after = Sides(records, 2, 0.9).assign([(image_id, gone) for image_id in before])
    assert after == before


@pytest.mark.parametrize("side", list(Side))
def test_a_near_duplicate_joins_the_side_of_the_first(records: Records, side: Side) -> None:
    sides = Sides(records, 0, 0.5)
    first = one_on(side, sides)
    for place in range(0, 50, 10):  # one would be on the other side by chance
        near = first ^ bits(MAX_DISTANCE, first=place)
        assert sides.assign(pictures([near])) == {named(near): side}


def test_what_would_tie_both_sides_together_is_left_out_for_good(records: Records) -> None:
    sides = Sides(records, 0, 0.5)
    apart = bits(2 * MAX_DISTANCE)
    one = next(a for a in FAR if sides._drawn(named(a)) is not sides._drawn(named(a ^ apart)))
    assert set(sides.assign(pictures([one, one ^ apart])).values()) == set(Side)
    between = one ^ bits(MAX_DISTANCE)
    for _ in range(2):
        assert sides.assign(pictures([between])) == {named(between): None}
    # It ties nothing together any more, being on no side: what is near it alone has a side.
    beside = between ^ bits(1, first=63)
    assert sides.assign(pictures([beside]))[named(beside)] in Side


def test_a_picture_that_cannot_be_loaded_waits_for_its_side(records: Records) -> None:
    def damaged() -> Any:
        raise InvalidImage("The stored file of this picture is damaged.")

    def missing() -> Any:
        raise NotFound("There is no such picture.")

    sides = Sides(records, 0, 0.2)
    given_now = sides.assign([("a" * 32, damaged), *pictures(FAR[:1]), ("b" * 32, missing)])
    assert given_now.keys() == {named(FAR[0])}
    assert sides.assign([("a" * 32, lambda: FAR[1])]).keys() == {"a" * 32}


def scene(number: int = 0) -> Image.Image:
    """Patches of colour that flow into each other; another number, another picture."""
    colours = random.Random(number).randbytes(12 * 9 * 3)
    small = Image.frombytes("RGB", (12, 9), colours)
    return small.resize((320, 240), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture.resize((200, 150)),
        lambda picture: picture.convert("L").convert("RGB"),
        lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
        lambda picture: picture.crop((3, 2, 318, 237)),
    ],
    ids=["smaller", "grey", "darker", "trimmed"],
)
def test_the_same_picture_otherwise_saved_is_a_near_duplicate(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    assert distance(perceptual_hash(scene()), perceptual_hash(change(scene()))) <= MAX_DISTANCE


def test_other_pictures_are_not() -> None:
    hashes = [perceptual_hash(scene(number)) for number in range(30)]
    assert len(groups(hashes)) == 30
