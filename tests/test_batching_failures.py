"""What fails, is given up, or comes too late: alone, without taking others along."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
from PIL import Image

from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.queued import JobName
from captionapp.errors import CaptionFailed, Dropped, ModelUnavailable, QueueFull
from tests.conftest import FakeCaptioner, draw
from tests.queueing import PLAIN, FussyCaptioner, Service, submit


def test_a_picture_at_hand_that_cannot_be_prepared_fails_in_its_turn(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()

    def prepare(image: Image.Image) -> Image.Image:
        raise CaptionFailed("too odd")

    captioner.prepare = prepare  # type: ignore[method-assign]
    queue = make_queue(Service(captioner))
    with queue.reserve(1) as places:
        odd = places.submit(draw, PLAIN, picture=draw())
    with pytest.raises(CaptionFailed, match="too odd"):
        odd.result(10)
    assert queue.depth == 0


def test_what_nobody_wants_in_its_turn_is_dropped_alone(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    asked: list[list[str]] = []

    def take(names: Sequence[JobName]) -> set[JobName]:
        asked.append([image_id for image_id, _ in names])
        return {name for name in names if name[0] != "unwanted"}

    queue = make_queue(service, take=take)
    futures = [submit(queue)]  # goes to the gate at once, alone, and has no name
    while queue.depth:
        threading.Event().wait(0.01)
    with queue.reserve(3) as reservation:
        for image_id in ("unwanted", "one", "two"):
            futures.append(reservation.submit(draw, PLAIN, name=(image_id, "")))
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    service.gate.set()
    first, unwanted, one, two = futures
    assert [future.result(10).text for future in (first, one, two)] == ["a red ball"] * 3
    with pytest.raises(Dropped):
        unwanted.result(10)
    assert asked == [["unwanted", "one", "two"]]  # together
    assert [size for size, _ in captioner.calls] == [1, 2]


def test_of_two_with_one_name_the_newest_is_captioned(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    queue = make_queue(service, take=set)
    submit(queue)  # goes to the gate at once, alone, and has no name
    while queue.depth:
        threading.Event().wait(0.01)
    with queue.reserve(2) as reservation:
        older = reservation.submit(draw, PLAIN, name=("p1", ""))
        newer = reservation.submit(draw, PLAIN, name=("p1", ""))
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    service.gate.set()
    assert newer.result(10).text == "a red ball"
    with pytest.raises(Dropped):
        older.result(10)
    assert [size for size, _ in captioner.calls] == [1, 1]


def test_what_is_dropped_gives_its_place_back_at_once(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    queue = make_queue(service, size=2)
    begun = submit(queue)
    while queue.depth:
        threading.Event().wait(0.01)
    waiting = submit(queue)
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    queue.drop(waiting)
    with pytest.raises(Dropped):
        waiting.result(0)
    queue.drop(begun)  # too late
    another = submit(queue)
    with pytest.raises(QueueFull):
        queue.reserve(1)
    service.gate.set()
    assert begun.result(10).text == another.result(10).text == "a red ball"
    assert [size for size, _ in captioner.calls] == [1, 1]


def test_a_batch_that_cannot_be_asked_about_fails_and_the_queue_goes_on(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    def take(names: Sequence[JobName]) -> set[JobName]:
        raise OSError("the disk is gone")

    queue = make_queue(Service(FakeCaptioner()), take=take)
    with queue.reserve(1) as reservation:
        failed = reservation.submit(draw, PLAIN, name=("p1", ""))
    with pytest.raises(OSError, match="the disk is gone"):
        failed.result(10)
    assert submit(queue).result(10).text == "a red ball"


def test_a_call_that_fails_fails_alone(make_queue: Callable[..., CaptionQueue]) -> None:
    queue = make_queue(Service(FakeCaptioner()), size=1)

    def fail(captioner: Any, image: Any) -> None:
        raise CaptionFailed("not these words")

    with queue.reserve(1) as reservation:
        failed = reservation.call(draw, fail)
    with pytest.raises(CaptionFailed, match="not these words"):
        failed.result(10)
    assert submit(queue).result(10).text == "a red ball"


def test_one_bad_picture_fails_alone(make_queue: Callable[..., CaptionQueue]) -> None:
    service = Service(FussyCaptioner())
    service.gate.clear()
    queue = make_queue(service)
    submit(queue)
    good, bad = submit(queue), submit(queue, width=1)
    service.gate.set()
    assert good.result(10).text == "a red ball"
    with pytest.raises(CaptionFailed):
        bad.result(10)


def test_a_picture_that_cannot_be_read_fails_alone(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    queue = make_queue(Service(captioner))

    def unreadable() -> Image.Image:
        raise FileNotFoundError("gone")

    with queue.reserve(2) as reservation:
        bad = reservation.submit(unreadable, PLAIN)
        good = reservation.submit(draw, PLAIN)
    assert good.result(10).text == "a red ball"
    with pytest.raises(FileNotFoundError):
        bad.result(10)
    assert [number for number, _ in captioner.calls] == [1]


def test_a_model_that_is_not_there_is_an_error_of_each_future_and_the_queue_goes_on(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    service = Service(ModelUnavailable("no weights"))
    queue = make_queue(service)
    with pytest.raises(ModelUnavailable, match="no weights"):
        submit(queue).result(10)
    service.held = FakeCaptioner()
    assert submit(queue).result(10).text == "a red ball"


def test_a_cancelled_request_is_not_captioned(make_queue: Callable[..., CaptionQueue]) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    queue = make_queue(service, batch_size=1)
    submit(queue)
    while queue.depth:
        threading.Event().wait(0.01)
    given_up, last = submit(queue), submit(queue)
    assert given_up.cancel()
    service.gate.set()
    last.result(10)
    assert len(captioner.calls) == 2


def test_closing_makes_what_waits_and_takes_nothing_more(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    service = Service(FakeCaptioner())
    service.gate.clear()
    queue = make_queue(service, batch_size=1)
    futures = [submit(queue) for _ in range(3)]
    closing = threading.Thread(target=queue.close, args=(10,))
    closing.start()
    while not queue._closing:
        threading.Event().wait(0.01)
    with pytest.raises(QueueFull):
        queue.reserve(1)
    service.gate.set()
    closing.join(10)
    assert all(future.result(0).text == "a red ball" for future in futures)
    assert not any(thread.is_alive() for thread in queue._threads)


def test_what_is_not_made_in_time_is_cancelled(make_queue: Callable[..., CaptionQueue]) -> None:
    service = Service(FakeCaptioner())
    service.gate.clear()
    queue = make_queue(service, batch_size=1)
    submit(queue)
    while queue.depth:
        threading.Event().wait(0.01)
    waiting = submit(queue)
    assert not queue.close(0.05)
    with pytest.raises(CancelledError):
        waiting.result(1)
    service.gate.set()
    assert queue.close(10)
