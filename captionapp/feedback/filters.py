"""Some of the answers: those that a filter keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from captionapp.feedback.interchange import IMPORTED
from captionapp.feedback.rows import FeedbackRow, Reason, Verdict


class Source(StrEnum):
    """Where answers came from."""

    PEOPLE = "people"
    IMPORT = "import"


@dataclass(frozen=True)
class FeedbackFilter:
    """What an answer must be like to be kept; a field that is empty asks for nothing.

    ``text`` is looked for, in any case, in the picture's name, the caption and the answer;
    ``first`` and ``last`` are days in UTC, both included.
    """

    verdict: Verdict | None = None
    reason: Reason | None = None
    model_version: str = ""
    source: Source | None = None
    text: str = ""
    first: date | None = None
    last: date | None = None

    def keeps(self, row: FeedbackRow) -> bool:
        """Whether the row is one of those asked for."""
        return (
            (self.verdict is None or row.verdict is self.verdict)
            and (self.reason is None or self.reason in row.reasons)
            and (not self.model_version or row.model_version == self.model_version)
            and (self.source is None or source_of(row) is self.source)
            and self._in_text(row)
            and self._in_time(row)
        )

    def of(self, rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
        """The rows that are kept, in their order."""
        return [row for row in rows if self.keeps(row)]

    def _in_text(self, row: FeedbackRow) -> bool:
        wanted = self.text.strip().casefold()
        if not wanted:
            return True
        return any(
            wanted in text.casefold() for text in (row.image_name, row.caption, row.feedback)
        )

    def _in_time(self, row: FeedbackRow) -> bool:
        if self.first is None and self.last is None:
            return True
        day = day_of(row)
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)


def source_of(row: FeedbackRow) -> Source:
    """Whether a person answered here, or the answer came with a data set."""
    return Source.IMPORT if row.contributor == IMPORTED else Source.PEOPLE


def day_of(row: FeedbackRow) -> date:
    """The day of the answer in UTC; a time without a zone, written by hand, is taken as UTC."""
    moment = datetime.fromisoformat(row.created_at)
    return moment.date() if moment.tzinfo is None else moment.astimezone(UTC).date()
