"""Jobs as they are kept in the database, for the processes that share it: who makes which caption.
See ``jobs`` for how they are made."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, exists, insert, select, tuple_, update
from sqlalchemy.orm import Session

from captionapp.records import Records
from captionapp.tables import Holding, Job


@dataclass(frozen=True)
class JobState:
    """``problem`` is empty while the job is on its way; ``abandoned`` if its process died.
    ``ahead`` is the number of captions queued before this one, None once it has been begun."""

    problem: str
    abandoned: bool
    ahead: int | None = None


class JobRecords:
    """The jobs in the database of ``records``."""

    def __init__(self, records: Records) -> None:
        self._records = records
        #: This process, as the owner of jobs.
        self.owner = uuid.uuid4().hex

    def begin(self, image_id: str, options: str, lease_seconds: float) -> bool:
        """Take the making of a caption upon this process.

        Returns ``False`` if a living process, this one or another, is at it already.
        """
        with self._records.write() as session:
            return self.begin_in(session, image_id, options, lease_seconds)

    def begin_in(self, session: Session, image_id: str, options: str, lease_seconds: float) -> bool:
        """``begin`` as a part of this transaction."""
        now = _now()
        if not self._records.is_there(session, image_id):
            return False
        asked = {"picture": image_id, "asked": options}
        job = session.execute(_JOB, asked).first()
        if job is not None:
            if not job.problem and job.lease_until > now:
                return False
            # Its number is its place in the queue: it starts at the end.
            session.execute(_DELETE, asked)
        session.execute(
            _ADD,
            {
                "image_id": image_id,
                "options": options,
                "owner": self.owner,
                "lease_until": now + lease_seconds,
                "problem": "",
            },
        )
        return True

    def take(self, jobs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """The turn of these (image_id, options key) has come. Returns those that were not dropped,
        or taken over, meanwhile. If the power fails they are begun anew."""
        mine = {"by": self.owner, "now": _now()}
        with self._records.write(durable=False) as session:
            return {
                (image_id, options)
                for image_id, options in jobs
                if session.execute(_TAKE, mine | {"picture": image_id, "asked": options}).first()
            }

    def drop(self, image_id: str, options: str, contributor: str | None) -> bool:
        """Forget a job of this process that has not been begun, if there is one that no browser
        but this one wants."""
        mine = (Job.image_id == image_id, Job.options == options, Job.owner == self.owner)
        wanted_by_others = exists().where(
            Holding.image_id == image_id,
            Holding.options == options,
            Holding.contributor != contributor,
            Holding.released_at.is_(None),
        )
        with self._records.write() as session:
            waiting = select(Job).where(*mine, Job.problem == "", Job.begun_at.is_(None))
            job = session.scalar(waiting.where(~wanted_by_others))
            if job is not None:
                session.delete(job)
        return job is not None

    def extend_leases(self, jobs: Collection[tuple[str, str]], lease_seconds: float) -> None:
        """Say that this process lives and is still at these (image_id, options key) of its jobs."""
        with self._records.write() as session:
            session.execute(
                update(Job)
                .where(
                    tuple_(Job.image_id, Job.options).in_(jobs),
                    Job.owner == self.owner,
                    Job.problem == "",
                )
                .values(lease_until=_now() + lease_seconds)
            )

    def fail(self, image_id: str, options: str, problem: str) -> None:
        """Note why the caption could not be made."""
        with self._records.write() as session:
            session.execute(
                update(Job)
                .where(Job.image_id == image_id, Job.options == options)
                .values(problem=problem)
            )

    def of(self, image_ids: Iterable[str]) -> dict[tuple[str, str], JobState]:
        """The jobs of these pictures by (image_id, options key)."""
        with self._records.read() as session:
            return self.of_in(session, image_ids)

    def of_in(self, session: Session, image_ids: Iterable[str]) -> dict[tuple[str, str], JobState]:
        """``of`` as this session sees them."""
        jobs = list(session.scalars(_JOBS, {"image_ids": list(image_ids)}))
        if not jobs:
            return {}
        now = _now()
        alive = (Job.problem == "", Job.begun_at.is_(None), Job.lease_until > now)
        queued = session.scalars(select(Job.number).where(*alive).order_by(Job.number))
        ahead = {number: place for place, number in enumerate(queued)}
        return {
            (job.image_id, job.options): JobState(
                job.problem,
                abandoned=not job.problem and job.lease_until <= now,
                ahead=ahead.get(job.number),
            )
            for job in jobs
        }


_OF_THESE: BindParameter[Any] = bindparam("image_ids", expanding=True)
_JOBS = select(Job).where(Job.image_id.in_(_OF_THESE))
# What every caption needs is put together once, and of the table: see ``records``.
_ROWS: Any = Job.__table__
_THIS = (_ROWS.c.image_id == bindparam("picture"), _ROWS.c.options == bindparam("asked"))
_JOB = select(_ROWS.c.problem, _ROWS.c.lease_until).where(*_THIS)
_ADD = insert(_ROWS)
_DELETE = delete(_ROWS).where(*_THIS)
_TAKE = (
    update(_ROWS)
    .where(
        *_THIS,
        _ROWS.c.owner == bindparam("by"),
        _ROWS.c.problem == "",
        _ROWS.c.begun_at.is_(None),
    )
    .values(begun_at=bindparam("now"))
    .returning(_ROWS.c.number)
)


def _now() -> float:
    return datetime.now(UTC).timestamp()
