from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from captionapp import arrivals as arrivals_module
from captionapp.arrivals import CANCELLED, Ticket
from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import HeldCaptioner, draw, encoded
from tests.waiting import until

BATCH = "b" * 32
COLOURS = ["red", "blue", "white", "black"]


@pytest.fixture
def workflow(make_app: Any, held: HeldCaptioner) -> Workflow:
    app: Flask = make_app(CAPTIONAPP_BATCH_SIZE=1)
    workflow: Workflow = app.extensions["captionapp"]
    workflow.service._load = lambda _: held
    return workflow


def give(
    workflow: Workflow,
    colour: str,
    place: int = 0,
    contributor: str = "anna",
    batch: str = BATCH,
    prompt: str = "",
) -> str:
    file = IncomingFile(f"{colour}.png", lambda: encoded(draw(colour)))
    submission = workflow.submit([file], contributor, prompt)
    workflow.arrivals.note(contributor, Ticket(batch, place, 4), submission)
    return submission.accepted[0]


def give_all(workflow: Workflow, held: HeldCaptioner) -> list[str]:
    """Four pictures of which the first is being described."""
    first = give(workflow, COLOURS[0])
    assert held.begun.wait(10)
    return [first, *(give(workflow, colour, n) for n, colour in enumerate(COLOURS[1:], 1))]


def test_a_picture_that_waits_knows_its_place(workflow: Workflow, held: HeldCaptioner) -> None:
    ids = give_all(workflow, held)
    views = workflow.pictures_of(ids, "anna")
    assert [views[one].ahead for one in ids] == [None, 0, 1, 2]
    assert {view.status for view in views.values()} == {"waiting"}
    assert workflow.pictures_of(ids, "ben") == {}
    held.go.set()
    until(lambda: all(workflow.picture(one, "anna").status == "done" for one in ids))
    assert workflow.picture(ids[3], "anna").ahead is None


def test_a_batch_is_remembered_in_its_order_with_what_was_refused(workflow: Workflow) -> None:
    second = give(workflow, "blue", place=2)
    first = give(workflow, "red", place=0)
    broken = workflow.submit([IncomingFile("notes.txt", lambda: b"words")], "anna")
    workflow.arrivals.note("anna", Ticket(BATCH, 1, 4), broken)
    batch = workflow.arrivals.newest("anna")
    assert [(one.ticket.place, one.image_id, one.name) for one in batch] == [
        (0, first, ""),
        (1, None, "notes.txt"),
        (2, second, ""),
    ]
    assert "not a picture" in batch[1].problem
    assert workflow.arrivals.newest("ben") == []
    give(workflow, "white", batch="c" * 32)
    assert len(workflow.arrivals.newest("anna")) == 1  # the last batch only


def test_what_is_older_than_a_day_is_forgotten(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(workflow, "red")

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(datetime.now(UTC).timestamp() + 25 * 3600, tz)

    monkeypatch.setattr(arrivals_module, "datetime", Tomorrow)
    assert workflow.arrivals.newest("anna") == []
    give(workflow, "blue", batch="c" * 32)
    with workflow.records.read() as session:
        rows = session.scalars(arrivals_module.select(arrivals_module.ArrivalRow.batch))
        assert list(rows) == ["c" * 32]


def test_a_picture_let_go_leaves_no_trace_in_its_batch(workflow: Workflow) -> None:
    image_id = give(workflow, "red")
    workflow.let_go(image_id, "anna")
    (left,) = workflow.arrivals.newest("anna")
    assert (left.image_id, left.name, left.problem) == (None, "", "")


def test_cancelling_drops_what_has_not_been_begun(workflow: Workflow, held: HeldCaptioner) -> None:
    first, *others = give_all(workflow, held)
    assert workflow.cancel("anna", BATCH) == others
    assert {one.ticket.total for one in workflow.arrivals.newest("anna")} == {0}
    assert [one.image_id for one in workflow.pictures("anna").items] == [first]
    assert workflow.jobs.job_records.of(others) == {}
    assert not any(one in workflow.store for one in others)
    held.go.set()
    until(lambda: workflow.picture(first, "anna").status == "done")
    until(lambda: workflow.queue.depth == 0)
    assert [count for count, _ in held.calls] == [1]  # the others never reached the model


def test_the_batch_of_somebody_else_is_not_cancelled(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    give_all(workflow, held)
    assert workflow.cancel("ben", BATCH) == []
    assert workflow.cancel("anna", "c" * 32) == []
    assert workflow.pictures("anna").total == 4


def test_what_another_browser_waits_for_as_well_is_described(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    _, second, third, _ = give_all(workflow, held)
    give(workflow, COLOURS[1], contributor="ben")
    workflow.cancel("anna", BATCH)
    held.go.set()
    until(lambda: workflow.picture(second, "ben").status == "done")
    assert second in workflow.store and third not in workflow.store


def test_a_picture_that_was_there_before_stays_and_says_that_it_was_cancelled(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    held.go.set()
    image_id = give(workflow, "red")
    until(lambda: workflow.picture(image_id, "anna").status == "done")
    held.go.clear()
    held.begun.clear()
    give(workflow, "blue", place=1)
    assert held.begun.wait(10)
    give(workflow, "red", place=2, prompt="a drawing of")
    assert workflow.cancel("anna", BATCH) == [image_id]
    view = workflow.picture(image_id, "anna")
    assert (view.status, view.problem) == ("failed", CANCELLED)

    workflow.again(image_id, "anna")  # before the queue has come to the one that was dropped
    held.go.set()
    until(lambda: workflow.picture(image_id, "anna").status == "done")
    caption = workflow.picture(image_id, "anna").caption
    assert caption and caption.text == "a drawing of a red ball"


def test_everything_a_browser_waits_for_can_be_cancelled_without_a_batch(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    _, *others = give_all(workflow, held)
    assert workflow.cancel("anna") == others
    assert {workflow.picture(one, "anna").problem for one in others} == {CANCELLED}


def test_a_cancelled_picture_can_be_given_again_at_once(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    _, second, *_ = give_all(workflow, held)
    workflow.cancel("anna", BATCH)
    assert give(workflow, COLOURS[1], place=4) == second
    held.go.set()
    until(lambda: workflow.picture(second, "anna").status == "done")
    until(lambda: workflow.queue.depth == 0)
    assert sum(count for count, _ in held.calls) == 2


def test_what_was_deleted_can_be_taken_back_after_its_batch_was_cancelled(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    _, second, third, fourth = give_all(workflow, held)
    workflow.letting_go.release([second], "anna")
    assert workflow.cancel("anna", BATCH) == [third, fourth]
    (release,) = workflow.letting_go.releases("anna")
    assert workflow.letting_go.take_back("anna", release.moment) == [second]
    held.go.set()
    until(lambda: workflow.picture(second, "anna").status == "done")


def test_who_deleted_a_picture_does_not_wait_for_it(
    workflow: Workflow, held: HeldCaptioner
) -> None:
    _, second, *_ = give_all(workflow, held)
    give(workflow, COLOURS[1], contributor="ben")
    workflow.letting_go.release([second], "ben")
    workflow.cancel("anna", BATCH)
    assert workflow.jobs.job_records.of([second]) == {}
