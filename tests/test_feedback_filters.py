from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from captionapp.feedback.filters import FeedbackFilter, Source
from captionapp.feedback.repository import FeedbackRow, Reason, Verdict


def row(**values: Any) -> FeedbackRow:
    given: dict[str, Any] = {
        "id": "1",
        "created_at": "2026-11-23T12:00:00.000Z",
        "image_id": "a" * 32,
        "image_name": "Beach.JPG",
        "caption": "a dog runs",
        "feedback": "a cat sleeps",
        "verdict": Verdict.CORRECTED,
        "reasons": (Reason.INACCURATE, Reason.TOO_LONG),
        "model_version": "v1",
        "contributor": "b" * 32,
    }
    return FeedbackRow(**given | values)


def test_an_empty_filter_keeps_everything_in_its_order() -> None:
    rows = [row(id="1"), row(id="2", verdict=Verdict.ACCEPTED, contributor="import")]
    assert FeedbackFilter().of(rows) == rows


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (FeedbackFilter(verdict=Verdict.CORRECTED), True),
        (FeedbackFilter(verdict=Verdict.ACCEPTED), False),
        (FeedbackFilter(reason=Reason.TOO_LONG), True),
        (FeedbackFilter(reason=Reason.WRONG_TONE), False),
        (FeedbackFilter(model_version="v1"), True),
        (FeedbackFilter(model_version="v"), False),
        (FeedbackFilter(source=Source.PEOPLE), True),
        (FeedbackFilter(source=Source.IMPORT), False),
        (FeedbackFilter(text=" DOG "), True),
        (FeedbackFilter(text="sleeps"), True),
        (FeedbackFilter(text="beach"), True),
        (FeedbackFilter(text="horse"), False),
        (FeedbackFilter(first=date(2026, 11, 23), last=date(2026, 11, 23)), True),
        (FeedbackFilter(first=date(2026, 11, 24)), False),
        (FeedbackFilter(last=date(2026, 11, 22)), False),
        (FeedbackFilter(verdict=Verdict.CORRECTED, text="horse"), False),
    ],
)
def test_a_filter_asks_for_all_of_its_fields(wanted: FeedbackFilter, kept: bool) -> None:
    assert wanted.of([row()]) == ([row()] if kept else [])


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2026-11-23T23:30:00-02:00", date(2026, 11, 24)),
        ("2026-11-23T23:30:00", date(2026, 11, 23)),
        ("2026-11-23", date(2026, 11, 23)),
    ],
)
def test_days_are_those_of_utc(written: str, day: date) -> None:
    assert FeedbackFilter(first=day, last=day).keeps(row(created_at=written))
