"""Captions as they are kept in the database: see ``records`` for that."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from captionapp.captioning.captioner import ASKED, Caption, Word, is_plain
from captionapp.errors import NotFound
from captionapp.records import Records
from captionapp.tables import CaptionRow, Holding, Job


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


def chosen_first(captions: Sequence[CaptionRecord], chosen: str | None) -> list[CaptionRecord]:
    """Captions, newest first, with the one of this id before them."""
    return sorted(captions, key=lambda one: one.id != chosen)


class CaptionRecords:
    """The captions in the database of ``records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def add(self, image_id: str, caption: Caption) -> str | None:
        """Keep a caption, with the others made with it, and end its job. It becomes the newest.
        Returns its id; ``None`` if the picture is gone."""
        with self._records.write() as session:
            return self._add(session, image_id, caption)

    def add_all(self, made: Iterable[tuple[str, Caption]]) -> list[str | None]:
        """``add`` captions of several pictures in one transaction: all of them, or none.

        If the power fails they may be gone, and are made anew: their jobs are there again.
        """
        with self._records.write(durable=False) as session:
            return [self._add(session, image_id, caption) for image_id, caption in made]

    def _add(self, session: Session, image_id: str, caption: Caption) -> str | None:
        if not self._records.is_there(session, image_id):
            return None
        caption_id = uuid.uuid4().hex
        now = datetime.now(UTC).timestamp()
        for other in reversed(caption.others):  # numbers follow the order
            session.execute(_ADD, _row(uuid.uuid4().hex, image_id, other, now, caption_id))
        session.execute(_ADD, _row(caption_id, image_id, caption, now, caption_id))
        session.execute(_END_JOB, {"picture": image_id, "asked": caption.options.key()})
        session.execute(_MAKE_STALE, {"picture": image_id})
        return caption_id

    def get(self, image_id: str, caption_id: str) -> CaptionRecord:
        """The caption of this id.

        Raises:
            NotFound: if there is none, or it describes another picture.
        """
        with self._records.read() as session:
            row = session.scalar(
                select(CaptionRow).where(
                    CaptionRow.id == caption_id, CaptionRow.image_id == image_id
                )
            )
            if row is None:
                raise NotFound("The description that this answer is about no longer exists.")
            return _caption(row)

    def of(self, image_ids: Iterable[str]) -> dict[tuple[str, str], list[CaptionRecord]]:
        """Captions of these pictures by (image_id, options key), newest first."""
        with self._records.read() as session:
            return self.of_in(session, image_ids)

    def of_in(
        self, session: Session, image_ids: Iterable[str]
    ) -> dict[tuple[str, str], list[CaptionRecord]]:
        """``of`` as this session sees them."""
        found: dict[tuple[str, str], list[CaptionRecord]] = {}
        for row in session.scalars(_CAPTIONS, {"image_ids": list(image_ids)}):
            found.setdefault((row.image_id, row.options), []).append(_caption(row))
        return found

    def by(self, model_version: str) -> dict[str, str]:
        """What this version said last of each picture, by ``image_id``; what a person began, or
        asked for in another way, is not its own words, and left out."""
        query = (
            select(CaptionRow)
            .where(CaptionRow.model_version == model_version)
            .order_by(CaptionRow.number)
        )
        with self._records.read() as session:
            made = [_caption(row) for row in session.scalars(query)]
        return {one.image_id: one.text for one in made if is_plain(one.options)}

    def newest(self, model_version: str) -> list[CaptionRecord]:
        """The last caption that this version made of each picture by itself, the least probable
        first. What a person began, or asked for in another way, is left out: its probability is
        that of the rest, or of another search."""
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
        with self._records.read() as session:
            return [_caption(row) for row in session.scalars(query)]


_OF_THESE: BindParameter[Any] = bindparam("image_ids", expanding=True)
# Nearly every request asks this: it is put together once.
_CAPTIONS = (
    select(CaptionRow).where(CaptionRow.image_id.in_(_OF_THESE)).order_by(CaptionRow.number.desc())
)
# So are those of the tables that a caption is written with: see ``records``.
_ROWS: Any = CaptionRow.__table__
_ADD = insert(_ROWS)
_JOBS: Any = Job.__table__
_END_JOB = delete(_JOBS).where(
    _JOBS.c.image_id == bindparam("picture"), _JOBS.c.options == bindparam("asked")
)
_HOLDINGS: Any = Holding.__table__
_MAKE_STALE = (
    update(_HOLDINGS).where(_HOLDINGS.c.image_id == bindparam("picture")).values(stale=True)
)


def _plain() -> list[Any]:
    """Of captions that ``is_plain`` is true of."""
    options = CaptionRow.options
    asked = [func.json_type(options, f"$.{name}").is_(None) for name in ASKED]
    return [*asked, func.json_extract(options, "$.prompt") == ""]


def _row(
    caption_id: str, image_id: str, caption: Caption, created_at: float, made_with: str
) -> dict[str, Any]:
    words = [(word.text, word.probability) for word in caption.words]
    return {
        "id": caption_id,
        "image_id": image_id,
        "options": caption.options.key(),
        "text": caption.text,
        "probability": caption.probability,
        "model_version": caption.model_version,
        "seconds": caption.seconds,
        "created_at": created_at,
        "made_with": made_with,
        "words": json.dumps(words, ensure_ascii=False) if words else None,
    }


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
