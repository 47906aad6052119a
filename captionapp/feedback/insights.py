"""What the answers say about the model: how often it was right, when, and on which words not."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from captionapp.feedback.filters import day_of
from captionapp.feedback.rows import FeedbackRow, Reason, Verdict

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
#: Words that come and go with the nouns around them; they say nothing of what was wrong.
_FUNCTION_WORDS = frozenset(
    "a an the of in on at to and or with is are was be being it its by for from as that this "
    "there has have".split()
)


@dataclass(frozen=True)
class Share:
    """So many of ``answers`` accepted the caption."""

    accepted: int
    answers: int

    @property
    def rate(self) -> float | None:
        """accepted / answers; None without answers."""
        return self.accepted / self.answers if self.answers else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The Wilson score interval (Wilson 1927) of the rate at 95 %; None without answers.

        With few answers it is wide: then the rate says little.
        """
        if not self.answers:
            return None
        z, n, rate = 1.96, self.answers, self.accepted / self.answers
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Period:
    """A day, week, month or year, from its ``first`` day on, and its answers."""

    first: date
    label: str
    share: Share


@dataclass(frozen=True)
class CorrectedWord:
    """A word that people took out of captions.

    ``said`` counts the answers to captions that had it, ``taken_out`` those of them that took it
    out; ``instead`` are the words that most of these put in.
    """

    word: str
    taken_out: int
    said: int
    instead: tuple[str, ...]


@dataclass(frozen=True)
class Insights:
    """``unit`` is the length of the periods: day, week, month or year. Versions stand in the order
    of their first answer; every reason is there, also at 0."""

    all: Share
    unit: str
    periods: list[Period]
    versions: dict[str, Share]
    reasons: dict[Reason, int]
    words: list[CorrectedWord]


def insights(rows: Sequence[FeedbackRow], most_words: int = 20) -> Insights:
    """What the rows add up to. Every row counts, also an answer that was changed later."""
    unit, periods = _periods(rows)
    versions: dict[str, list[FeedbackRow]] = {}
    for row in rows:
        versions.setdefault(row.model_version, []).append(row)
    return Insights(
        all=share(rows),
        unit=unit,
        periods=periods,
        versions={name: share(its) for name, its in versions.items()},
        reasons={reason: sum(reason in row.reasons for row in rows) for reason in Reason},
        words=corrected_words(rows, most_words),
    )


def share(rows: Sequence[FeedbackRow]) -> Share:
    """How many of the rows accept their caption."""
    return Share(sum(row.verdict is Verdict.ACCEPTED for row in rows), len(rows))


def corrected_words(rows: Sequence[FeedbackRow], most: int) -> list[CorrectedWord]:
    """The words that most corrections took out, at most ``most``; articles and the like left out.

    A word counts once in an answer, however often it stands there.
    """
    said: Counter[str] = Counter()
    taken_out: Counter[str] = Counter()
    put_in: dict[str, Counter[str]] = {}
    for row in rows:
        before = _words(row.caption)
        said.update(before)
        if row.verdict is Verdict.ACCEPTED:
            continue
        after = _words(row.feedback)
        for word in before - after:
            taken_out[word] += 1
            put_in.setdefault(word, Counter()).update(after - before)
    order = sorted(taken_out, key=lambda word: (-taken_out[word], word))
    return [
        CorrectedWord(word, taken_out[word], said[word], _instead(put_in[word]))
        for word in order[:most]
    ]


def _instead(put_in: Counter[str], most: int = 3) -> tuple[str, ...]:
    order = sorted(put_in, key=lambda word: (-put_in[word], word))
    return tuple(order[:most])


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _FUNCTION_WORDS


def _periods(rows: Sequence[FeedbackRow]) -> tuple[str, list[Period]]:
    """All periods from the first answer to the last, also those without one: time is not skipped.

    Their length is the shortest that gives no more than about three dozen.
    """
    if not rows:
        return "day", []
    days = [day_of(row) for row in rows]
    first, last = min(days), max(days)
    span = (last - first).days
    unit = "day" if span <= 31 else "week" if span <= 240 else "month" if span <= 1100 else "year"
    begin, label = _UNITS[unit]
    grouped: dict[date, list[FeedbackRow]] = {}
    for row, day in zip(rows, days, strict=True):
        grouped.setdefault(begin(day), []).append(row)
    starts = dict.fromkeys(begin(first + timedelta(days=n)) for n in range(span + 1))
    return unit, [Period(start, label(start), share(grouped.get(start, []))) for start in starts]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


#: Of each unit: the first day of the one that a day lies in, and what it is called.
_UNITS: dict[str, tuple[Callable[[date], date], Callable[[date], str]]] = {
    "day": (lambda day: day, lambda day: f"{day.day} {day:%b %Y}"),
    "week": (_monday, lambda day: f"from {day.day} {day:%b %Y}"),
    "month": (lambda day: day.replace(day=1), lambda day: f"{day:%B %Y}"),
    "year": (lambda day: day.replace(month=1, day=1), lambda day: f"{day:%Y}"),
}
