"""A gallery full of pictures that nobody had to upload one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import Flask

from captionapp.captioning.captioner import Caption
from captionapp.images import ImageLimits, decode
from captionapp.records import Held
from captionapp.workflow import Workflow
from tests.conftest import draw, encoded

ANNA = "a" * 32


def hang(app: Flask, count: int, contributor: str = ANNA) -> list[str]:
    """Give this browser ``count`` pictures, the newest first; returns their ids. The n-th is called
    ``n.png``, its description is ``ball number n``, and the first is the least sure."""
    workflow: Workflow = app.extensions["captionapp"]
    options = workflow.settings.decode_options()
    now = datetime.now(UTC)
    image_ids = []
    for number in range(1, count + 1):
        image = decode(encoded(draw(f"#{number:02x}0000", (16, 12))), ImageLimits())
        workflow.store.add(image)
        moment = now - timedelta(minutes=number)
        held = Held(image.image_id, f"{number}.png", 16, 12, options.key(), moment)
        with workflow.records.write() as session:
            workflow.records.hold(session, held, contributor)
        text = f"ball number {number}"
        caption = Caption(text, number / (count + 1), "fake-1", options, 0.1)
        workflow.captions.add(image.image_id, caption)
        image_ids.append(image.image_id)
    return image_ids


def cookie(app: Flask, contributor: str = ANNA) -> str:
    """The session cookie of this browser."""
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    return str(serializer.dumps({"contributor": contributor, "_permanent": True}))
