from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import QueueFull
from tests.conftest import FakeCaptioner, draw
from tests.queueing import PLAIN, Service, Watcher, submit
from tests.waiting import until


def test_a_caption_comes_through(make_queue: Callable[..., CaptionQueue]) -> None:
    assert submit(make_queue(Service(FakeCaptioner()))).result(10).text == "a red ball"


def test_no_thread_before_the_first_request(make_queue: Callable[..., CaptionQueue]) -> None:
    queue = make_queue(Service(FakeCaptioner()))
    assert queue._threads == []
    submit(queue).result(10)
    assert len(queue._threads) == 2


def test_no_more_places_than_its_size_and_each_comes_back(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    service = Service(FakeCaptioner())
    service.gate.clear()
    queue = make_queue(service, size=2)
    first, second = submit(queue), submit(queue)
    with pytest.raises(QueueFull) as caught:
        queue.reserve(1)
    assert caught.value.retry_after > 0
    service.gate.set()
    assert [first.result(10).text, second.result(10).text] == ["a red ball"] * 2
    for _ in range(3):
        submit(queue).result(10)


def test_places_that_were_not_used_come_back(make_queue: Callable[..., CaptionQueue]) -> None:
    queue = make_queue(Service(FakeCaptioner()), size=2)
    with pytest.raises(RuntimeError), queue.reserve(2):
        raise RuntimeError
    with queue.reserve(2) as reservation:
        reservation.submit(draw, PLAIN).result(10)
    with queue.reserve(2):
        pass


def test_more_requests_than_places_is_a_mistake(make_queue: Callable[..., CaptionQueue]) -> None:
    with make_queue(Service(FakeCaptioner())).reserve(0) as reservation, pytest.raises(ValueError):
        reservation.submit(draw, PLAIN)


def test_what_waits_with_equal_options_is_one_batch(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    watcher = Watcher()
    queue = make_queue(service, size=20, batch_size=3, observer=watcher)
    prompted = DecodeOptions(prompt="a drawing of")
    futures = [submit(queue)]  # goes to the gate at once, alone
    while queue.depth:
        threading.Event().wait(0.01)
    futures += [submit(queue, options) for options in [PLAIN, prompted, PLAIN, PLAIN, PLAIN]]
    assert queue.depth == 5
    service.gate.set()
    texts = [future.result(10).text for future in futures]
    assert texts == ["a red ball"] * 2 + ["a drawing of a red ball"] + ["a red ball"] * 3
    assert captioner.calls == [(1, PLAIN), (3, PLAIN), (1, prompted), (1, PLAIN)]
    assert watcher.batches == [1, 3, 1, 1]
    assert max(watcher.depths) == 5
    assert watcher.depths[-1] == 0
    assert {watcher.steps.count(step) for step in ("prepare", "queue")} == {6}
    assert 3 <= watcher.steps.count("model") <= 4  # the last one is told after its answers


def test_pictures_are_prepared_while_the_model_is_busy(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    captioner.prepare = lambda image: image.resize((4, 4))  # type: ignore[method-assign]
    sizes: list[tuple[int, int]] = []
    service = Service(captioner)
    said = captioner.caption

    def caption(images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        sizes.extend(image.size for image in images)
        return said(images, options)

    captioner.caption = caption  # type: ignore[method-assign]
    service.gate.clear()
    queue = make_queue(service, batch_size=2)
    submit(queue)
    loaded = threading.Event()

    def load() -> Image.Image:
        loaded.set()
        return draw()

    with queue.reserve(1) as reservation:
        second = reservation.submit(load, PLAIN)
    assert loaded.wait(10)  # the gate is still closed
    service.gate.set()
    second.result(10)
    assert sizes == [(4, 4)] * 2


def test_a_picture_at_hand_is_prepared_by_its_sender_and_not_read(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    seen: list[tuple[int, str]] = []

    def prepare(image: Image.Image) -> Image.Image:
        seen.append((image.width, threading.current_thread().name))
        return image

    captioner.prepare = prepare  # type: ignore[method-assign]
    queue = make_queue(Service(captioner))
    with queue.reserve(2) as places:
        read = places.submit(lambda: draw(size=(8, 8)), PLAIN)
        at_hand = places.submit(lambda: pytest.fail("read"), PLAIN, picture=draw(size=(9, 9)))
        assert read.result(10).text == at_hand.result(10).text == "a red ball"
    assert sorted(seen) == [(8, "pictures"), (9, threading.current_thread().name)]


def test_after_a_promotion_the_new_version_captions_what_waits(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    """What was prepared for the old one is read again: the new one may see larger pictures."""
    service = Service(FakeCaptioner("old"))
    service.gate.clear()
    queue = make_queue(service)
    first = submit(queue)
    while queue.depth:  # until it is being captioned
        threading.Event().wait(0.01)
    read: list[int] = []

    def load() -> Image.Image:
        read.append(1)
        return draw()

    with queue.reserve(1) as places:
        second = places.submit(load, PLAIN, picture=draw())
    assert not read
    service.held = FakeCaptioner("new")
    third = submit(queue)
    service.gate.set()
    versions = [one.result(10).model_version for one in (first, second, third)]
    assert versions == ["old", "new", "new"] and read == [1]


class MarkingCaptioner(FakeCaptioner):
    """Marks what it prepares, and keeps the marks of what it is given."""

    def __init__(self, model_version: str) -> None:
        super().__init__(model_version)
        self.marks: list[list[str]] = []

    def prepare(self, image: Image.Image) -> Image.Image:
        marked = image.copy()
        marked.info["for"] = self.model_version
        return marked

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        self.marks.append([image.info["for"] for image in images])
        return super().caption(images, options)


def test_a_promotion_while_a_batch_begins_is_for_the_whole_batch_or_the_next_one(
    make_queue: Callable[..., CaptionQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = MarkingCaptioner("old"), MarkingCaptioner("new")
    service = Service(old)
    service.gate.clear()
    watcher = Watcher()
    queue = make_queue(service, observer=watcher)
    submit(queue)  # goes to the gate at once, alone
    until(lambda: watcher.batches)
    pair = [submit(queue), submit(queue)]
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    served = iter([old])  # once more, and then the new one
    monkeypatch.setattr(service, "captioner", lambda: next(served, new))
    service.gate.set()
    assert [one.result(10).model_version for one in pair] == ["old", "old"]
    assert submit(queue).result(10).model_version == "new"
    assert old.marks == [["old"], ["old", "old"]] and new.marks == [["new"]]


def test_a_picture_that_is_gone_after_a_promotion_fails_alone(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    service = Service(FakeCaptioner("old"))
    service.gate.clear()
    queue = make_queue(service)
    submit(queue)  # goes to the gate at once, alone
    while queue.depth:
        threading.Event().wait(0.01)

    def gone() -> Image.Image:
        raise FileNotFoundError("deleted meanwhile")

    with queue.reserve(2) as places:
        lost = places.submit(gone, PLAIN, picture=draw())
        kept = places.submit(draw, PLAIN, picture=draw())
    service.held = FakeCaptioner("new")
    service.gate.set()
    assert kept.result(10).model_version == "new"
    with pytest.raises(FileNotFoundError, match="meanwhile"):
        lost.result(10)


def test_a_queue_with_nothing_to_do_does_not_hold_the_model(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    service = Service(FakeCaptioner("old"))
    queue = make_queue(service)
    assert submit(queue).result(10)
    alive = weakref.ref(service.held)
    service.held = FakeCaptioner("new")
    until(lambda: gc.collect() is not None and alive() is None)


def test_what_waits_does_not_hold_the_picture_that_was_sent(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    captioner.prepare = lambda image: image.resize((4, 4))  # type: ignore[method-assign]
    service = Service(captioner)
    service.gate.clear()
    queue = make_queue(service)
    sent = draw()
    alive = weakref.ref(sent)
    with queue.reserve(1) as places:
        made = places.submit(draw, PLAIN, picture=sent)
    del sent
    assert alive() is None
    service.gate.set()
    made.result(10)


def test_a_refusal_says_how_long_the_queue_is(make_queue: Callable[..., CaptionQueue]) -> None:
    service = Service(FakeCaptioner())
    queue = make_queue(service, size=2)
    queue._last_batch, queue._last_seconds = 2, 40.0
    with queue.reserve(2), pytest.raises(QueueFull) as caught:
        queue.reserve(1)
    assert caught.value.retry_after == 40


def test_a_call_waits_its_turn_and_is_made_alone(
    make_queue: Callable[..., CaptionQueue],
) -> None:
    captioner = FakeCaptioner()
    service = Service(captioner)
    service.gate.clear()
    queue = make_queue(service, size=5)
    submit(queue)  # goes to the gate at once, alone
    while queue.depth:
        threading.Event().wait(0.01)
    order: list[str] = []
    before, after = submit(queue), None
    with queue.reserve(2) as reservation:
        calls = [
            reservation.call(lambda: draw(size=(5, 6)), lambda by, image: (by, image.size))
            for _ in range(2)
        ]
    after = submit(queue)
    while queue._waiting or queue._preparing:
        threading.Event().wait(0.01)
    for name, future in (("before", before), ("first", calls[0]), ("second", calls[1])):
        future.add_done_callback(lambda _, name=name: order.append(name))
    service.gate.set()
    assert after.result(10).text == "a red ball"
    assert [call.result(10) for call in calls] == [(captioner, (5, 6))] * 2
    assert order == ["before", "first", "second"]
    assert captioner.calls == [(1, PLAIN), (2, PLAIN)]  # captions are gathered around the calls
