"""Sending a picture, and an answer, the way the forms do."""

from __future__ import annotations

import io

from tests.hanging import ANNA


def send(client, data: bytes, name: str = "ball.png") -> str:
    sent = client.post("/captions", data={"images": (io.BytesIO(data), name)})
    assert sent.status_code == 303
    return str(sent.location)


def caption_id(workflow, image_id: str) -> str:
    return workflow.picture(image_id, ANNA).caption.id


def answer(client, workflow, image_id, text="", query=""):
    verdict = "corrected" if text else "accepted"
    form = {"caption_id": caption_id(workflow, image_id), "verdict": verdict, "correction": text}
    return client.post(f"/images/{image_id}/feedback?then=next{query}", data=form)
