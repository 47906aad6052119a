"""Charts as numbers for a template that draws them: x in per cent of the width, y in pixels.

So a chart fills a telephone as well as a wide screen, and its letters stay as large as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captionapp.feedback.insights import Period, Share

#: Pixels: the band of the rates, and below it the columns that say how many answers there were.
RATE_TOP, RATE_BOTTOM = 18.0, 150.0
COLUMNS_TOP, COLUMNS_BOTTOM = 166.0, 206.0
HEIGHT = 228


@dataclass(frozen=True)
class Dot:
    """A period: its rate at ``(x, y)`` (no ``y`` without answers), its answers as a column."""

    x: float
    y: float | None
    column_x: float
    column_width: float
    column_y: float
    column_height: float
    period: Period


@dataclass(frozen=True)
class Line:
    """Between the rates of two periods; a ``bridge`` leads over periods without answers."""

    x1: float
    y1: float
    x2: float
    y2: float
    bridge: bool


@dataclass(frozen=True)
class TimeChart:
    """Everything that is drawn; ``labels`` are (x, anchor, period)."""

    dots: list[Dot]
    lines: list[Line]
    labels: list[tuple[float, str, Period]]
    most: int
    height: int = HEIGHT
    rate_y: tuple[float, float, float] = (RATE_TOP, (RATE_TOP + RATE_BOTTOM) / 2, RATE_BOTTOM)
    columns_y: float = COLUMNS_BOTTOM


def time_chart(periods: Sequence[Period]) -> TimeChart:
    """The acceptance rate of each period, and its number of answers."""
    most = max((period.share.answers for period in periods), default=0)
    dots = [_dot(n, len(periods), period, most) for n, period in enumerate(periods)]
    lines = []
    before: tuple[int, Dot] | None = None
    for n, dot in enumerate(dots):
        if dot.y is None:
            continue
        if before is not None and before[1].y is not None:
            lines.append(Line(before[1].x, before[1].y, dot.x, dot.y, bridge=n - before[0] > 1))
        before = (n, dot)
    return TimeChart(dots, lines, _labels(dots), most)


def _dot(n: int, of: int, period: Period, most: int) -> Dot:
    slot = 100 / of
    rate = period.share.rate
    height = (COLUMNS_BOTTOM - COLUMNS_TOP) * period.share.answers / most if most else 0.0
    return Dot(
        x=round((n + 0.5) * slot, 3),
        y=None if rate is None else round(RATE_BOTTOM - rate * (RATE_BOTTOM - RATE_TOP), 2),
        column_x=round((n + 0.2) * slot, 3),
        column_width=round(0.6 * slot, 3),
        column_y=round(COLUMNS_BOTTOM - height, 2),
        column_height=round(height, 2),
        period=period,
    )


def _labels(dots: Sequence[Dot]) -> list[tuple[float, str, Period]]:
    if not dots:
        return []
    if len(dots) == 1:
        return [(50.0, "middle", dots[0].period)]
    return [(0.0, "start", dots[0].period), (100.0, "end", dots[-1].period)]


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to ``width``, and the whisker of its uncertainty; all in per cent."""

    width: float
    low: float
    high: float


def rate_bar(share: Share) -> Bar | None:
    """The acceptance rate and its 95 % interval; None without answers."""
    rate, interval = share.rate, share.interval
    if rate is None or interval is None:
        return None
    return Bar(round(100 * rate, 2), round(100 * interval[0], 2), round(100 * interval[1], 2))


def count_bar(count: int, most: int) -> float:
    """Width in per cent of a bar for ``count`` where the longest bar is ``most``."""
    return round(100 * count / most, 2) if most else 0.0
