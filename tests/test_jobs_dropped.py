"""Jobs that nobody waits for any more, and what becomes of their requests in the queue."""

from __future__ import annotations

from typing import Any

import pytest

from captionapp import jobs as jobs_module
from captionapp.errors import QueueFull
from captionapp.workflow import Workflow
from tests.conftest import HeldCaptioner
from tests.people import incoming
from tests.waiting import until


@pytest.fixture
def workflow(make_app: Any, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Its model is busy with a picture, and there is room for another."""
    monkeypatch.setattr(jobs_module, "GONE_SECONDS", 0.01)
    app = make_app(CAPTIONAPP_BATCH_SIZE=4, CAPTIONAPP_QUEUE_SIZE=2, CAPTIONAPP_MAX_FILES=2)
    workflow: Workflow = app.extensions["captionapp"]
    workflow.service._load = lambda _: held
    give(workflow, "red")
    assert held.begun.wait(10)
    return workflow


def give(workflow: Workflow, colour: str) -> str:
    return workflow.submit([incoming(colour)], "anna").accepted[0]


def test_a_picture_that_was_dropped_and_asked_for_again_is_described_once(
    make_app: Any, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "GONE_SECONDS", 0.01)
    workflow: Workflow = make_app(CAPTIONAPP_BATCH_SIZE=4).extensions["captionapp"]
    workflow.service._load = lambda _: held
    give(workflow, "red")
    assert held.begun.wait(10)
    # As if it were just being prepared: it stays in the queue until its turn.
    monkeypatch.setattr(workflow.queue, "drop", lambda _: None)
    image_id = give(workflow, "blue")
    workflow.wait(image_id, "anna", 30, gone=lambda: True)
    assert workflow.picture(image_id, "anna").status == "waiting"  # and has it made
    until(lambda: not workflow.queue._waiting and not workflow.queue._preparing)
    held.go.set()
    workflow.wait(image_id, "anna", 30)
    assert workflow.picture(image_id, "anna").status == "done"
    until(lambda: workflow.queue.depth == 0 and not workflow.jobs._under_way)
    assert [size for size, _ in held.calls] == [1, 1]
    (captions,) = workflow.captions.of([image_id]).values()
    assert len(captions) == 1


def test_who_leaves_makes_room_for_others_at_once(workflow: Workflow, held: HeldCaptioner) -> None:
    image_id = give(workflow, "blue")
    with pytest.raises(QueueFull):
        give(workflow, "green")
    workflow.wait(image_id, "anna", 30, gone=lambda: True)
    other = give(workflow, "green")
    held.go.set()
    until(lambda: workflow.picture(other, "anna").status == "done")
    assert workflow.captions.of([image_id]) == {}


def test_who_cancels_makes_room_for_others_at_once(workflow: Workflow, held: HeldCaptioner) -> None:
    image_id = give(workflow, "blue")
    assert workflow.cancel("anna") == [image_id]
    other = give(workflow, "green")
    held.go.set()
    until(lambda: workflow.picture(other, "anna").status == "done")
    assert workflow.captions.of([image_id]) == {}
