from __future__ import annotations

from pathlib import Path

import pytest

from captionapp.records import Records
from captionapp.votes import Choice, Tally, Votes


@pytest.fixture
def votes(records: Records) -> Votes:
    return Votes(records)


def test_a_vote_counts_for_the_version_whose_caption_was_chosen(votes: Votes) -> None:
    votes.cast("1" * 32, "new", "old", Choice.A, "x")
    votes.cast("2" * 32, "old", "new", Choice.A, "x")
    votes.cast("3" * 32, "old", "new", Choice.B, "x")
    votes.cast("4" * 32, "old", "new", Choice.BOTH, "x")
    votes.cast("5" * 32, "new", "old", Choice.NEITHER, "x")
    assert votes.tally("new", "old") == Tally(candidate=2, current=1, both=1, neither=1)
    assert votes.tally("old", "new") == Tally(candidate=1, current=2, both=1, neither=1)
    assert votes.tally("new", "old").votes == 5


def test_a_browser_has_one_vote_a_picture_and_pair(votes: Votes) -> None:
    votes.cast("1" * 32, "new", "old", Choice.A, "x")
    votes.cast("1" * 32, "old", "new", Choice.A, "x")
    votes.cast("1" * 32, "new", "old", Choice.A, "y")
    votes.cast("1" * 32, "new", "other", Choice.A, "x")
    assert votes.tally("new", "old") == Tally(candidate=1, current=1)


def test_voted_names_the_pictures_of_one_browser_and_pair(votes: Votes) -> None:
    votes.cast("1" * 32, "new", "old", Choice.A, "x")
    votes.cast("2" * 32, "new", "old", Choice.A, "y")
    votes.cast("3" * 32, "new", "other", Choice.A, "x")
    assert votes.voted("x", "old", "new") == {"1" * 32}


def test_votes_outlive_the_process_that_took_them(tmp_path: Path) -> None:
    path = tmp_path / "captionapp.db"
    first = Records(path)
    Votes(first).cast("1" * 32, "new", "old", Choice.A, "x")
    first.close()
    second = Records(path)
    assert Votes(second).tally("new", "old") == Tally(candidate=1)
    second.close()
