"""What the application remembers in ``instance/captionapp.db``: pictures, who sent them, captions
and the jobs that make them. SQLAlchemy on SQLite in WAL mode; safe from many threads and processes.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import (
    BindParameter,
    bindparam,
    create_engine,
    delete,
    event,
    exists,
    func,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from captionapp.captioning.captioner import ASKED, Caption, Word, is_plain
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
class CaptionRecord:
    """A caption as it was made and kept: see ``Caption`` for the units. ``options_key`` is how it
    was asked for; ``set_id`` is equal for captions that were made together."""

    id: str
    image_id: str
    text: str
    probability: float
    model_version: str
    options_key: str
    seconds: float
    created_at: datetime
    set_id: str = ""
    words: tuple[Word, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The fields of ``DecodeOptions``; of the later ones only what was asked for."""
        return dict(json.loads(self.options_key))

    @property
    def given(self) -> int:
        """How many words a person gave it to begin with."""
        return len(str(self.options.get("prompt", "")).split())


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


@dataclass(frozen=True)
class JobState:
    """``problem`` is empty while the job is on its way; ``abandoned`` if its process died.
    ``ahead`` is the number of captions queued before this one, None once it has been begun."""

    problem: str
    abandoned: bool
    ahead: int | None = None


def chosen_first(captions: Sequence[CaptionRecord], chosen: str | None) -> list[CaptionRecord]:
    """Captions, newest first, with the one of this id before them."""
    return sorted(captions, key=lambda one: one.id != chosen)


