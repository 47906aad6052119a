from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from captionapp.job_records import JobRecords
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, serve
from tests.people import answer, incoming, send


def test_a_failed_caption_is_a_problem_and_never_a_caption(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    captioner.replies = [RuntimeError("secret detail"), RuntimeError("secret detail"), "a red ball"]
    image_id = send(workflow)
    view = workflow.picture(image_id, "anna")
    assert (view.status, view.caption) == ("failed", None)
    assert view.problem and "secret" not in view.problem
    captioner.replies = ["a red ball"]
    workflow.again(image_id, "anna")
    workflow.wait(image_id, "anna", 10)
    view = workflow.picture(image_id, "anna")
    assert (view.status, view.problem) == ("done", "")


def test_a_new_version_describes_again_and_the_old_caption_stays(workflow: Workflow) -> None:
    image_id = send(workflow)
    serve(workflow, FakeCaptioner("fake-2", ["a crimson sphere"]))
    workflow.service.follow()
    assert workflow.picture(image_id, "anna").caption.model_version == "fake-1"  # type: ignore[union-attr]
    workflow.again(image_id, "anna")
    workflow.wait(image_id, "anna", 10)
    view = workflow.picture(image_id, "anna")
    assert view.caption and view.caption.text == "a crimson sphere"
    assert [one.model_version for one in view.previous] == ["fake-1"]


def test_what_a_dead_process_left_behind_is_taken_over(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process took the job and died: a look at the page has it done here."""
    other = JobRecords(workflow.records)
    monkeypatch.setattr(workflow.jobs.job_records, "begin_in", lambda *_: False)
    (image_id,) = workflow.submit([incoming()], "anna").accepted
    monkeypatch.undo()
    key = workflow.settings.decode_options().key()
    assert other.begin(image_id, key, lease_seconds=60)
    assert workflow.picture(image_id, "anna").status == "waiting"
    other.extend_leases([(image_id, key)], -1)
    assert workflow.picture(image_id, "anna").status == "waiting"  # and now it is ours
    workflow.wait(image_id, "anna", 10)
    assert workflow.picture(image_id, "anna").status == "done"


@pytest.mark.parametrize(("memory", "sees"), [("everyone", True), ("own", False), ("off", False)])
def test_correction_memory(make_app: Callable[..., Any], memory: str, sees: bool) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_CORRECTION_MEMORY=memory).extensions["captionapp"]
    image_id = send(workflow, contributor="anna")
    answer(workflow, image_id, "anna", "my juggling ball")
    send(workflow, contributor="ben")
    remembered = workflow.picture(image_id, "ben").correction
    assert (remembered is not None) == sees
    assert (workflow.picture(image_id, "anna").correction is None) == (memory == "off")
    if remembered:
        assert remembered.feedback == "my juggling ball"
        assert workflow.picture(image_id, "ben").answer is None
        answer(workflow, image_id, "anna")  # she thinks better of it
        assert workflow.picture(image_id, "ben").correction is None


def test_a_correction_survives_the_acceptance_of_somebody_else(workflow: Workflow) -> None:
    image_id = send(workflow, contributor="anna")
    answer(workflow, image_id, "anna", "a rubber ball")
    send(workflow, contributor="ben")
    answer(workflow, image_id, "ben")
    send(workflow, contributor="carl")
    remembered = workflow.picture(image_id, "carl").correction
    assert remembered and remembered.feedback == "a rubber ball"


def test_what_one_person_confirmed_is_confirmed_for_all_until_another_version_speaks(
    workflow: Workflow,
) -> None:
    image_id = send(workflow, contributor="anna")
    send(workflow, contributor="ben")
    assert not workflow.picture(image_id, "ben").confirmed
    answer(workflow, image_id, "anna")
    assert workflow.picture(image_id, "ben").confirmed
    assert workflow.picture(image_id, None).confirmed
    serve(workflow, FakeCaptioner("fake-2"))  # it says the same words
    workflow.service.follow()
    workflow.again(image_id, "ben")
    workflow.wait(image_id, "ben", 10)
    assert not workflow.picture(image_id, "ben").confirmed


def test_the_operator_sees_a_picture_that_is_kept_for_its_answer(workflow: Workflow) -> None:
    image_id = send(workflow)
    answer(workflow, image_id, "anna", "a rubber ball")
    workflow.let_go(image_id, "anna")
    view = workflow.picture(image_id, None)
    assert view.correction and view.correction.feedback == "a rubber ball"
    assert workflow.serve_file(image_id, None).exists()
