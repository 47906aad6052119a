from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from captionapp.errors import InvalidFeedback, NotFound
from captionapp.workflow import Workflow
from tests.people import send


def test_an_answer_is_a_row_made_of_the_server_s_own_record(workflow: Workflow) -> None:
    image_id = send(workflow)
    caption = workflow.picture(image_id, "anna").caption
    assert caption
    before = datetime.now(UTC) - timedelta(seconds=1)
    row = workflow.answers.give(
        image_id, "anna", caption.id, "corrected", "  a rubber ball\r\n", ["too-long", "inaccurate"]
    )
    (kept,) = workflow.feedback.rows()
    assert kept == row
    assert (row.caption, row.feedback, row.model_version) == (
        "a red ball",
        "a rubber ball",
        "fake-1",
    )
    assert [str(reason) for reason in row.reasons] == ["inaccurate", "too-long"]
    assert row.created_at.endswith("Z")
    assert datetime.fromisoformat(row.created_at) > before
    assert workflow.picture(image_id, "anna").answer == row


@pytest.mark.parametrize(
    ("verdict", "correction", "reasons"),
    [
        ("corrected", "   ", []),
        ("corrected", "a red ball", []),  # no different from the caption
        ("corrected", "x" * 1001, []),
        ("liked", "", []),
        ("accepted", "", ["boring"]),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_written(
    workflow: Workflow, verdict: str, correction: str, reasons: list[str]
) -> None:
    image_id = send(workflow)
    caption = workflow.picture(image_id, "anna").caption
    assert caption
    with pytest.raises(InvalidFeedback):
        workflow.answers.give(image_id, "anna", caption.id, verdict, correction, reasons)
    assert workflow.feedback.rows() == []


def test_a_caption_of_another_picture_cannot_be_answered(workflow: Workflow) -> None:
    first, second = send(workflow, "red"), send(workflow, "blue")
    caption = workflow.picture(first, "anna").caption
    assert caption
    with pytest.raises(NotFound):
        workflow.answers.give(second, "anna", caption.id, "accepted", "", [])


def test_an_answer_to_a_picture_let_go_meanwhile_is_not_kept(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise there would be a row whose picture is gone."""
    image_id = send(workflow)
    caption = workflow.picture(image_id, "anna").caption
    assert caption

    def let_go_first(*_: str) -> Any:
        workflow.let_go(image_id, "anna")
        return caption

    monkeypatch.setattr(workflow.captions, "get", let_go_first)
    with pytest.raises(NotFound):
        workflow.answers.give(image_id, "anna", caption.id, "accepted", "", [])
    assert workflow.feedback.rows() == []
