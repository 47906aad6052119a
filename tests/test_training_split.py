"""Sides of a split: for good, whatever comes in whatever order; near-duplicates together."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from sqlalchemy import delete

from captionapp.errors import InvalidImage, NotFound
from captionapp.records import Records
from captionapp.tables import SideRow
from captionapp.training import split
from captionapp.training.split import MAX_DISTANCE, Side, Sides, groups, perceptual_hash


@pytest.fixture(autouse=True)
def _a_number_is_its_own_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests give a number for a picture."""

    def hashed(picture: Any) -> int:
        return picture if isinstance(picture, int) else perceptual_hash(picture)

    monkeypatch.setattr(split, "perceptual_hash", hashed)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    records = Records(tmp_path_factory.mktemp("split") / "captionapp.db")
    yield records
    records.close()


@pytest.fixture
def records(database: Records) -> Records:
    return emptied(database)


def emptied(records: Records) -> Records:
    with records.write() as session:
        session.execute(delete(SideRow))
    return records


def named(number: int) -> str:
    """The id of the picture whose hash is ``number``; neighbours are not neighbours in it."""
    return hashlib.sha256(f"{number}".encode()).hexdigest()[:32]


def pictures(hashes: Sequence[int]) -> list[tuple[str, Callable[[], Any]]]:
    return [(named(one), lambda one=one: one) for one in hashes]


def distance(one: int, other: int) -> int:
    """Bits that differ, or that would if one of the two pictures were mirrored."""
    mirrored = int("5" * 64, 16)
    return min((one ^ other).bit_count(), (one ^ other ^ mirrored).bit_count())


#: Far from each other: every two differ in 128 bits (rows of a Hadamard matrix).
FAR = [sum(((i & j).bit_count() % 2) << j for j in range(256)) for i in range(0, 256, 2)]


def one_on(side: Side, sides: Sides) -> int:
    """A hash of FAR whose picture was given this side."""
    return next(one for one in FAR if sides.assign(pictures([one]))[named(one)] is side)


def bits(count: int, first: int = 0) -> int:
    return sum(1 << (first + i) for i in range(count))


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    """Hashes of which many are near to others, some in chains that link far ones."""
    found = {draw(st.integers(0, 2**256 - 1)) for _ in range(draw(st.integers(1, 5)))}
    for _ in range(draw(st.integers(0, 15))):
        base = draw(st.sampled_from(sorted(found)))
        width = draw(st.integers(1, MAX_DISTANCE + 9))
        found.add(base ^ bits(width, draw(st.integers(0, 256 - width))))
    return draw(st.permutations(sorted(found)))


@settings(max_examples=30, deadline=None)
@given(hashes=families(), calls=st.lists(st.integers(0, 20), max_size=5), seed=st.integers(0, 9))
def test_no_picture_ever_moves_and_no_near_duplicates_are_parted(
    database: Records, hashes: list[int], calls: list[int], seed: int
) -> None:
    sides = Sides(emptied(database), seed, 0.5)
    seen: dict[str, Side | None] = {}
    for end in [*sorted(min(call, len(hashes)) for call in calls), len(hashes)]:
        given_now = sides.assign(pictures(hashes[:end]))
        assert given_now.keys() == {named(one) for one in hashes[:end]}
        assert seen.items() <= given_now.items()
        seen = given_now
    for one in hashes:
        for other in hashes:
            sides = {seen[named(one)], seen[named(other)]} - {None}
            assert distance(one, other) > MAX_DISTANCE or len(sides) < 2


@settings(max_examples=30, deadline=None)
@given(data=st.data(), hashes=families())
def test_one_call_puts_whole_groups_on_one_side_in_any_order(
    database: Records, data: st.DataObject, hashes: list[int]
) -> None:
    sides = Sides(emptied(database), 7, 0.5).assign(pictures(hashes))
    again = data.draw(st.permutations(hashes))
    assert Sides(emptied(database), 7, 0.5).assign(pictures(again)) == sides
    assert None not in sides.values()
    for group in groups(hashes):
        assert len({sides[named(hashes[i])] for i in group}) == 1


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
    for place in range(0, 150, 30):  # one would be on the other side by chance
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
    beside = between ^ bits(1, first=255)
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
        ImageOps.mirror,
    ],
    ids=["smaller", "grey", "darker", "trimmed", "mirrored"],
)
def test_the_same_picture_otherwise_saved_is_a_near_duplicate(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    assert distance(perceptual_hash(scene()), perceptual_hash(change(scene()))) <= MAX_DISTANCE


def test_other_pictures_are_not() -> None:
    hashes = [perceptual_hash(scene(number)) for number in range(30)]
    assert len(groups(hashes)) == 30
