from __future__ import annotations

import re
from datetime import date

import pytest

from captionapp.feedback.insights import Period, Share
from captionapp.web.charts import RATE_BOTTOM, RATE_TOP, count_bar, rate_bar, time_chart
from tests.test_feedback_filters import row
from tests.test_feedback_insights import accepted, corrected

PASSWORD = ("anybody", "open sesame")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


def period(day: int, accepted: int, answers: int) -> Period:
    return Period(date(2026, 11, day), f"{day} Nov", Share(accepted, answers))


def test_a_rate_of_one_is_at_the_top_and_of_none_at_the_bottom():
    chart = time_chart([period(1, 4, 4), period(2, 0, 2)])
    assert [dot.y for dot in chart.dots] == [RATE_TOP, RATE_BOTTOM]
    assert [dot.x for dot in chart.dots] == [25, 75]
    assert chart.dots[0].column_height == 2 * chart.dots[1].column_height
    (line,) = chart.lines
    assert (line.x1, line.y1, line.x2, line.y2) == (25, RATE_TOP, 75, RATE_BOTTOM)
    assert not line.bridge


def test_a_period_without_answers_has_no_rate_and_is_bridged():
    chart = time_chart([period(1, 1, 1), period(2, 0, 0), period(3, 1, 2)])
    assert chart.dots[1].y is None and chart.dots[1].column_height == 0
    assert [line.bridge for line in chart.lines] == [True]


@pytest.mark.parametrize("periods", [0, 1, 2, 40])
def test_nothing_is_drawn_outside(periods):
    chart = time_chart([period(n % 28 + 1, n % 3, 2) for n in range(periods)])
    for dot in chart.dots:
        assert 0 <= dot.column_x and dot.column_x + dot.column_width <= 100
    assert all(0 <= x <= 100 for x, _, _ in chart.labels)


def test_bars():
    assert rate_bar(Share(0, 0)) is None
    bar = rate_bar(Share(1, 2))
    assert bar and bar.width == 50 and 0 < bar.low < 50 < bar.high < 100
    assert (count_bar(1, 4), count_bar(0, 0)) == (25, 0)


def test_insights_show_rates_reasons_and_words(client, workflow):
    workflow.feedback.extend(
        [accepted(model_version="v1"), corrected("a dog", "a <b>cat", model_version="v2")]
    )
    page = client.get("/insights", auth=PASSWORD).text
    assert "50%" in page and "<code>v2</code>" in page
    assert re.search(r'href="/feedback\?text=dog&amp;verdict=corrected"', page)
    assert "inaccurate" in page and "style=" not in page
    assert "<svg" in page and page.count("<table") == 4


def test_insights_of_a_filter(client, workflow):
    workflow.feedback.extend([accepted(contributor="import"), row(), row()])
    page = client.get("/insights?source=people", auth=PASSWORD).text
    assert "0%</strong> of 2 answers" in page
    assert client.get("/insights?first=never", auth=PASSWORD).status_code == 422
    assert "is like that" in client.get("/insights?text=horse", auth=PASSWORD).text


def test_insights_without_answers(client):
    assert "Nobody has answered yet" in client.get("/insights", auth=PASSWORD).text


def test_insights_are_the_operators(client, make_app):
    assert client.get("/insights").status_code == 401
    assert make_app().test_client().get("/insights", auth=PASSWORD).status_code == 404
