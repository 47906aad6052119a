"""The tables of ``captionapp.db``."""

from __future__ import annotations

from sqlalchemy import Connection, ForeignKey, Index, UniqueConstraint, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateColumn


class Base(DeclarativeBase):
    pass


def create_or_extend(connection: Connection) -> None:
    """Make the tables that are not there, and add the columns that an older release did not have;
    those can be null, or have a default of the server's."""
    Base.metadata.create_all(connection)
    for table in Base.metadata.sorted_tables:
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")


class Picture(Base):
    """A stored picture. ``created_at`` is POSIX seconds, here as everywhere in this database."""

    __tablename__ = "pictures"
    image_id: Mapped[str] = mapped_column(primary_key=True)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[float]


class Holding(Base):
    """A browser has sent a picture, under a name, and asked for it to be described this way."""

    __tablename__ = "holdings"
    __table_args__ = (Index("holdings_of_browser", "contributor", "created_at"),)
    image_id: Mapped[str] = mapped_column(ForeignKey("pictures.image_id"), primary_key=True)
    contributor: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    options: Mapped[str]
    created_at: Mapped[float]


class CaptionRow(Base):
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
    problem: Mapped[str]
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
    problem: Mapped[str]
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
