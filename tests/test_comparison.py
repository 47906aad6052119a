from __future__ import annotations

import pytest

from captionapp.comparison import Comparison
from captionapp.records import Records
from captionapp.votes import Choice, Tally, Votes
from tests.web.versions import report

PICTURES = [(f"{n:032x}", "said", f"new {n}", f"old {n}") for n in range(40)]
MADE = report("new", "old", PICTURES, [(1.0, 0.5)] * len(PICTURES))


@pytest.fixture
def votes(records: Records) -> Votes:
    return Votes(records)


def order(comparison: Comparison) -> list[str]:
    return [pair.image_id for pair in comparison.left(lambda image_id: True)]


def test_captions_keep_their_versions_on_whichever_side(votes: Votes) -> None:
    comparison = Comparison(MADE, votes, "me", "secret")
    firsts = set()
    for pair in comparison.left(lambda image_id: True):
        assert {pair.version_a, pair.version_b} == {"new", "old"}
        assert pair.caption_a.split()[0] == pair.version_a
        assert pair.caption_b.split()[0] == pair.version_b
        assert comparison.pair(pair.image_id) == pair  # what is voted for is what was shown
        firsts.add(pair.version_a)
    assert firsts == {"new", "old"}


def test_sides_and_order_differ_between_browsers_and_secrets(votes: Votes) -> None:
    one, other = Comparison(MADE, votes, "me", "secret"), Comparison(MADE, votes, "you", "secret")
    guessed = Comparison(MADE, votes, "me", "guess")
    assert order(one) != order(other)
    assert sorted(order(one)) == sorted(order(other))

    def sides(comparison: Comparison) -> list[str]:
        pairs = [comparison.pair(image_id) for image_id, *_ in PICTURES]
        return [pair.version_a for pair in pairs if pair]

    assert sides(one) != sides(other)
    assert sides(one) != sides(guessed)
    assert sides(one) == sides(Comparison(MADE, votes, "me", "secret"))


def test_what_was_voted_on_or_is_gone_does_not_come_again(votes: Votes) -> None:
    comparison = Comparison(MADE, votes, "me", "secret")
    first, second, *rest = order(comparison)
    votes.cast(first, "new", "old", Choice.A, "me")
    assert order(comparison) == [second, *rest]
    assert comparison.voted == {first}
    left = [pair.image_id for pair in comparison.left(lambda image_id: image_id != second)]
    assert left == rest
    assert votes.tally("new", "old") == Tally(candidate=1)


def test_votes_on_pictures_that_are_compared_no_more_are_not_counted_among_them(
    votes: Votes,
) -> None:
    """There would be votes on more pictures than there are."""
    for image_id, *_ in PICTURES[:3]:
        votes.cast(image_id, "new", "old", Choice.A, "me")
    anew = report("new", "old", PICTURES[2:4], [(1.0, 0.5)] * 2)
    assert Comparison(anew, votes, "me", "secret").voted == {PICTURES[2][0]}


def test_equal_captions_are_not_compared(votes: Votes) -> None:
    same = report("new", "old", [("1" * 32, "said", "a dog", "a dog")], [(1.0, 1.0)])
    comparison = Comparison(same, votes, "me", "secret")
    assert order(comparison) == [] and comparison.pair("1" * 32) is None


def test_other_captions_have_another_mark(votes: Votes) -> None:
    mark = Comparison(MADE, votes, "me", "secret").mark
    assert mark == Comparison(MADE, votes, "you", "secret").mark
    changed = [(*PICTURES[0][:2], "newer", PICTURES[0][3]), *PICTURES[1:]]
    other = report("new", "old", changed, [(1.0, 0.5)] * len(PICTURES))
    assert mark != Comparison(other, votes, "me", "secret").mark
