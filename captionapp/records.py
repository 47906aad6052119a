"""What the application remembers in ``instance/captionapp.db``: here the pictures and who holds
them, in ``caption_records`` and ``job_records`` the captions and the jobs that make them.
SQLAlchemy on SQLite in WAL mode; safe from many threads and processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import (
    bindparam,
    create_engine,
    delete,
    event,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from captionapp.errors import NotFound
from captionapp.tables import (
    ArrivalRow,
    AskedRow,
    CaptionRow,
    Holding,
    Job,
    Picture,
    create_or_extend,
)

#: Seconds that SQLite waits for another writer before it gives up.
BUSY_SECONDS = 30


@dataclass(frozen=True)
class Held:
    """A picture as one browser holds it. ``options`` is the key of the decoding asked for, and
    ``chosen`` the id of the caption that it chose among several, if it did. ``hint`` is why little
    can be said of it (``hints.Hint``), or empty."""

    image_id: str
    name: str
    width: int
    height: int
    options: str
    created_at: datetime
    chosen: str | None = None
    hint: str = ""


class Records:
    """The database at ``path``; tables are made if they are not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._engine = create_engine(
            f"sqlite:///{path}",
            connect_args={"timeout": BUSY_SECONDS},
            hide_parameters=True,  # file names would reach the log with a traceback
        )
        event.listen(self._engine, "connect", _configure_connection)
        event.listen(self._engine, "begin", _begin)
        with FileLock(f"{path}.lock"):  # two workers must not make the same table
            with self._engine.begin() as connection:
                create_or_extend(connection)

    def close(self) -> None:
        """Close the connections of this process."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads."""
        with Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[Session]:
        """A transaction that holds the database's write lock from its first moment.

        What happens to the stored files inside it cannot overlap with another writer's decision.
        One that is not ``durable`` does not wait for the disk: what it wrote outlives any end of
        the process, but if the power fails it may be as it was before, as may what was written
        after it and is not durable either. The database is whole in any case.
        """
        how = "FULL" if durable else "NORMAL"
        engine = self._engine.execution_options(begin="IMMEDIATE", synchronous=how)
        # SQLite lets a writer that has to wait sleep, longer each time; threads need not.
        with self._writing, Session(engine) as session, session.begin():
            yield session

    # Pictures and who holds them

    def hold(self, session: Session, held: Held, contributor: str) -> bool:
        """Note that this browser sent this picture; a second time renews name, options and time,
        and takes it back if it was let go of.

        Returns whether it did not hold it before.
        """
        mine = {"image_id": held.image_id, "contributor": contributor}
        before = session.execute(_RELEASED, mine).first()
        now = held.created_at.timestamp()
        picture = {"image_id": held.image_id, "width": held.width, "height": held.height}
        session.execute(_ADD_PICTURE, picture | {"created_at": now, "hint": held.hint})
        holding = {
            "name": held.name,
            "options": held.options,
            "created_at": now,
            "released_at": None,
            "chosen": None,
            "stale": True,
        }
        session.execute(_HOLD, mine | holding)
        return before is None or before.released_at is not None

    def is_there(self, session: Session, image_id: str) -> bool:
        """Whether there is such a picture, whoever holds it."""
        return session.execute(_PICTURE, {"image_id": image_id}).first() is not None

    def held(self, image_id: str, contributor: str | None) -> Held:
        """The picture as this browser holds it; ``None`` is the operator, who sees every picture,
        also one that is kept for its answers after everybody let go of it.

        Raises:
            NotFound: if there is no such picture, or this browser does not hold it.
        """
        with self.read() as session:
            return self.held_in(session, image_id, contributor)

    def held_in(self, session: Session, image_id: str, contributor: str | None) -> Held:
        """``held`` as this session sees it."""
        if contributor is None:
            row = session.execute(_HELD_BY_ANYBODY, {"image_id": image_id}).first()
            row = row or session.execute(_released_query(image_id)).first()
        else:
            mine = {"image_id": image_id, "contributor": contributor}
            row = session.execute(_HELD_BY_ONE, mine).first()
        if row is None:
            raise NotFound("There is no such picture, or it is not one of yours.")
        return _held(row)

    def held_among(
        self, session: Session, image_ids: Iterable[str], contributor: str
    ) -> list[Held]:
        """Those of these pictures that this browser holds, in the order asked for."""
        image_ids = list(image_ids)
        query = _HELD.where(
            Holding.contributor == contributor,
            Holding.image_id.in_(image_ids),
            Holding.released_at.is_(None),
        )
        found = {row.image_id: _held(row) for row in session.execute(query)}
        return [found[image_id] for image_id in image_ids if image_id in found]

    def require_holding(self, session: Session, image_id: str, contributor: str | None) -> None:
        """Raises NotFound if this browser does not hold the picture; ``None`` is the operator, for
        whom it only has to be there."""
        known: Any
        if contributor is None:
            known = session.get(Picture, image_id)
        else:
            holding = session.get(Holding, (image_id, contributor))
            known = holding if holding and holding.released_at is None else None
        if known is None:
            raise NotFound("There is no such picture, or it is not one of yours.")

    def release(self, session: Session, image_id: str, contributor: str) -> bool:
        """This browser lets go of the picture. Returns whether another browser still holds it."""
        for table in (Holding, AskedRow):
            session.execute(
                delete(table).where(table.image_id == image_id, table.contributor == contributor)
            )
        session.execute(
            update(ArrivalRow)
            .where(ArrivalRow.image_id == image_id, ArrivalRow.contributor == contributor)
            .values(image_id=None, name="")
        )
        return (
            session.scalar(select(Holding.image_id).where(Holding.image_id == image_id)) is not None
        )

    def forget(self, session: Session, image_id: str) -> None:
        """Remove the picture with its captions and jobs."""
        for table in (Job, CaptionRow, AskedRow, Holding, Picture):
            session.execute(delete(table).where(table.image_id == image_id))

    def held_before(self, moment: datetime) -> list[tuple[str, str]]:
        """(image_id, contributor) of what was sent before ``moment``."""
        query = select(Holding.image_id, Holding.contributor).where(
            Holding.created_at < moment.timestamp()
        )
        with self.read() as session:
            return [(image_id, contributor) for image_id, contributor in session.execute(query)]

    def picture_ids(self) -> list[str]:
        """All pictures there are, the oldest first."""
        with self.read() as session:
            return list(session.scalars(select(Picture.image_id).order_by(Picture.created_at)))


