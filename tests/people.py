"""What people do, without a browser: they send pictures, and answer."""

from __future__ import annotations

from typing import Any

from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import draw, encoded


def incoming(colour: str = "red", name: str = "ball.png") -> IncomingFile:
    return IncomingFile(name, lambda: encoded(draw(colour)))


def send(workflow: Workflow, colour: str = "red", contributor: str = "anna", **kwargs: Any) -> str:
    """Upload one picture and wait for its caption; returns its id."""
    (image_id,) = workflow.submit([incoming(colour)], contributor, **kwargs).accepted
    workflow.wait(image_id, contributor, 10)
    return image_id


def answer(workflow: Workflow, image_id: str, contributor: str, text: str = "") -> None:
    caption = workflow.picture(image_id, contributor).caption
    assert caption
    verdict = "corrected" if text else "accepted"
    workflow.answers.give(image_id, contributor, caption.id, verdict, text, [])
