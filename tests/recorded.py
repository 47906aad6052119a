"""What stands in a database without an application around it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.records import Held, Records

OPTIONS = DecodeOptions()
KEY = OPTIONS.key()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def hold(records: Records, image_id: str, contributor: str, minutes: int = 0) -> None:
    moment = NOW + timedelta(minutes=minutes)
    with records.write() as session:
        held = Held(image_id, f"{image_id}.jpg", 4, 3, KEY, moment)
        records.hold(session, held, contributor)


def caption(text: str = "a dog", version: str = "v1") -> Caption:
    return Caption(text, 0.25, version, OPTIONS, 0.5)
