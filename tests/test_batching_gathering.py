"""What a batch that is not full waits for, and what not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image

from captionapp.captioning import batching
from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import Caption, DecodeOptions
from tests.conftest import FakeCaptioner, draw
from tests.queueing import PLAIN, Service, submit
from tests.waiting import until

PROMPTED = DecodeOptions(prompt="a drawing of")


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    """Takes half a minute for each batch, by its own clock."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(batching, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(batching, "TAKING_IN_SECONDS", 30.0)
    captioner = FakeCaptioner()
    said = captioner.caption

    def slowly(images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        clock[0] += 30
        return said(images, options)

    monkeypatch.setattr(captioner, "caption", slowly)
    return captioner


def have_made(queue: CaptionQueue, service: Any, names: Sequence[str]) -> None:
    """Have a picture captioned, and then those of these names together."""
    service.gate.clear()
    futures = [submit(queue)]  # goes to the gate at once, alone
    while queue.depth:
        threading.Event().wait(0.01)
    with queue.reserve(len(names)) as reservation:
        futures += [reservation.submit(draw, PLAIN, name=(name, "")) for name in names]
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    service.gate.set()
    for future in futures:
        future.exception(10)
    until(lambda: queue._taken == 0)


@pytest.fixture
def queue(captioner: FakeCaptioner, make_queue: Callable[..., CaptionQueue]) -> CaptionQueue:
    """It has just made two captions together."""
    service = Service(captioner)
    queue = make_queue(service, size=20, batch_size=3)
    have_made(queue, service, ["p1", "p2"])
    return queue


def test_after_a_batch_of_several_pictures_that_are_being_taken_in_are_waited_for(
    queue: CaptionQueue, captioner: FakeCaptioner
) -> None:
    with queue.reserve(3) as reservation:
        first = reservation.submit(draw, PLAIN)
        threading.Event().wait(0.05)
        assert not first.done()
        second = reservation.submit(draw, PLAIN)
    # The third place was given back: nothing is waited for any more.
    assert first.result(10) and second.result(10)
    assert [size for size, _ in captioner.calls] == [1, 2, 2]


def test_a_place_that_is_given_back_is_not_waited_for(queue: CaptionQueue) -> None:
    with queue.reserve(3) as reservation:
        first = reservation.submit(draw, PLAIN)
        reservation.give_back(2)
        assert first.result(10)
        with pytest.raises(ValueError, match="more places"):
            reservation.give_back(1)


def test_nothing_is_waited_for_much_longer_than_it_takes_to_take_a_picture_in(
    queue: CaptionQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue._last_seconds == 30
    monkeypatch.setattr(batching, "TAKING_IN_SECONDS", 0.05)
    with queue.reserve(2) as reservation:
        assert reservation.submit(draw, PLAIN).result(10)


def test_what_was_dropped_or_no_caption_is_not_of_the_last_batch(
    captioner: FakeCaptioner, make_queue: Callable[..., CaptionQueue]
) -> None:
    service = Service(captioner)
    queue = make_queue(
        service, take=lambda names: [name for name in names if name[0] != "unwanted"]
    )
    have_made(queue, service, ["p1", "p2"])
    with queue.reserve(1) as reservation:
        assert reservation.call(draw, lambda by, image: image.size).result(10)
    with queue.reserve(2) as reservation:
        first = reservation.submit(draw, PLAIN)
        threading.Event().wait(0.05)
        assert not first.done()  # as after the two captions
    assert first.result(10)
    until(lambda: queue._taken == 0)
    have_made(queue, service, ["p1", "unwanted"])
    with queue.reserve(2) as reservation:
        assert reservation.submit(draw, PLAIN).result(10)  # as after the one caption


@pytest.mark.parametrize("behind", ["captions", "call"])
def test_a_full_batch_does_not_wait_behind_one_that_could_become_larger(
    queue: CaptionQueue, captioner: FakeCaptioner, behind: str
) -> None:
    with queue.reserve(10) as reservation:
        futures = [reservation.submit(draw, PLAIN)]
        if behind == "call":
            futures.append(reservation.call(draw, lambda by, image: image.size))
        else:
            futures += [reservation.submit(draw, PROMPTED) for _ in range(3)]
        assert all(future.result(10) for future in futures)
    expected = [(1, PLAIN), (2, PLAIN), (1, PLAIN)]
    assert captioner.calls == (expected if behind == "call" else [*expected, (3, PROMPTED)])


def test_closing_waits_for_no_more_pictures(queue: CaptionQueue) -> None:
    with queue.reserve(2) as reservation:
        first = reservation.submit(draw, PLAIN)
        closing = threading.Thread(target=queue.close, args=(10,))
        closing.start()
        until(lambda: queue._closing, 10)
        assert first.result(10)
    closing.join(10)
    assert not closing.is_alive()
