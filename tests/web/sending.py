"""Sending a picture the way the form does."""

from __future__ import annotations

import io


def send(client, data: bytes, name: str = "ball.png") -> str:
    sent = client.post("/captions", data={"images": (io.BytesIO(data), name)})
    assert sent.status_code == 303
    return str(sent.location)