def _configure_connection(connection: Any, _: Any) -> None:
    # The driver's own BEGIN would come too late, at the first change; ours is in _begin.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous = {options.get('synchronous', 'FULL')}")
    connection.exec_driver_sql(f"BEGIN {options.get('begin', 'DEFERRED')}")


# What nearly every request asks is put together once.
_HELD: Any = select(
    Holding.image_id,
    Holding.name,
    Picture.width,
    Picture.height,
    Holding.options,
    Holding.created_at,
    Holding.chosen,
    Picture.hint,
).join(Picture, Picture.image_id == Holding.image_id)
_HELD_BY_ANYBODY = _HELD.where(Holding.image_id == bindparam("image_id")).order_by(
    Holding.created_at.desc()
)
_HELD_BY_ONE = _HELD_BY_ANYBODY.where(
    Holding.contributor == bindparam("contributor"), Holding.released_at.is_(None)
)
# Those of an upload are of the tables and not of their classes: without the session's bookkeeping
# of objects they take a quarter of the time. They write the values that they are executed with.
_PICTURES: Any = Picture.__table__
_PICTURE = select(_PICTURES.c.image_id).where(_PICTURES.c.image_id == bindparam("image_id"))
_ADD_PICTURE = insert(_PICTURES).on_conflict_do_nothing()
_HOLDINGS: Any = Holding.__table__
_RELEASED = select(_HOLDINGS.c.released_at).where(
    _HOLDINGS.c.image_id == bindparam("image_id"),
    _HOLDINGS.c.contributor == bindparam("contributor"),
)
_ADD_HOLDING = insert(_HOLDINGS)
_HOLD = _ADD_HOLDING.on_conflict_do_update(
    index_elements=["image_id", "contributor"],
    set_={
        name: _ADD_HOLDING.excluded[name]
        for name in ("name", "options", "created_at", "released_at", "chosen", "stale")
    },
)


def _released_query(image_id: str) -> Any:
    """A picture that nobody holds, with the options of its newest caption."""
    return (
        select(
            Picture.image_id,
            literal("picture"),
            Picture.width,
            Picture.height,
            CaptionRow.options,
            Picture.created_at,
            null(),
            Picture.hint,
        )
        .join(CaptionRow, CaptionRow.image_id == Picture.image_id)
        .where(Picture.image_id == image_id)
        .order_by(CaptionRow.number.desc())
    )


def _held(row: Any) -> Held:
    image_id, name, width, height, options, created_at, chosen, hint = row
    moment = datetime.fromtimestamp(created_at, UTC)
    return Held(image_id, name, width, height, options, moment, chosen, hint or "")
