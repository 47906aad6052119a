"""What a browser gave in one go, file by file: so that its page can be left and come back to, and
what has not been begun can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, and_, delete, exists, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from captionapp.records import Records
from captionapp.results import Submission
from captionapp.sentences import Sentence
from captionapp.tables import ArrivalRow, CaptionRow, Holding, Job

#: How long a batch can be come back to.
KEPT_SECONDS = 24 * 3600.0
CANCELLED = Sentence("You cancelled this before it was described.")


@dataclass(frozen=True)
class Ticket:
    """Where a file stands in what was given in one go: ``place`` from 0, of ``total`` so far.
    ``batch`` is a random name that the page made up."""

    batch: str
    place: int
    total: int


@dataclass(frozen=True)
class Arrival:
    """A file that has arrived: the picture that it became, or its ``name`` and the ``problem`` why
    it became none. Without either it has been deleted since."""

    ticket: Ticket
    image_id: str | None
    name: str
    problem: str


class Arrivals:
    """The batches in the database of ``records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def note(self, contributor: str, ticket: Ticket, submission: Submission) -> None:
        """Keep what became of the one file of this submission. A file that is sent again, since
        its answer was lost, stays as fresh as it was at first."""
        now = datetime.now(UTC).timestamp()
        image_id = next(iter(submission.accepted), None)
        refused = next(iter(submission.rejected), None)
        values = {
            "total": ticket.total,
            "name": refused.name if refused else "",
            "image_id": image_id,
            "problem": refused.reason if refused else "",
        }
        row = insert(ArrivalRow).values(
            contributor=contributor,
            batch=ticket.batch,
            place=ticket.place,
            fresh=image_id in submission.fresh,
            created_at=now,
            **values,
        )
        with self._records.write() as session:
            session.execute(delete(ArrivalRow).where(ArrivalRow.created_at < now - KEPT_SECONDS))
            session.execute(
                row.on_conflict_do_update(
                    index_elements=["contributor", "batch", "place"], set_=values
                )
            )

    def newest(self, contributor: str) -> list[Arrival]:
        """This browser's last batch, in its order; empty if there was none for a day."""
        since = datetime.now(UTC).timestamp() - KEPT_SECONDS
        mine = (ArrivalRow.contributor == contributor, ArrivalRow.created_at > since)
        newest = select(ArrivalRow.batch).where(*mine).order_by(ArrivalRow.number.desc()).limit(1)
        query = (
            select(ArrivalRow)
            .where(*mine, ArrivalRow.batch == newest.scalar_subquery())
            .order_by(ArrivalRow.place)
        )
        with self._records.read() as session:
            return [_arrival(row) for row in session.scalars(query)]

    def cancel(
        self, contributor: str, batch: str, let_go: Callable[[Session, str, str], None]
    ) -> list[str]:
        """Drop the captions of this batch that are queued and not begun; an empty ``batch`` stands
        for everything that this browser waits for. Returns the ids of their pictures.

        A picture that came with the batch is let go of with ``let_go(session, image_id,
        contributor)``; one that was there before stays, and can be described later.
        """
        with self._records.write() as session:
            # What was not sent any more is not missing.
            session.execute(update(ArrivalRow).where(*_of(contributor, batch)).values(total=0))
            waiting = session.execute(_waiting(contributor, batch)).all()
            for job, fresh, wanted_by_others in waiting:
                if fresh:
                    let_go(session, job.image_id, contributor)
                if wanted_by_others:
                    continue
                if fresh:
                    session.execute(delete(Job).where(Job.number == job.number))
                else:
                    job.problem = CANCELLED
            return [job.image_id for job, _, _ in waiting]


def each_once(arrivals: list[Arrival]) -> list[Arrival]:
    """Without the pictures that stand further up already: the same one was given again."""
    first: dict[str | int, Arrival] = {}
    for one in arrivals:
        first.setdefault(one.image_id or one.ticket.place, one)
    return list(first.values())


def _waiting(contributor: str, batch: str) -> Select[Job, bool, bool]:
    """(job, whether the picture came with it, whether another browser waits too) of what has not
    been begun."""
    other = aliased(Holding)
    wanted_by_others = exists().where(
        other.image_id == Job.image_id,
        other.options == Job.options,
        other.contributor != contributor,
        other.released_at.is_(None),
    )
    arrived = and_(ArrivalRow.image_id == Job.image_id, *_of(contributor, batch))
    # What was described before stays, however it came.
    described = exists().where(CaptionRow.image_id == Job.image_id)
    query = (
        select(Job, exists().where(arrived, ArrivalRow.fresh) & ~described, wanted_by_others)
        .join(Holding, and_(Holding.image_id == Job.image_id, Holding.options == Job.options))
        .where(
            Holding.contributor == contributor,
            Holding.released_at.is_(None),  # what was deleted can still be taken back
            Job.problem == "",
            Job.begun_at.is_(None),
        )
        .order_by(Job.number)
    )
    return query.where(exists().where(arrived)) if batch else query


def _of(contributor: str, batch: str) -> tuple[ColumnElement[bool], ...]:
    return (ArrivalRow.contributor == contributor, ArrivalRow.batch == batch)


def _arrival(row: ArrivalRow) -> Arrival:
    ticket = Ticket(row.batch, row.place, row.total)
    return Arrival(ticket, row.image_id, row.name, row.problem)
