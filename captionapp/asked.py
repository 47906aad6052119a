"""How a browser asked for its pictures to be described: now, and before."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from captionapp.caption_records import CaptionRecord
from captionapp.errors import NotFound
from captionapp.records import Records
from captionapp.tables import AskedRow, Holding

_EARLIER = select(AskedRow.image_id, AskedRow.options).where(
    AskedRow.contributor == bindparam("contributor"),
    AskedRow.image_id.in_(bindparam("image_ids", expanding=True)),
)


class Asked:
    """A browser's wishes for a picture: options of decoding, of which one is the present one. What
    others asked of the same picture, and got, is not shown to it: they may have begun it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def ask(self, image_id: str, contributor: str, options: str) -> None:
        """Have these options from now on, and remember those there were.

        Raises:
            NotFound: if this browser does not hold the picture.
        """
        with self._records.write() as session:
            self._records.require_holding(session, image_id, contributor)
            self._turn_to(session, image_id, contributor, options, None)

    def choose(self, session: Session, contributor: str, caption: CaptionRecord) -> None:
        """Show this caption from now on, and not the first one made with its options."""
        self._turn_to(session, caption.image_id, contributor, caption.options_key, caption.id)

    def earlier(
        self, session: Session, image_ids: list[str], contributor: str
    ) -> dict[str, list[str]]:
        """The options of earlier wishes of this browser, by ``image_id``."""
        found: dict[str, list[str]] = {}
        for image_id, options in session.execute(
            _EARLIER, {"contributor": contributor, "image_ids": image_ids}
        ):
            found.setdefault(image_id, []).append(options)
        return found

    def _turn_to(
        self, session: Session, image_id: str, contributor: str, options: str, chosen: str | None
    ) -> None:
        mine = (Holding.image_id == image_id, Holding.contributor == contributor)
        before = session.scalar(select(Holding.options).where(*mine))
        if before is None:
            raise NotFound("There is no such picture, or it is not one of yours.")
        row = {"image_id": image_id, "contributor": contributor}
        session.execute(insert(AskedRow).values(**row, options=before).on_conflict_do_nothing())
        session.execute(delete(AskedRow).where(AskedRow.options == options).filter_by(**row))
        session.execute(
            update(Holding).where(*mine).values(options=options, chosen=chosen, stale=True)
        )
