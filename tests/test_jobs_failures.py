"""Results that cannot be written, and jobs that cannot be queued."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from captionapp.tables import Job
from captionapp.workflow import Workflow
from tests.people import incoming, send
from tests.waiting import until


def fail(*_: Any) -> None:
    raise OSError("no room")


def lease_of(workflow: Workflow, image_id: str) -> float | None:
    with workflow.records.read() as session:
        return session.scalar(select(Job.lease_until).where(Job.image_id == image_id))


def send_lost(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> str:
    """Upload a picture of whose job nothing can be written any more; returns its id."""
    with monkeypatch.context() as patch:
        patch.setattr(workflow.captions, "add_all", fail)
        patch.setattr(workflow.jobs.job_records, "fail", fail)
        image_id = send(workflow)
    until(lambda: workflow.jobs._leases_extended)
    return image_id


def test_a_job_of_which_nothing_could_be_written_is_made_again_when_its_lease_is_over(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = send_lost(workflow, monkeypatch)
    lease = lease_of(workflow, image_id)
    assert lease is not None
    workflow.jobs._leases_extended = float("-inf")
    send(workflow, "blue")
    assert workflow.close(10)  # what there was to be written has been
    assert lease_of(workflow, image_id) == lease


def test_a_lost_job_is_taken_over_by_whoever_looks(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = send_lost(workflow, monkeypatch)
    with workflow.records.write() as session:
        session.execute(update(Job).values(lease_until=0))
    workflow.jobs._leases_extended = float("-inf")
    send(workflow, "blue")
    until(lambda: workflow.picture(image_id, "anna").status == "done")


def test_results_that_could_not_be_looked_at_are_problems_of_their_pictures(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workflow.jobs, "_keep", fail)
    image_id = send(workflow)
    assert workflow.picture(image_id, "anna").status == "failed"
    assert "could not be written" in caplog.text


def test_a_job_that_cannot_be_queued_fails_and_takes_no_place(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(CAPTIONAPP_QUEUE_SIZE=1, CAPTIONAPP_MAX_FILES=1)
    workflow: Workflow = app.extensions["captionapp"]
    workflow.service.captioner()
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name == "captions":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    with pytest.raises(RuntimeError, match="new thread"):
        workflow.submit([incoming()], "anna")
    monkeypatch.undo()
    (view,) = workflow.pictures("anna").items
    assert view.status == "failed"
    assert not workflow.jobs._under_way
    workflow.again(view.image_id, "anna")
    workflow.wait(view.image_id, "anna", 10)
    assert workflow.picture(view.image_id, "anna").status == "done"