class Records:
    """The database at ``path``; tables are made if they are not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: This process, as the owner of jobs.
        self.owner = uuid.uuid4().hex
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
    def write(self) -> Iterator[Session]:
        """A transaction that holds the database's write lock from its first moment.

        What happens to the stored files inside it cannot overlap with another writer's decision.
        """
        engine = self._engine.execution_options(begin="IMMEDIATE")
        # SQLite lets a writer that has to wait sleep, longer each time; threads need not.
        with self._writing, Session(engine) as session, session.begin():
            yield session

    # Pictures and who holds them

    def hold(self, session: Session, held: Held, contributor: str) -> bool:
        """Note that this browser sent this picture; a second time renews name, options and time,
        and takes it back if it was let go of.

        Returns whether it did not hold it before.
        """
        before = session.get(Holding, (held.image_id, contributor))
        fresh = before is None or before.released_at is not None
        now = held.created_at.timestamp()
        session.execute(
            insert(Picture)
            .values(
                image_id=held.image_id,
                width=held.width,
                height=held.height,
                created_at=now,
                hint=held.hint,
            )
            .on_conflict_do_nothing()
        )
        values = {
            "name": held.name,
            "options": held.options,
            "created_at": now,
            "released_at": None,
            "chosen": None,
            "stale": True,
        }
        session.execute(
            insert(Holding)
            .values(image_id=held.image_id, contributor=contributor, **values)
            .on_conflict_do_update(index_elements=["image_id", "contributor"], set_=values)
        )
        return fresh

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

    # Captions

    def add_caption(self, image_id: str, caption: Caption) -> str | None:
        """Keep a caption, with the others made with it, and end its job. It becomes the newest.
        Returns its id; ``None`` if the picture is gone."""
        caption_id = uuid.uuid4().hex
        key = caption.options.key()
        now = _now()
        with self.write() as session:
            if session.get(Picture, image_id) is None:
                return None
            for other in reversed(caption.others):
                session.add(_row(uuid.uuid4().hex, image_id, other, now, caption_id))
                session.flush()  # numbers follow the order
            session.add(_row(caption_id, image_id, caption, now, caption_id))
            session.execute(delete(Job).where(Job.image_id == image_id, Job.options == key))
            session.execute(update(Holding).where(Holding.image_id == image_id).values(stale=True))
        return caption_id

    def caption(self, image_id: str, caption_id: str) -> CaptionRecord:
        """The caption of this id.

        Raises:
            NotFound: if there is none, or it describes another picture.
        """
        with self.read() as session:
            row = session.scalar(
                select(CaptionRow).where(
                    CaptionRow.id == caption_id, CaptionRow.image_id == image_id
                )
            )
            if row is None:
                raise NotFound("The description that this answer is about no longer exists.")
            return _caption(row)

    def captions(self, image_ids: Iterable[str]) -> dict[tuple[str, str], list[CaptionRecord]]:
        """Captions of these pictures by (image_id, options key), newest first."""
        with self.read() as session:
            return self.captions_in(session, image_ids)

    def captions_in(
        self, session: Session, image_ids: Iterable[str]
    ) -> dict[tuple[str, str], list[CaptionRecord]]:
        """``captions`` as this session sees them."""
        found: dict[tuple[str, str], list[CaptionRecord]] = {}
        for row in session.scalars(_CAPTIONS, {"image_ids": list(image_ids)}):
            found.setdefault((row.image_id, row.options), []).append(_caption(row))
        return found

    def captions_by(self, model_version: str) -> dict[str, str]:
        """What this version said last of each picture, by ``image_id``; what a person began, or
        asked for in another way, is not its own words, and left out."""
        query = (
            select(CaptionRow)
            .where(CaptionRow.model_version == model_version)
            .order_by(CaptionRow.number)
        )
        with self.read() as session:
            made = [_caption(row) for row in session.scalars(query)]
        return {one.image_id: one.text for one in made if is_plain(one.options)}

    def newest_captions(self, model_version: str) -> list[CaptionRecord]:
        """The last caption that this version made of each picture by itself, the least probable
        first; what a person began, or asked for in another way, is left out."""
        newest = (
            select(func.max(CaptionRow.number))
            .where(CaptionRow.model_version == model_version, *_plain())
            .group_by(CaptionRow.image_id)
        )
        query = (
            select(CaptionRow)
            .where(CaptionRow.number.in_(newest))
            .order_by(CaptionRow.probability, CaptionRow.number)
        )
        with self.read() as session:
            return [_caption(row) for row in session.scalars(query)]

    def picture_ids(self) -> list[str]:
        """All pictures there are, the oldest first."""
        with self.read() as session:
            return list(session.scalars(select(Picture.image_id).order_by(Picture.created_at)))

    # Jobs

    def begin_job(self, image_id: str, options: str, lease_seconds: float) -> bool:
        """Take the making of a caption upon this process.

        Returns ``False`` if a living process, this one or another, is at it already.
        """
        now = _now()
        with self.write() as session:
            if session.get(Picture, image_id) is None:
                return False
            job = session.scalar(
                select(Job).where(Job.image_id == image_id, Job.options == options)
            )
            if job is not None:
                if not job.problem and job.lease_until > now:
                    return False
                session.delete(job)  # its number is its place in the queue: it starts at the end
                session.flush()
            session.add(
                Job(
                    image_id=image_id,
                    options=options,
                    owner=self.owner,
                    lease_until=now + lease_seconds,
                    problem="",
                )
            )
        return True

    def take_job(self, image_id: str, options: str) -> bool:
        """Its turn has come. Returns ``False`` if the job was dropped, or taken over, meanwhile."""
        mine = (Job.image_id == image_id, Job.options == options, Job.owner == self.owner)
        waiting = update(Job).where(*mine, Job.problem == "", Job.begun_at.is_(None))
        with self.write() as session:
            taken = session.execute(waiting.values(begun_at=_now()).returning(Job.number))
            return taken.first() is not None

    def drop_job(self, image_id: str, options: str, contributor: str | None) -> bool:
        """Forget a job of this process that has not been begun, if there is one that no browser
        but this one wants."""
        mine = (Job.image_id == image_id, Job.options == options, Job.owner == self.owner)
        wanted_by_others = exists().where(
            Holding.image_id == image_id,
            Holding.options == options,
            Holding.contributor != contributor,
            Holding.released_at.is_(None),
        )
        with self.write() as session:
            waiting = select(Job).where(*mine, Job.problem == "", Job.begun_at.is_(None))
            job = session.scalar(waiting.where(~wanted_by_others))
            if job is not None:
                session.delete(job)
        return job is not None

    def extend_leases(self, lease_seconds: float) -> None:
        """Say that this process lives and is still at its jobs."""
        with self.write() as session:
            session.execute(
                update(Job)
                .where(Job.owner == self.owner, Job.problem == "")
                .values(lease_until=_now() + lease_seconds)
            )

    def fail_job(self, image_id: str, options: str, problem: str) -> None:
        """Note why the caption could not be made."""
        with self.write() as session:
            session.execute(
                update(Job)
                .where(Job.image_id == image_id, Job.options == options)
                .values(problem=problem)
            )

    def jobs(self, image_ids: Iterable[str]) -> dict[tuple[str, str], JobState]:
        """The jobs of these pictures by (image_id, options key)."""
        with self.read() as session:
            return self.jobs_in(session, image_ids)

    def jobs_in(
        self, session: Session, image_ids: Iterable[str]
    ) -> dict[tuple[str, str], JobState]:
        """``jobs`` as this session sees them."""
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


def _configure_connection(connection: Any, _: Any) -> None:
    # The driver's own BEGIN would come too late, at the first change; ours is in _begin.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _now() -> float:
    return datetime.now(UTC).timestamp()


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
_OF_THESE: BindParameter[Any] = bindparam("image_ids", expanding=True)
_CAPTIONS = (
    select(CaptionRow).where(CaptionRow.image_id.in_(_OF_THESE)).order_by(CaptionRow.number.desc())
)
_JOBS = select(Job).where(Job.image_id.in_(_OF_THESE))


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


def _plain() -> list[Any]:
    """Of captions that ``is_plain`` is true of."""
    options = CaptionRow.options
    asked = [func.json_type(options, f"$.{name}").is_(None) for name in ASKED]
    return [*asked, func.json_extract(options, "$.prompt") == ""]


def _row(
    caption_id: str, image_id: str, caption: Caption, created_at: float, made_with: str
) -> CaptionRow:
    words = [(word.text, word.probability) for word in caption.words]
    return CaptionRow(
        id=caption_id,
        image_id=image_id,
        options=caption.options.key(),
        text=caption.text,
        probability=caption.probability,
        model_version=caption.model_version,
        seconds=caption.seconds,
        created_at=created_at,
        made_with=made_with,
        words=json.dumps(words, ensure_ascii=False) if words else None,
    )


def _caption(row: CaptionRow) -> CaptionRecord:
    return CaptionRecord(
        id=row.id,
        image_id=row.image_id,
        text=row.text,
        probability=row.probability,
        model_version=row.model_version,
        options_key=row.options,
        seconds=row.seconds,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        set_id=row.made_with or row.id,
        words=tuple(Word(*pair) for pair in json.loads(row.words or "[]")),
    )
