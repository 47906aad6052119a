from __future__ import annotations

import threading
from typing import Any

import pytest

from captionapp import jobs as jobs_module
from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import HeldCaptioner, draw, encoded
from tests.waiting import until


@pytest.fixture
def workflow(make_app: Any, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Its model is busy with a picture."""
    monkeypatch.setattr(jobs_module, "GONE_SECONDS", 0.01)
    workflow: Workflow = make_app(CAPTIONAPP_BATCH_SIZE=1).extensions["captionapp"]
    workflow.service._load = lambda _: held
    give(workflow, "red")
    assert held.begun.wait(10)
    return workflow


def give(workflow: Workflow, colour: str, contributor: str = "anna") -> str:
    file = IncomingFile(f"{colour}.png", lambda: encoded(draw(colour)))
    return workflow.submit([file], contributor).accepted[0]


def test_what_nobody_waits_for_is_not_described_before_somebody_looks(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    image_id = give(workflow, "blue")
    workflow.wait(image_id, "anna", 30, gone=lambda: True)
    held.go.set()
    until(lambda: workflow.queue.depth == 0 and not workflow.jobs._under_way)
    assert [size for size, _ in held.calls] == [1]
    assert workflow.picture(image_id, "anna").status == "waiting"  # and has it made
    until(lambda: workflow.picture(image_id, "anna").status == "done")


def test_what_another_browser_waits_for_is_described(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    image_id = give(workflow, "blue")
    assert give(workflow, "blue", "ben") == image_id
    workflow.wait(image_id, "anna", 30, gone=lambda: True)
    held.go.set()
    until(lambda: workflow.queue.depth == 0 and not workflow.jobs._under_way)
    assert [size for size, _ in held.calls] == [1, 1]  # without anybody who looks


def test_what_is_begun_is_described_to_the_end(workflow: Workflow, held: HeldCaptioner) -> None:
    image_id = give(workflow, "red")  # the picture that is under way
    workflow.wait(image_id, "anna", 30, gone=lambda: True)
    held.go.set()
    until(lambda: workflow.picture(image_id, "anna").status == "done")
    assert len(held.calls) == 1


def test_a_client_that_stays_gets_its_description(workflow: Workflow, held: HeldCaptioner) -> None:
    image_id = give(workflow, "blue")
    asked = threading.Event()

    def gone() -> bool:
        asked.set()
        return False

    waiting = threading.Thread(target=workflow.wait, args=(image_id, "anna", 30, gone))
    waiting.start()
    assert asked.wait(10)
    held.go.set()
    waiting.join(10)
    assert workflow.picture(image_id, "anna").status == "done"


def test_the_model_does_not_wait_for_the_disk(
    workflow: Workflow, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, go = workflow.captions.add_all, threading.Event()

    def slow(*given: Any) -> None:
        assert go.wait(30)
        add(*given)

    monkeypatch.setattr(workflow.captions, "add_all", slow)
    image_id = give(workflow, "blue")
    held.go.set()
    until(lambda: len(held.calls) == 2)  # the second, while nothing of the first is written
    assert workflow.picture(image_id, "anna").status == "waiting"
    go.set()
    until(lambda: workflow.picture(image_id, "anna").status == "done")


def test_what_comes_while_the_disk_is_waited_for_is_written_together(
    workflow: Workflow, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, begun, go = workflow.captions.add_all, threading.Event(), threading.Event()
    written: list[int] = []

    def slow(made: list[Any]) -> None:
        written.append(len(made))
        begun.set()
        assert go.wait(30)
        add(made)

    monkeypatch.setattr(workflow.captions, "add_all", slow)
    held.go.set()
    assert begun.wait(30)  # with the red one
    image_ids = [give(workflow, colour) for colour in ("blue", "green")]
    until(lambda: len(workflow.jobs._made) == 2)
    go.set()
    for image_id in image_ids:
        until(lambda: workflow.picture(image_id, "anna").status == "done")  # noqa: B023
    assert written == [1, 2]


def test_of_what_is_written_together_one_fails_alone(
    workflow: Workflow, held: HeldCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, begun, go = workflow.captions.add_all, threading.Event(), threading.Event()
    written: list[int] = []

    def full(made: list[Any]) -> None:
        written.append(len(made))
        begun.set()
        assert go.wait(30)
        if blue in [image_id for image_id, _ in made]:
            raise OSError("no room")
        add(made)

    monkeypatch.setattr(workflow.captions, "add_all", full)
    held.go.set()
    assert begun.wait(30)  # with the red one
    blue, green = give(workflow, "blue"), give(workflow, "green")
    until(lambda: len(workflow.jobs._made) == 2)
    go.set()
    until(lambda: not workflow.jobs._under_way)
    assert written == [1, 2, 1, 1]
    assert workflow.picture(blue, "anna").status == "failed"
    assert workflow.picture(green, "anna").status == "done"


def test_closing_writes_what_was_made(workflow: Workflow, held: HeldCaptioner) -> None:
    image_id = give(workflow, "blue")
    held.go.set()
    assert workflow.close(10)
    assert workflow.captions.of([image_id])


def test_what_is_made_after_closing_is_made_again_for_whoever_looks(
    workflow: Workflow, held: HeldCaptioner, caplog: pytest.LogCaptureFixture
) -> None:
    assert not workflow.close(0.01)
    held.go.set()
    until(lambda: not workflow.jobs._under_way)
    assert "came too late" in caplog.text
