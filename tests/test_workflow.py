from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from captionapp.captioning.captioner import Caption
from captionapp.errors import InvalidOptions, ModelUnavailable, NotFound, QueueFull, StorageFull
from captionapp.job_records import JobRecords
from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded
from tests.people import answer, incoming, send
from tests.waiting import until


def hold(captioner: FakeCaptioner) -> threading.Event:
    """It describes nothing before the event is set, or ten seconds have passed."""
    go, caption = threading.Event(), captioner.caption

    def later(*given: Any) -> list[Caption]:
        go.wait(10)
        return caption(*given)

    captioner.caption = later  # type: ignore[method-assign]
    return go


def test_a_picture_is_stored_described_and_remembered(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    image_id = send(workflow)
    view = workflow.picture(image_id, "anna")
    assert (view.status, view.name, view.width, view.height) == ("done", "ball.png", 64, 48)
    assert view.caption
    assert (view.caption.text, view.caption.model_version) == ("a red ball", "fake-1")
    assert workflow.picture(image_id, "anna").caption == view.caption
    assert len(captioner.calls) == 1  # opening the page again does not ask the model


def test_the_same_picture_in_another_file_is_the_same_and_not_described_again(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    first = send(workflow)
    bmp = IncomingFile("other.bmp", lambda: encoded(draw("red"), "BMP"))
    assert workflow.submit([bmp, bmp], "ben").accepted == [first]
    assert workflow.picture(first, "ben").status == "done"
    assert len(captioner.calls) == 1


def test_broken_files_are_named_and_the_good_ones_described(workflow: Workflow) -> None:
    broken = IncomingFile("notes.txt", lambda: b"no picture at all")
    submission = workflow.submit([incoming(), broken, incoming("blue", "b.png")], "anna")
    assert len(submission.accepted) == 2
    assert [one.name for one in submission.rejected] == ["notes.txt"]
    for image_id in submission.accepted:
        workflow.wait(image_id, "anna", 10)
        assert workflow.picture(image_id, "anna").status == "done"


def test_a_broken_file_never_touches_the_model(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    submission = workflow.submit([IncomingFile("x.jpg", lambda: b"\xff\xd8\xff broken")], "anna")
    assert submission.accepted == []
    assert submission.rejected[0].reason
    assert captioner.calls == []


def test_places_of_files_that_need_no_caption_are_given_back_at_once(workflow: Workflow) -> None:
    send(workflow, "red")
    places: list[int] = []

    def last() -> bytes:
        places.append(workflow.queue._taken)
        return encoded(draw("blue"))

    broken = IncomingFile("notes.txt", lambda: b"no picture at all")
    until(lambda: workflow.queue._taken == 0)
    workflow.submit([broken, incoming("red"), IncomingFile("b.png", last)], "anna")
    assert places == [1]


def test_a_prompt_begins_the_caption_and_another_prompt_is_another_caption(
    workflow: Workflow,
) -> None:
    image_id = send(workflow, prompt="a drawing of")
    caption = workflow.picture(image_id, "anna").caption
    assert caption and caption.text == "a drawing of a red ball"
    send(workflow)
    caption = workflow.picture(image_id, "anna").caption
    assert caption and caption.text == "a red ball"


def test_a_prompt_out_of_bounds_is_refused(workflow: Workflow) -> None:
    with pytest.raises(InvalidOptions, match="200"):
        workflow.submit([incoming()], "anna", "x" * 201)


def test_without_a_model_nothing_is_stored(workflow: Workflow) -> None:
    def fail(_: Any) -> Any:
        raise ModelUnavailable("no weights")

    workflow.service._load = fail  # type: ignore[assignment]
    with pytest.raises(ModelUnavailable):
        workflow.submit([incoming()], "anna")
    assert workflow.pictures("anna").total == 0
    assert workflow.store.size_bytes() == 0


def test_a_full_queue_stores_nothing(make_app: Callable[..., Any]) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_QUEUE_SIZE=2, CAPTIONAPP_MAX_FILES=2).extensions[
        "captionapp"
    ]
    with pytest.raises(QueueFull):
        workflow.submit([incoming("red"), incoming("blue"), incoming("white")], "anna")
    assert workflow.pictures("anna").total == 0
    assert workflow.store.size_bytes() == 0
    assert len(workflow.submit([incoming("red"), incoming("blue")], "anna").accepted) == 2


def test_no_room_for_any_picture(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(workflow.store, "add", full)
    with pytest.raises(StorageFull):
        workflow.submit([incoming()], "anna")
    assert workflow.pictures("anna").total == 0


def test_waiting_for_another_process_ends_when_it_is_done(workflow: Workflow) -> None:
    other = JobRecords(workflow.records)
    image_id = send(workflow)
    key = workflow.settings.decode_options().key()
    assert other.begin(image_id, key, 60)
    done = threading.Event()

    def wait() -> None:
        workflow.wait(image_id, "anna", 20)
        done.set()

    threading.Thread(target=wait).start()
    assert not done.wait(0.3)
    other.fail(image_id, key, "no luck")
    assert done.wait(5)
    assert workflow.picture(image_id, "anna").problem == "no luck"


def test_nobody_sees_the_pictures_of_others(workflow: Workflow) -> None:
    image_id = send(workflow)
    for call in (
        lambda: workflow.picture(image_id, "ben"),
        lambda: workflow.serve_file(image_id, "ben"),
        lambda: workflow.serve_thumbnail(image_id, "ben"),
        lambda: workflow.again(image_id, "ben"),
        lambda: workflow.let_go(image_id, "ben"),
        lambda: workflow.wait(image_id, "ben", 0),
        lambda: answer(workflow, image_id, "ben"),
    ):
        with pytest.raises(NotFound):
            call()
    assert workflow.picture(image_id, None).status == "done"  # the operator does


def test_the_last_to_let_go_takes_the_bytes_along(workflow: Workflow) -> None:
    image_id = send(workflow, contributor="anna")
    send(workflow, contributor="ben")
    workflow.let_go(image_id, "anna")
    assert image_id in workflow.store
    assert workflow.picture(image_id, "ben").status == "done"
    workflow.let_go(image_id, "ben")
    assert image_id not in workflow.store
    with pytest.raises(NotFound):
        workflow.picture(image_id, None)


def test_bytes_stay_while_an_answer_needs_them(workflow: Workflow) -> None:
    image_id = send(workflow)
    answer(workflow, image_id, "anna", "a rubber ball")
    workflow.let_go(image_id, "anna")
    assert image_id in workflow.store
    with pytest.raises(NotFound):
        workflow.picture(image_id, "anna")


def test_a_caption_for_a_picture_deleted_meanwhile_is_dropped(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    go = hold(captioner)
    (image_id,) = workflow.submit([incoming()], "anna").accepted
    workflow.let_go(image_id, "anna")
    go.set()
    image_id_2 = send(workflow, "blue")
    assert workflow.picture(image_id_2, "anna").status == "done"
    assert workflow.pictures("anna").total == 1


def test_pages_of_the_history(workflow: Workflow) -> None:
    ids = [send(workflow, colour) for colour in ("red", "green", "blue")]
    page = workflow.pictures("anna", per_page=2)
    assert [one.image_id for one in page.items] == ids[:0:-1]
    assert (page.first, page.total) == (1, 3)
    (last,) = workflow.pictures("anna", after=page.older, per_page=2).items
    assert last.image_id == ids[0]
    assert workflow.pictures("nobody").items == []


def test_pictures_past_their_time_are_let_go(make_app: Callable[..., Any]) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_RETENTION_DAYS=7).extensions["captionapp"]
    old, corrected = send(workflow, "red"), send(workflow, "green")
    answer(workflow, corrected, "anna", "a leaf")
    long_ago = datetime.now(UTC) - timedelta(days=8)
    for image_id in (old, corrected):
        held = dataclasses.replace(workflow.records.held(image_id, "anna"), created_at=long_ago)
        with workflow.records.write() as session:
            workflow.records.hold(session, held, "anna")
    workflow._next_sweep = time.monotonic()
    new = send(workflow, "blue")
    assert [one.image_id for one in workflow.pictures("anna").items] == [new]
    assert old not in workflow.store
    assert corrected in workflow.store


def test_a_name_is_only_ever_a_name(workflow: Workflow) -> None:
    file = IncomingFile("../../etc/\x00pass\u202ewd.png", lambda: encoded(draw()))
    (image_id,) = workflow.submit([file], "anna").accepted
    assert workflow.picture(image_id, "anna").name == "passwd.png"
    assert ".." not in str(workflow.serve_file(image_id, "anna").relative_to(workflow.store.folder))


def test_threads_that_wait_leave_others_free(
    make_app: Callable[..., Any], captioner: FakeCaptioner
) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_THREADS=2).extensions["captionapp"]
    send(workflow, "white")
    go = hold(captioner)
    (image_id,) = workflow.submit([incoming()], "anna").accepted
    first = threading.Thread(target=workflow.wait, args=(image_id, "anna", 10))
    first.start()
    until(lambda: not workflow.jobs._waiters._value)  # type: ignore[attr-defined]
    started = time.monotonic()
    workflow.wait(image_id, "anna", 10)  # there is no thread left for this
    assert time.monotonic() - started < 5
    assert workflow.picture(image_id, "anna").status == "waiting"
    go.set()
    first.join(10)
    assert workflow.picture(image_id, "anna").status == "done"


def test_while_the_model_loads_an_upload_does_not_wait_for_ever(
    make_app: Callable[..., Any], captioner: FakeCaptioner
) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_WAIT_SECONDS=0).extensions["captionapp"]
    go = threading.Event()
    workflow.service._load = lambda _: go.wait(10) and captioner  # type: ignore[assignment]
    workflow.service.start_loading()
    until(lambda: workflow.service.state == "loading")
    with pytest.raises(ModelUnavailable, match="being loaded"):
        workflow.submit([incoming()], "anna")
    assert workflow.pictures("anna").total == 0
    go.set()
    until(workflow.service.ready)
    assert workflow.submit([incoming()], "anna").accepted


def test_a_remembered_correction_is_shown_without_waiting_for_the_model(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    image_id = send(workflow)
    answer(workflow, image_id, "anna", "a rubber ball")
    go = hold(captioner)
    workflow.submit([incoming()], "ben", "a drawing of")
    started = time.monotonic()
    workflow.wait(image_id, "ben", 10)
    assert time.monotonic() - started < 5
    assert workflow.picture(image_id, "ben").correction
    go.set()


def test_a_caption_that_cannot_be_recorded_is_a_problem_of_its_picture(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(*_: Any) -> None:
        raise RuntimeError("database is locked")

    monkeypatch.setattr(workflow.captions, "add_all", locked)
    image_id = send(workflow)
    assert workflow.picture(image_id, "anna").status == "failed"
    assert "could not be recorded" in caplog.text
    monkeypatch.undo()
    workflow.again(image_id, "anna")
    workflow.wait(image_id, "anna", 10)
    assert workflow.picture(image_id, "anna").status == "done"


def test_a_database_that_fails_once_does_not_block_a_picture_for_ever(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> bool:
        raise RuntimeError("database is locked")

    monkeypatch.setattr(workflow.jobs.job_records, "begin_in", locked)
    with pytest.raises(RuntimeError):
        workflow.submit([incoming()], "anna")
    assert workflow.pictures("anna").total == 0  # taken in whole, or not at all
    assert workflow.store.size_bytes() == 0
    monkeypatch.undo()
    assert workflow.picture(send(workflow), "anna").status == "done"


def test_a_file_that_others_have_a_row_of_stays_when_the_database_fails(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = send(workflow, contributor="ben")

    def locked(*_: Any) -> bool:
        raise RuntimeError("database is locked")

    monkeypatch.setattr(workflow.records, "hold", locked)
    with pytest.raises(RuntimeError):
        workflow.submit([incoming()], "anna")
    assert image_id in workflow.store


def test_of_a_database_that_goes_on_failing_the_first_error_is_told(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter([RuntimeError("database is locked"), RuntimeError("and still is")])

    def locked(*_: Any) -> bool:
        raise next(errors)

    for name in ("hold", "is_there"):
        monkeypatch.setattr(workflow.records, name, locked)
    with pytest.raises(RuntimeError, match="is locked"):
        workflow.submit([incoming()], "anna")
    assert "without a row" in caplog.text
