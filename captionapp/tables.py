"""The tables of ``captionapp.db``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, ForeignKey, Index, String, UniqueConstraint, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateColumn
from sqlalchemy.types import TypeDecorator

from captionapp.sentences import Sentence, packed, unpacked

#: Stands for the probability of a description that is not there yet: behind all others.
NOT_DESCRIBED = 2.0


class Base(DeclarativeBase):
    pass


def create_or_extend(connection: Connection) -> None:
    """Make the tables and indexes that are not there, and add the columns that an older release did
    not have; those can be null, or have a default of the server's, so that it still could write."""
    Base.metadata.create_all(connection)
    for table in Base.metadata.sorted_tables:
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    for name in _OLD_INDEXES:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")


class Said(TypeDecorator[str]):
    """Text that stays a ``Sentence`` if it is one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return packed(value) if isinstance(value, Sentence) else value

    def process_result_value(self, value: Any | None, dialect: Any) -> str | None:
        return None if value is None else unpacked(value)


class Picture(Base):
    """A stored picture. ``created_at`` is POSIX seconds, here as everywhere in this database."""

    __tablename__ = "pictures"
    image_id: Mapped[str] = mapped_column(primary_key=True)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[float]
    #: ``hints.Hint``, empty if there is none; null: it was stored before there were hints.
    hint: Mapped[str | None]


#: Indexes of older versions that others have replaced.
_OLD_INDEXES = ("holdings_of_browser",)
_IN_GALLERY = text("released_at IS NULL")


class Holding(Base):
    """A browser has sent a picture, under a name, and asked for it to be described this way.

    ``released_at`` is when it let go of it, as long as that can be undone. From ``stale`` on the
    columns are what the gallery searches and sorts by: they follow from captions and feedback.csv,
    and are brought up to date by ``captionapp.gallery`` where ``stale`` says so.
    """

    __tablename__ = "holdings"
    __table_args__ = (
        Index("holdings_released", "released_at", sqlite_where=text("released_at IS NOT NULL")),
        Index("holdings_stale", "contributor", sqlite_where=text("stale = 1")),
        *(
            Index(
                f"gallery_{'_'.join([*narrowed, column])}",
                *("contributor", *narrowed, column, "image_id"),
                sqlite_where=_IN_GALLERY,
            )
            for column in ("created_at", "probability", "name_key")
            for narrowed in ((), ("state",))
        ),
    )
    image_id: Mapped[str] = mapped_column(ForeignKey("pictures.image_id"), primary_key=True)
    contributor: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    options: Mapped[str]
    created_at: Mapped[float]
    released_at: Mapped[float | None]
    #: Id of the caption that it chose among several; null: the newest one is shown.
    chosen: Mapped[str | None]
    stale: Mapped[bool] = mapped_column(server_default="1")
    #: ``gallery.State``: what this browser answered to the description that is there now.
    state: Mapped[str] = mapped_column(server_default="unanswered")
    probability: Mapped[float] = mapped_column(server_default=str(NOT_DESCRIBED))
    name_key: Mapped[str] = mapped_column(server_default="")
    #: Name and texts, case folded.
    searched: Mapped[str] = mapped_column(server_default="")


class GalleryPosition(Base):
    """How far the answers of feedback.csv have reached the holdings; a table of one row."""

    __tablename__ = "gallery_position"
    number: Mapped[int] = mapped_column(primary_key=True)
    rows: Mapped[int]
    last_id: Mapped[str]
    memory: Mapped[str]


class AskedRow(Base):
    """A browser asked for a picture to be described in this way as well, before the way that its
    holding has now."""

    __tablename__ = "asked"
    image_id: Mapped[str] = mapped_column(ForeignKey("pictures.image_id"), primary_key=True)
    contributor: Mapped[str] = mapped_column(primary_key=True)
    options: Mapped[str] = mapped_column(primary_key=True)


class CaptionRow(Base):
    """A caption. ``made_with`` is the id of the best of those that were made together, if there are
    several; ``words`` is JSON: each word with its probability, or null."""

    __tablename__ = "captions"
    __table_args__ = (Index("captions_of_picture", "image_id", "options"),)
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("pictures.image_id"))
    options: Mapped[str]
    text: Mapped[str]
    probability: Mapped[float]
    model_version: Mapped[str]
    seconds: Mapped[float]
    created_at: Mapped[float]
    made_with: Mapped[str | None]
    words: Mapped[str | None]


class Job(Base):
    """A caption that is being made, or could not be (``problem``); gone once the caption is there.

    The process that works on it extends ``lease_until``; a job whose lease is over was left behind
    by a process that died, and may be taken by another. ``begun_at`` is null while it is queued.
    """

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("image_id", "options"),)
    number: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("pictures.image_id"))
    options: Mapped[str]
    owner: Mapped[str]
    lease_until: Mapped[float]
    problem: Mapped[str] = mapped_column(Said)
    begun_at: Mapped[float | None]


class ArrivalRow(Base):
    """A file of a batch that a page sent one by one: the picture that it became, or the ``problem``
    why it became none. ``place`` is where it stood among the ``total`` of the batch, and ``fresh``
    says that the browser did not hold the picture before. Kept for a day."""

    __tablename__ = "arrivals"
    __table_args__ = (UniqueConstraint("contributor", "batch", "place"),)
    number: Mapped[int] = mapped_column(primary_key=True)
    contributor: Mapped[str]
    batch: Mapped[str]
    place: Mapped[int]
    total: Mapped[int]
    name: Mapped[str]
    image_id: Mapped[str | None]
    problem: Mapped[str] = mapped_column(Said)
    fresh: Mapped[bool]
    created_at: Mapped[float] = mapped_column(index=True)


class SideRow(Base):
    """On which side of the split a picture is for good; without a side it is left out for good.

    It outlives the picture: what comes later must not be close to what was trained on.
    """

    __tablename__ = "sides"
    image_id: Mapped[str] = mapped_column(primary_key=True)
    phash: Mapped[str]
    side: Mapped[str | None]
    created_at: Mapped[float]


class VoteRow(Base):
    """A browser compared two versions on a picture, without knowing which was which: their names
    are in the order in which the captions were shown, and ``choice`` is ``a``, ``b``, ``both`` or
    ``neither``. The picture may be gone: what was said about the versions stays."""

    __tablename__ = "votes"
    __table_args__ = (Index("votes_of_versions", "version_a", "version_b"),)
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    image_id: Mapped[str]
    version_a: Mapped[str]
    version_b: Mapped[str]
    choice: Mapped[str]
    contributor: Mapped[str]
    created_at: Mapped[float]
