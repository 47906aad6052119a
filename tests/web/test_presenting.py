from __future__ import annotations

from datetime import UTC, datetime

import pytest

from captionapp.web.presenting import day, number, percent, sureness


@pytest.fixture(autouse=True, params=["en", "de"])
def language(app, request):
    with app.test_request_context(headers={"Accept-Language": request.param}):
        yield request.param


@pytest.mark.parametrize(
    ("probability", "text"), [(0.4567, "46"), (1.0, "100"), (0.001, "1"), (0.999, "100")]
)
def test_percent(probability, text, language):
    assert percent(probability) == text + {"en": "%", "de": "\N{NO-BREAK SPACE}%"}[language]


def test_sureness_grows_with_the_probability():
    assert len({sureness(p) for p in (0.1, 0.4, 0.9)}) == 3


def test_number(language):
    assert number(10_000) == {"en": "10,000", "de": "10.000"}[language]
    assert number(1234.5, 3) == {"en": "1,234.500", "de": "1.234,500"}[language]
    assert number(12.4, 0) == "12"


def test_day(language):
    january, november = {
        "en": ("2 January 2026", "23 November 2026"),
        "de": ("2. Januar 2026", "23. November 2026"),
    }[language]
    assert day(datetime(2026, 1, 2, 3, 4, tzinfo=UTC)) == f"{january}, 03:04 UTC"
    assert day("2026-11-23T12:45:01.123Z") == f"{november}, 12:45 UTC"
