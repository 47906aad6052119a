"""Votes of the blind comparison: which of two versions described a picture better."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.sql.elements import ColumnElement

from captionapp.records import Records
from captionapp.tables import VoteRow


class Choice(StrEnum):
    """Which caption is better: the first as they were shown, the second, both alike."""

    A = "a"
    B = "b"
    BOTH = "both"
    NEITHER = "neither"


@dataclass(frozen=True)
class Tally:
    """What all votes between two versions add up to."""

    candidate: int = 0
    current: int = 0
    both: int = 0
    neither: int = 0

    @property
    def votes(self) -> int:
        return self.candidate + self.current + self.both + self.neither

    @property
    def decided(self) -> int:
        """Those that prefer one."""
        return self.candidate + self.current


class Votes:
    """The votes in the database of ``records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def cast(
        self, image_id: str, version_a: str, version_b: str, choice: Choice, contributor: str
    ) -> None:
        """Keep what a browser says of a picture; saying it again replaces what it said before.

        ``version_a`` and ``version_b`` are named in the order in which they were shown.
        """
        row = VoteRow(
            id=uuid.uuid4().hex,
            image_id=image_id,
            version_a=version_a,
            version_b=version_b,
            choice=choice.value,
            contributor=contributor,
            created_at=datetime.now(UTC).timestamp(),
        )
        with self._records.write() as session:
            session.execute(
                delete(VoteRow).where(
                    VoteRow.image_id == image_id,
                    VoteRow.contributor == contributor,
                    _between(version_a, version_b),
                )
            )
            session.add(row)

    def tally(self, candidate: str, current: str) -> Tally:
        """The votes between these two versions, in whichever order they were shown."""
        counts = {"candidate": 0, "current": 0, "both": 0, "neither": 0}
        query = select(VoteRow.version_a, VoteRow.choice).where(_between(candidate, current))
        with self._records.read() as session:
            for version_a, choice in session.execute(query):
                if choice in (Choice.A, Choice.B):
                    first_wins = choice == Choice.A
                    choice = "candidate" if first_wins == (version_a == candidate) else "current"
                counts[choice] += 1
        return Tally(**counts)

    def voted(self, contributor: str, one: str, other: str) -> set[str]:
        """The pictures of which this browser has compared these two versions."""
        query = select(VoteRow.image_id).where(
            VoteRow.contributor == contributor, _between(one, other)
        )
        with self._records.read() as session:
            return set(session.scalars(query))


def _between(one: str, other: str) -> ColumnElement[bool]:
    return or_(
        and_(VoteRow.version_a == one, VoteRow.version_b == other),
        and_(VoteRow.version_a == other, VoteRow.version_b == one),
    )
