"""The gallery of a browser: its pictures searched, filtered, sorted, and page by page.

Pages are found by keyset: a page begins behind the last picture of the one before, by what it is
sorted by and, among equals, by ``image_id``; an index of ``holdings`` leads there, however far it
is. What is searched and sorted by is kept in columns of ``holdings``, which follow from captions
and feedback.csv: ``refresh`` brings them up to date before anything is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, func, select, true, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.elements import ColumnElement

from captionapp.caption_records import CaptionRecord, CaptionRecords, chosen_first
from captionapp.feedback.memory import CorrectionMemory
from captionapp.feedback.rows import FeedbackRow, Verdict
from captionapp.neutral import neutral
from captionapp.records import Records
from captionapp.tables import NOT_DESCRIBED, GalleryPosition, Holding

PER_PAGE = 24
#: Holdings that are brought up to date in one transaction: others want to write as well.
AT_ONCE = 200
#: Another one whenever ``_columns`` says something else of the same picture, so that what an older
#: release has kept is brought up to date.
_KEPT = "3"
_DIGITS = re.compile(r"\d+")
_CURSOR = re.compile(r"([0-9a-f]{32})~(.*)", re.DOTALL)


class State(StrEnum):
    """What this browser said of the description that a picture has now."""

    UNANSWERED = "unanswered"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"


class Sort(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"
    LEAST_SURE = "least-sure"
    NAME = "name"


_COLUMNS: dict[Sort, InstrumentedAttribute[Any]] = {
    Sort.NEWEST: Holding.created_at,
    Sort.OLDEST: Holding.created_at,
    Sort.LEAST_SURE: Holding.probability,
    Sort.NAME: Holding.name_key,
}


@dataclass(frozen=True)
class Wanted:
    """What pictures are asked for; a field that is empty asks for nothing.

    Each word of ``text`` is looked for, in any case, in the picture's name, its description (as the
    model wrote it, and without guesses at gender) and what people said of it. ``first`` and
    ``last`` are days in UTC, both included.
    """

    text: str = ""
    state: State | None = None
    first: date | None = None
    last: date | None = None
    sort: Sort = Sort.NEWEST


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Slice:
    """A page: its pictures, the number of the first of them, counted from 1, and how many there
    are in all. ``newer`` and ``older`` are cursors of the pages beside it, empty at the ends."""

    image_ids: list[str]
    first: int
    total: int
    newer: str
    older: str


class Gallery:
    """The gallery of every browser, in the database of ``records``."""

    def __init__(
        self, records: Records, captions: CaptionRecords, memory: CorrectionMemory
    ) -> None:
        self._records = records
        self._captions = captions
        self._memory = memory

    def page(
        self,
        contributor: str,
        wanted: Wanted,
        *,
        after: str = "",
        before: str | None = None,
        limit: int = PER_PAGE,
    ) -> Slice:
        """The page behind the cursor ``after``, or the one that ends before ``before``. What is no
        cursor stands for the end that it is counted from: the first page, or the last."""
        column = _COLUMNS[wanted.sort]
        backwards = before is not None
        position = _position(before if before is not None else after, wanted.sort)
        matching = _matching(contributor, wanted)
        query = select(Holding.image_id, column).where(*matching)
        if position:
            query = query.where(_behind(wanted.sort, position, backwards))
        query = query.order_by(*_order(wanted.sort, backwards)).limit(limit + 1)
        with self._records.read() as session:
            rows = [tuple(row) for row in session.execute(query)]
            more = len(rows) > limit
            rows = rows[:limit]
            if backwards:
                rows.reverse()
            total = _count(session, matching)
            ahead = (
                _count(session, [*matching, _behind(wanted.sort, _pair(rows[0]), True)])
                if rows and (position or backwards)
                else 0
            )
        more_behind = bool(rows) and ahead + len(rows) < total
        return Slice(
            image_ids=[row[0] for row in rows],
            first=ahead + 1 if rows else 0,
            total=total,
            newer=_cursor(rows[0]) if ahead else "",
            older=_cursor(rows[-1]) if (more_behind if backwards else more) else "",
        )

    def cursor(self, contributor: str, image_id: str, sort: Sort) -> str:
        """The cursor of a picture; empty if this browser does not hold it."""
        query = select(Holding.image_id, _COLUMNS[sort]).where(
            Holding.image_id == image_id, Holding.contributor == contributor
        )
        with self._records.read() as session:
            row = session.execute(query).first()
        return _cursor(tuple(row)) if row else ""

    def neighbour(
        self, contributor: str, wanted: Wanted, image_id: str, *, backwards: bool = False
    ) -> str:
        """The picture behind this one, or before it; empty if there is none. This one need not be
        among those wanted, and may just have been let go of."""
        position = _position(self.cursor(contributor, image_id, wanted.sort), wanted.sort)
        if position is None:
            return ""
        query = (
            select(Holding.image_id)
            .where(*_matching(contributor, wanted), _behind(wanted.sort, position, backwards))
            .order_by(*_order(wanted.sort, backwards))
            .limit(1)
        )
        with self._records.read() as session:
            return session.scalar(query) or ""

    def next_unanswered(
        self, contributor: str, wanted: Wanted, after: str, besides: str = ""
    ) -> str | None:
        """The first picture behind this cursor whose description is there and waits for an answer;
        which answers are ``wanted`` does not matter. Never ``besides``."""
        narrowed = _matching(contributor, wanted, State.UNANSWERED)
        narrowed += [Holding.probability < NOT_DESCRIBED, Holding.image_id != besides]
        if position := _position(after, wanted.sort):
            narrowed.append(_behind(wanted.sort, position, False))
        query = select(Holding.image_id).where(*narrowed).order_by(*_order(wanted.sort, False))
        with self._records.read() as session:
            return session.scalar(query.limit(1))

    def matching(self, contributor: str, wanted: Wanted) -> list[str]:
        """All pictures that are wanted, in their order."""
        query = select(Holding.image_id).where(*_matching(contributor, wanted))
        with self._records.read() as session:
            return list(session.scalars(query.order_by(*_order(wanted.sort, False))))

    def counts(self, contributor: str) -> dict[State, int]:
        """How many of all pictures of this browser are in which state."""
        query = (
            select(Holding.state, func.count())
            .where(Holding.contributor == contributor, Holding.released_at.is_(None))
            .group_by(Holding.state)
        )
        with self._records.read() as session:
            found = {State(state): count for state, count in session.execute(query)}
        return {state: found.get(state, 0) for state in State}

    # What is searched and sorted by follows from captions and answers

    def refresh(self, contributor: str) -> None:
        """Bring what is kept of this browser's pictures up to date.

        Raises:
            FeedbackStoreError: if feedback.csv cannot be read.
        """
        self._follow_answers()
        stale = select(Holding.image_id).where(
            Holding.contributor == contributor, Holding.stale == true()
        )
        stale = stale.limit(AT_ONCE)
        while True:
            with self._records.read() as session:
                if session.scalar(stale.limit(1)) is None:
                    return
            with self._records.write() as session:
                self._update(session, list(session.scalars(stale)), contributor)

    def _follow_answers(self) -> None:
        """Mark the pictures of answers that came since the last time; all, if the file is another
        one than before, or other answers are to be shown."""
        reach = f"{self._memory.reach} {_KEPT}"
        rows = self._memory.feedback.rows()
        with self._records.read() as session:
            if _reached(session.get(GalleryPosition, 1), rows, reach) == len(rows):
                return
        with self._records.write() as session:
            # Read anew: another process may be further by now, and is not to be set back.
            rows = self._memory.feedback.rows()
            position = session.get(GalleryPosition, 1)
            start = _reached(position, rows, reach)
            changed = update(Holding).values(stale=True)
            if start is None:
                session.execute(changed)
            else:
                image_ids = list({row.image_id for row in rows[start:]})
                for first in range(0, len(image_ids), AT_ONCE):
                    some = image_ids[first : first + AT_ONCE]
                    session.execute(changed.where(Holding.image_id.in_(some)))
            session.merge(
                GalleryPosition(
                    number=1,
                    rows=len(rows),
                    last_id=rows[-1].id if rows else "",
                    memory=reach,
                )
            )

    def _update(self, session: Session, image_ids: list[str], contributor: str) -> None:
        mine = select(Holding.image_id, Holding.name, Holding.options, Holding.chosen).where(
            Holding.contributor == contributor, Holding.image_id.in_(image_ids)
        )
        captions = self._captions.of_in(session, image_ids)
        changes = [
            {
                "the_image": image_id,
                "the_contributor": contributor,
                "stale": False,
                **self._columns(
                    image_id,
                    name,
                    next(iter(chosen_first(captions.get((image_id, options), []), chosen)), None),
                    contributor,
                ),
            }
            for image_id, name, options, chosen in session.execute(mine)
        ]
        table = Holding.__table__
        statement = update(table).where(  # type: ignore[arg-type]
            table.c.image_id == bindparam("the_image"),
            table.c.contributor == bindparam("the_contributor"),
        )
        if changes:
            session.connection().execute(statement, changes)

    def _columns(
        self, image_id: str, name: str, caption: CaptionRecord | None, contributor: str
    ) -> dict[str, Any]:
        answer = self._memory.feedback.latest(image_id, contributor)
        remembered = self._memory.remembered(image_id, contributor)
        said = [row.feedback for row in (answer, remembered) if row is not None]
        texts = [name, *(_readings(caption) if caption else ()), *said]
        return {
            "state": _state(answer, caption).value,
            "probability": caption.probability if caption else NOT_DESCRIBED,
            "name_key": _name_key(name),
            "searched": "\n".join(texts).casefold(),
        }


def _state(answer: FeedbackRow | None, caption: CaptionRecord | None) -> State:
    if answer is not None and answer.verdict is Verdict.CORRECTED:
        return State.CORRECTED
    if answer and caption and answer.confirms(caption.text, caption.model_version):
        return State.ACCEPTED
    return State.UNANSWERED


def _readings(caption: CaptionRecord) -> tuple[str, ...]:
    """The text as the model wrote it, and as it is shown without guesses at gender."""
    return caption.text, neutral(caption.text, caption.given)


def _name_key(name: str) -> str:
    """Names in the order that people expect: ``img 9`` before ``img 10``, whatever their case."""
    return _DIGITS.sub(lambda digits: digits[0].zfill(12), name.casefold())


def _reached(
    position: GalleryPosition | None, rows: Sequence[FeedbackRow], memory: str
) -> int | None:
    """How many of the rows have been followed; None if that cannot be said of these rows."""
    if position is None or position.memory != memory or position.rows > len(rows):
        return None
    last_id = rows[position.rows - 1].id if position.rows else ""
    return position.rows if last_id == position.last_id else None


def _matching(
    contributor: str, wanted: Wanted, state: State | None = None
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        Holding.contributor == contributor,
        Holding.released_at.is_(None),
    ]
    if state or wanted.state:
        conditions.append(Holding.state == (state or wanted.state))
    if wanted.first:
        conditions.append(Holding.created_at >= _midnight(wanted.first))
    if wanted.last:
        conditions.append(Holding.created_at < _midnight(wanted.last) + 86400)
    conditions += [
        func.instr(Holding.searched, word) > 0 for word in wanted.text.casefold().split()
    ]
    return conditions


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def _count(session: Session, conditions: Sequence[ColumnElement[bool]]) -> int:
    return session.scalar(select(func.count()).select_from(Holding).where(*conditions)) or 0


def _order(sort: Sort, backwards: bool) -> list[ColumnElement[Any]]:
    descending = (sort is Sort.NEWEST) != backwards
    columns = (_COLUMNS[sort], Holding.image_id)
    return [column.desc() if descending else column.asc() for column in columns]


def _behind(sort: Sort, position: tuple[float | str, str], backwards: bool) -> ColumnElement[bool]:
    columns = tuple_(_COLUMNS[sort], Holding.image_id)
    return columns < position if (sort is Sort.NEWEST) != backwards else columns > position


def _pair(row: tuple[Any, ...]) -> tuple[float | str, str]:
    image_id, value = row
    return value, image_id


def _cursor(row: tuple[Any, ...]) -> str:
    """``image_id~value``; a float is written so that it is read back as the same."""
    image_id, value = row
    return f"{image_id}~{value if isinstance(value, str) else repr(value)}"


def _position(cursor: str, sort: Sort) -> tuple[float | str, str] | None:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        return None
    image_id, value = found.groups()
    if sort is Sort.NAME:
        return value, image_id
    try:
        number = float(value)
    except ValueError:
        return None
    return (number, image_id) if math.isfinite(number) else None
