from __future__ import annotations

from datetime import UTC, datetime

import pytest

from captionapp.web.presenting import day, percent, sureness


@pytest.mark.parametrize(
    ("probability", "text"), [(0.4567, "46"), (1.0, "100"), (0.001, "1"), (0.999, "100")]
)
def test_percent(probability, text):
    assert percent(probability) == f"{text}\N{NO-BREAK SPACE}%"


def test_sureness_grows_with_the_probability():
    assert len({sureness(p) for p in (0.1, 0.4, 0.9)}) == 3
    assert "guessing" in sureness(0.1)


def test_day():
    assert day(datetime(2026, 1, 2, 3, 4, tzinfo=UTC)) == "2 January 2026, 03:04 UTC"
    assert day("2026-11-23T12:45:01.123Z") == "23 November 2026, 12:45 UTC"
