"""Pictures that a browser lets go of: out of sight at once, and gone for good when the time in
which that can be undone is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from captionapp.feedback.repository import CsvFeedbackRepository
from captionapp.image_store import ImageStore
from captionapp.records import Records
from captionapp.tables import Holding

logger = logging.getLogger(__name__)

#: Ids in one statement.
AT_ONCE = 500
_FIRST_RELEASE = select(func.min(Holding.released_at)).where(Holding.released_at.is_not(None))


@dataclass(frozen=True)
class Release:
    """Pictures let go of together. ``moment`` names the act, which can be undone ``until`` then."""

    moment: str
    pictures: int
    until: datetime


class LettingGo:
    """What browsers let go of. The last one out takes the bytes along, unless a row of feedback.csv
    needs them: a correction without its picture teaches nothing."""

    def __init__(
        self, records: Records, store: ImageStore, feedback: CsvFeedbackRepository, undo: timedelta
    ) -> None:
        self._records = records
        self._store = store
        self._feedback = feedback
        self._undo = undo
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Stop waiting; what is due is found by ``sweep`` after the next start."""
        with self._lock:
            self._closed = True
            if self._timer:
                self._timer.cancel()

    def release(self, image_ids: Sequence[str], contributor: str) -> int:
        """Take these pictures out of the browser's sight; returns how many it held."""
        now = datetime.now(UTC).timestamp()
        count = 0
        with self._records.write() as session:
            for first in range(0, len(image_ids), AT_ONCE):
                gone = session.execute(
                    update(Holding)
                    .where(
                        Holding.contributor == contributor,
                        Holding.image_id.in_(image_ids[first : first + AT_ONCE]),
                        Holding.released_at.is_(None),
                    )
                    .values(released_at=now)
                    .returning(Holding.image_id)
                )
                count += len(gone.all())
        if count:
            self._wake()
        return count

    def releases(self, contributor: str) -> list[Release]:
        """What this browser can still take back, the last first."""
        query = (
            select(Holding.released_at, func.count())
            .where(
                Holding.contributor == contributor,
                Holding.released_at.is_not(None),
                Holding.released_at > self._limit(),
            )
            .group_by(Holding.released_at)
            .order_by(Holding.released_at.desc())
        )
        with self._records.read() as session:
            return [
                Release(repr(moment), count, datetime.fromtimestamp(moment, UTC) + self._undo)
                for moment, count in session.execute(query)
                if moment is not None
            ]

    def take_back(self, contributor: str, moment: str) -> list[str]:
        """Undo the act of this ``Release.moment``; returns the pictures that are back, none if it
        is too late."""
        try:
            released_at = float(moment)
        except ValueError:
            return []
        with self._records.write() as session:
            back = session.scalars(
                update(Holding)
                .where(
                    Holding.contributor == contributor,
                    Holding.released_at.is_not(None),
                    Holding.released_at == released_at,
                    Holding.released_at > self._limit(),
                )
                .values(released_at=None)
                .returning(Holding.image_id)
            )
            return list(back)

    def sweep(self) -> None:
        """Have what is due purged in the background: after a start, nothing waits for it yet."""
        if self._next_due() is not None:
            self._wake()

    def purge(self) -> None:
        """Let go for good of everything that can no longer be taken back."""
        query = select(Holding.image_id, Holding.contributor).where(_released_by(self._limit()))
        with self._records.read() as session:
            due = [(image_id, contributor) for image_id, contributor in session.execute(query)]
        for image_id, contributor in due:
            with self._records.write() as session:
                holding = session.get(Holding, (image_id, contributor))
                if holding and holding.released_at and holding.released_at <= self._limit():
                    self.end(session, image_id, contributor)

    def for_good(self, image_id: str, contributor: str) -> None:
        """This browser no longer holds the picture, and cannot take it back.

        Raises:
            NotFound: if it does not hold it.
        """
        self._records.held(image_id, contributor)
        with self._records.write() as session:
            self.end(session, image_id, contributor)

    def end(self, session: Session, image_id: str, contributor: str) -> None:
        """Remove the holding, and the picture if nobody needs it any more."""
        if self._records.release(session, image_id, contributor):
            return
        if self._feedback.latest(image_id) is not None:
            return
        self._records.forget(session, image_id)
        self._store.delete(image_id)

    def _limit(self) -> float:
        """What was let go of until this moment cannot be taken back any more."""
        return (datetime.now(UTC) - self._undo).timestamp()

    def _next_due(self) -> float | None:
        """Seconds until the next purge; None if nothing waits for one."""
        with self._records.read() as session:
            first = session.scalar(_FIRST_RELEASE)
        return None if first is None else max(0.0, first - self._limit())

    def _wake(self) -> None:
        """Have a timer of this process wait for the next purge, unless one does."""
        with self._lock:
            if self._closed or (self._timer and self._timer.is_alive()):
                return
            seconds = self._next_due()
            if seconds is None:
                return
            self._timer = threading.Timer(seconds + 0.1, self._purge_and_wait_on)
            self._timer.daemon = True
            self._timer.start()

    def _purge_and_wait_on(self) -> None:
        try:
            self.purge()
        except Exception:  # nobody would see it; a later visit begins another purge
            logger.exception("pictures that were let go of could not be removed")
            return
        with self._lock:
            self._timer = None
        self._wake()


def _released_by(moment: float) -> ColumnElement[bool]:
    return and_(Holding.released_at.is_not(None), Holding.released_at <= moment)
