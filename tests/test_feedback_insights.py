from __future__ import annotations

from datetime import date, timedelta

import pytest

from captionapp.feedback.insights import Share, corrected_words, insights
from captionapp.feedback.repository import FeedbackRow, Reason, Verdict
from tests.test_feedback_filters import row


def accepted(caption: str = "a dog runs", **values: object) -> FeedbackRow:
    return row(caption=caption, feedback=caption, verdict=Verdict.ACCEPTED, reasons=(), **values)


def corrected(caption: str, feedback: str, **values: object) -> FeedbackRow:
    return row(caption=caption, feedback=feedback, **values)


def on(day: date) -> str:
    return f"{day.isoformat()}T12:00:00Z"


def test_nothing_adds_up_to_nothing() -> None:
    found = insights([])
    assert (found.all.rate, found.all.interval, found.periods) == (None, None, [])
    assert set(found.reasons.values()) == {0}


def test_wilsons_interval() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20, 95 %.
    low, high = Share(81, 263).interval or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = Share(0, 20).interval or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_versions_stand_in_the_order_of_their_answers_and_reasons_are_counted() -> None:
    rows = [
        accepted(model_version="v2"),
        corrected("a dog", "a cat", model_version="v1"),
        accepted(model_version="v1"),
    ]
    found = insights(rows)
    assert list(found.versions.items()) == [("v2", Share(1, 1)), ("v1", Share(1, 2))]
    assert found.reasons[Reason.TOO_LONG] == 1 and found.reasons[Reason.WRONG_TONE] == 0
    assert found.all == Share(2, 3)


@pytest.mark.parametrize(
    ("days", "unit", "periods"),
    [(0, "day", 1), (31, "day", 32), (32, "week", 5), (240, "week", 35), (241, "month", 8),
     (1100, "month", 37), (1101, "year", 4)],
)  # fmt: skip
def test_periods_follow_the_span_without_gaps(days: int, unit: str, periods: int) -> None:
    first = date(2024, 1, 1)  # a Monday
    last = first + timedelta(days=days)
    found = insights([accepted(created_at=on(last)), accepted(created_at=on(first))])
    assert (found.unit, len(found.periods)) == (unit, periods)
    assert found.periods[0].first == first
    assert found.periods[-1].first <= last
    assert sum(period.share.answers for period in found.periods) == 2
    starts = [period.first for period in found.periods]
    assert starts == sorted(set(starts))


def test_a_word_counts_once_an_answer_and_articles_never() -> None:
    rows = [
        corrected("a dog and a dog run", "The raccoon runs"),
        corrected("A dog, in snow.", "a raccoon in snow"),
        corrected("a dog", "a fox"),
        accepted("a dog runs"),
    ]
    words = corrected_words(rows, 10)
    assert (words[0].word, words[0].taken_out, words[0].said) == ("dog", 3, 4)
    assert words[0].instead == ("raccoon", "fox", "runs")
    assert [word.word for word in words] == ["dog", "run"]


def test_words_that_stay_are_not_taken_out_and_the_list_ends() -> None:
    rows = [corrected("small red car", "small blue car"), corrected("old green car", "car")]
    words = [word.word for word in corrected_words(rows, 10)]
    assert words == ["green", "old", "red"]
    assert len(corrected_words(rows, 2)) == 2
