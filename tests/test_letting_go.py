from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from captionapp import letting_go as module
from captionapp.errors import NotFound
from captionapp.workflow import Workflow
from tests.test_workflow import answer, send
from tests.waiting import until


def later(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=minutes)

    monkeypatch.setattr(module, "datetime", Clock)


def test_what_was_let_go_is_out_of_sight_and_comes_back(workflow: Workflow) -> None:
    first, second, third = (send(workflow, colour) for colour in ("red", "green", "blue"))
    send(workflow, "red", "ben")
    assert workflow.letting_go.release([first, second, "0" * 32], "anna") == 2
    assert workflow.letting_go.release([first], "anna") == 0
    assert [one.image_id for one in workflow.pictures("anna").items] == [third]
    for look in (workflow.picture, workflow.serve_file, workflow.serve_thumbnail):
        with pytest.raises(NotFound):
            look(first, "anna")
    assert workflow.picture(first, "ben").status == "done"
    (release,) = workflow.letting_go.releases("anna")
    assert release.pictures == 2
    minutes = (release.until - datetime.now(UTC)).total_seconds() / 60
    assert 9 < minutes <= 10
    assert workflow.letting_go.releases("ben") == []
    assert workflow.letting_go.take_back("ben", release.moment) == []
    assert workflow.letting_go.take_back("anna", "nonsense") == []
    assert set(workflow.letting_go.take_back("anna", release.moment)) == {first, second}
    assert workflow.pictures("anna").total == 3
    assert workflow.letting_go.releases("anna") == []


def test_nothing_goes_before_its_time(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    image_id = send(workflow)
    workflow.letting_go.release([image_id], "anna")
    later(monkeypatch, 9.9)
    workflow.letting_go.purge()
    assert image_id in workflow.store
    later(monkeypatch, 10.1)
    assert workflow.letting_go.releases("anna") == []
    workflow.letting_go.purge()
    assert image_id not in workflow.store
    with pytest.raises(NotFound):
        workflow.picture(image_id, None)


def test_too_late_to_take_back(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow.letting_go.release([send(workflow)], "anna")
    (release,) = workflow.letting_go.releases("anna")
    later(monkeypatch, 10.1)
    assert workflow.letting_go.take_back("anna", release.moment) == []


def test_bytes_stay_for_other_browsers_and_for_answers(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, corrected, plain = (send(workflow, colour) for colour in ("red", "green", "blue"))
    send(workflow, "red", "ben")
    answer(workflow, corrected, "anna", "a leaf")
    workflow.letting_go.release([shared, corrected, plain], "anna")
    workflow.letting_go.release([shared], "ben")
    (release,) = workflow.letting_go.releases("ben")
    assert workflow.letting_go.take_back("ben", release.moment) == [shared]
    later(monkeypatch, 11)
    workflow.letting_go.purge()
    assert [one in workflow.store for one in (shared, corrected, plain)] == [True, True, False]
    monkeypatch.undo()
    assert workflow.pictures("anna").total == 0
    assert workflow.picture(shared, "ben").status == "done"


def test_sending_a_picture_again_takes_it_back(workflow: Workflow) -> None:
    image_id = send(workflow)
    workflow.letting_go.release([image_id], "anna")
    assert send(workflow) == image_id
    assert workflow.pictures("anna").total == 1
    assert workflow.letting_go.releases("anna") == []


def test_an_answer_to_what_was_let_go_is_not_kept(workflow: Workflow) -> None:
    image_id = send(workflow)
    caption = workflow.picture(image_id, "anna").caption
    assert caption
    workflow.letting_go.release([image_id], "anna")
    with pytest.raises(NotFound):
        workflow.answers.give(image_id, "anna", caption.id, "accepted", "", [])


def test_it_goes_by_itself_also_after_a_restart(
    make_app: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: Workflow = make_app().extensions["captionapp"]
    image_id = send(before)
    before.letting_go.release([image_id], "anna")
    before.letting_go.close()
    later(monkeypatch, 11)
    after: Workflow = make_app().extensions["captionapp"]
    after.letting_go.sweep()
    until(lambda: image_id not in after.store)
