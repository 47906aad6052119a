"""The bounded queue before the model: requests of many threads gathered into batches.

A picture that is at hand is made small by whoever sends it. Two threads: one reads the others and
makes them small, the other captions, so that the next batch is prepared while the model is busy
with this one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from PIL import Image

from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.captioning.queued import JobName, Observer, Request, drop, fail
from captionapp.captioning.service import ModelService
from captionapp.errors import ModelUnavailable, QueueFull
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

#: How long a batch that is not full waits for more pictures, if they have been coming together.
GATHER_SECONDS = 0.02
#: How long it waits at most for pictures that are being taken in, which takes a few hundredths of a
#: second each. A slow model's batch takes much longer, but what has not come by then may take long.
TAKING_IN_SECONDS = 0.6
#: After a refusal, before it is known how fast captions are made.
RETRY_SECONDS = 5.0

T = TypeVar("T")


class CaptionQueue:
    """At most ``size`` captions wait or are being made; a batch has the same options throughout.

    ``take`` is called with the names of a batch in its turn; those that it does not return are
    dropped, since nobody wants them any more.

    The threads are started by the first request, which is after any fork.
    """

    def __init__(
        self,
        service: ModelService,
        size: int,
        batch_size: int,
        observer: Observer | None = None,
        take: Callable[[Sequence[JobName]], Collection[JobName]] = lambda names: names,
    ) -> None:
        self._service = service
        self._size = size
        self._batch_size = batch_size
        self._observer = observer
        self._take = take
        self._waiting: deque[Request] = deque()
        self._preparing = 0
        self._prepared: deque[Request] = deque()
        #: Places that are reserved, waiting, or in the batch under way.
        self._taken = 0
        self._changed = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        #: How many captions were made together last, and in what time.
        self._last_batch = 0
        self._last_seconds = 0.0

    @property
    def depth(self) -> int:
        """Captions that wait for a batch."""
        return len(self._waiting) + self._preparing + len(self._prepared)

    def reserve(self, places: int) -> Reservation:
        """Places for so many requests; use it in a ``with``, which gives back what is left.

        Raises:
            QueueFull: at once, if there are not so many, or the process is stopping.
        """
        with self._changed:
            if self._closing:
                raise QueueFull(
                    Sentence("The server is being restarted. Try again in a moment."), 5
                )
            if self._taken + places > self._size:
                raise QueueFull(
                    Sentence(
                        "Too many pictures are waiting for their description."
                        " Try again in a moment."
                    ),
                    self._seconds_until_free(),
                )
            self._taken += places
        return Reservation(self, places)

    def _seconds_until_free(self) -> float:
        if not self._last_batch:
            return RETRY_SECONDS
        return max(1.0, self._last_seconds / self._last_batch * self._taken)

    def close(self, timeout: float) -> bool:
        """Take nothing more, and make what is waiting for at most ``timeout`` seconds.

        What is left then is cancelled. Returns whether nothing is being made any more.
        """
        end = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._changed:
            left = [*self._prepared, *self._waiting]
            self._prepared.clear()
            self._waiting.clear()
        self._give_back(len(left))
        for request in left:
            request.future.cancel()
        return not any(thread.is_alive() for thread in threads)

    def drop(self, future: Future[Any]) -> None:
        """Nobody waits for this any more: if it has not been begun, its place is free at once."""
        with self._changed:
            found = [one for one in (*self._waiting, *self._prepared) if one.future is future]
            for request in found:
                (self._waiting if request in self._waiting else self._prepared).remove(request)
            self._taken -= len(found)
            self._tell()
        for request in found:
            if request.future.set_running_or_notify_cancel():
                drop(request)

    def _submit(self, request: Request) -> Future[Any]:
        with self._changed:
            runs = (("pictures", self._prepare_all), ("captions", self._run))
            for name, run in runs[len(self._threads) :]:
                thread = threading.Thread(target=run, name=name, daemon=True)
                thread.start()  # if it cannot be, the next request tries again
                self._threads.append(thread)
            (self._prepared if request.is_prepared else self._waiting).append(request)
            self._tell()
        return request.future

    def _give_back(self, places: int) -> None:
        with self._changed:
            self._taken -= places
            # The threads that stop may be waiting for the last reservation.
            self._changed.notify_all()

    def _tell(self) -> None:
        """Something moved; called with the condition held."""
        if self._observer:
            self._observer.queue_depth(self.depth)
        self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._closing and self._taken == 0

    # The thread of the pictures

    def _prepare_all(self) -> None:
        while self._prepare_next():  # which keeps nothing: see ``_run``
            pass

    def _prepare_next(self) -> bool:
        """Prepare the oldest that waits; whether there was one, as in ``_run_batch``."""
        request = self._next_to_prepare()
        if request is None:
            return False
        self._prepare(request)
        with self._changed:
            self._preparing -= 1
            self._prepared.append(request)
            self._tell()
        return True

    def _next_to_prepare(self) -> Request | None:
        """The oldest that waits; None when all is done at closing."""
        with self._changed:
            while not self._waiting:
                if self._is_over():
                    return None
                self._changed.wait()
            self._preparing += 1
            return self._waiting.popleft()

    def _prepare(
        self,
        request: Request,
        picture: Image.Image | None = None,
        captioner: Captioner | None = None,
    ) -> None:
        """Have the picture as small as the model needs it; it is read unless it is at hand."""
        try:
            request.captioner = captioner or self._service.captioner()
            started = time.perf_counter()
            request.image = request.captioner.prepare(picture or request.load())
        except Exception as error:  # it fails alone, and in its turn
            request.error = error
            return
        if self._observer:
            self._observer.step("prepare", time.perf_counter() - started)

    # The thread of the captions

    def _run(self) -> None:
        while self._run_batch():  # which keeps nothing: a model that is no longer served can go
            pass

    def _run_batch(self) -> bool:
        """Make the next batch; whether there was one, which there is not when all is done at
        closing."""
        batch = self._next_batch()
        try:
            begun = self._begin(batch)
            if begun:
                captioner = self._service.captioner()  # of the whole batch, whatever is promoted
                ready = self._follow_promotion(captioner, begun)
                if ready:
                    self._make(captioner, ready)
        except Exception:  # the thread must outlive whatever a batch does
            logger.exception("a batch of captions failed")
            fail(batch, RuntimeError("the batch failed"))
        finally:
            self._give_back(len(batch))
        return bool(batch)

    def _begin(self, batch: list[Request]) -> list[Request]:
        """Those that can be captioned, now that their turn has come; of the others the futures say
        why. They are asked about together, in one transaction."""
        running = [one for one in batch if one.future.set_running_or_notify_cancel()]
        names = [one.name for one in running if one.name is not None]
        try:
            taken = set(self._take(names) if names else ())
        except Exception as error:
            fail(running, error)
            return []
        # One that was dropped may have been asked for anew since: the newest has the name.
        for one in sorted(running, key=lambda one: one.submitted, reverse=True):
            if one.name is not None and one.name not in taken:
                drop(one)
            elif one.error:
                one.future.set_exception(one.error)
            if one.name is not None:
                taken.discard(one.name)
        return [one for one in running if not one.future.done()]

    def _follow_promotion(self, captioner: Captioner, batch: list[Request]) -> list[Request]:
        """Prepare anew what was prepared for a version that is no longer served. Returns those that
        this captioner can caption; the others' futures say why."""
        for request in batch:
            if request.captioner is not captioner:
                self._prepare(request, captioner=captioner)
                if request.error:
                    request.future.set_exception(request.error)
        return [one for one in batch if not one.error]

    def _next_batch(self) -> list[Request]:
        """The oldest that is prepared and others that go with it; empty when all is done at
        closing. Others that may still come are waited for by ``_gather``."""
        with self._changed:
            while not self._prepared:
                if self._is_over():
                    return []
                self._changed.wait()
            if self._last_batch > 1 or self._waiting or self._preparing:
                self._gather()
            if not self._prepared:  # dropped, or cancelled at closing
                return self._next_batch()
            batch = self._going_together()
            self._prepared = deque(one for one in self._prepared if one not in batch)
            self._tell()
        return batch

    def _gather(self) -> None:
        """Wait for others that may still go with the next batch: called with the condition held."""
        # Who was answered together may send the next ones together.
        self._changed.wait_for(self._can_go, GATHER_SECONDS)
        # Pictures that are being taken in keep the processor busy until they come. None waits for
        # them longer than the last captions took.
        if self._last_batch > 1:
            longest = min(self._last_seconds, TAKING_IN_SECONDS)
            self._changed.wait_for(
                lambda: self._can_go() or self._taken <= len(self._prepared),
                max(0.0, longest - GATHER_SECONDS),
            )

    def _going_together(self) -> list[Request]:
        first = self._prepared[0]
        return [one for one in self._prepared if one.goes_with(first)][: self._batch_size]

    def _can_go(self) -> bool:
        """Whether there is nothing to be won by waiting: a batch, the next or one behind it, could
        not become larger; or it is being closed."""
        sizes = Counter(one.options for one in self._prepared)
        is_full = None in sizes or max(sizes.values(), default=0) >= self._batch_size
        return is_full or self._closing

    def _make(self, captioner: Captioner, batch: list[Request]) -> None:
        started = time.monotonic()
        if self._observer:
            self._observer.batch_begun(len(batch))
            for request in batch:
                self._observer.step("queue", started - request.submitted)
        self._answer(captioner, batch)
        seconds = time.monotonic() - started
        if not batch[0].call:
            self._last_batch, self._last_seconds = len(batch), seconds
        if self._observer:
            self._observer.step("model", seconds)

    def _answer(self, captioner: Captioner, batch: list[Request]) -> None:
        """Caption the pictures; if that fails for several, one by one, so that one fails alone."""
        first, images = batch[0], [one.image for one in batch if one.image]
        answers: Sequence[Any]
        try:
            if first.call:
                answers = [first.call(captioner, images[0])]
            else:
                assert first.options
                answers = captioner.caption(images, first.options)
        except ModelUnavailable as error:
            fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                fail(batch, error)
                return
            logger.warning("a batch of %d failed and is made one by one: %s", len(batch), error)
            for request in batch:
                self._answer(captioner, [request])
        else:
            for request, answer in zip(batch, answers, strict=True):
                request.future.set_result(answer)


class Reservation:
    """Places in the queue that nobody else can take."""

    def __init__(self, queue: CaptionQueue, places: int) -> None:
        self._queue = queue
        self._places = places

    def submit(
        self,
        load: Callable[[], Image.Image],
        options: DecodeOptions,
        name: JobName | None = None,
        picture: Image.Image | None = None,
    ) -> Future[Caption]:
        """Use one place. ``load`` gives the RGB picture some time before its turn, unless the
        ``picture`` is at hand, in a thread of the queue. ``name`` is what the queue's ``take`` is
        asked for in its turn.

        The future holds the caption, or what went wrong; never an error as a caption.
        """
        request = Request(load, options, name=name)
        if picture is not None:
            self._queue._prepare(request, picture)
        return self._use(request)

    def call(
        self, load: Callable[[], Image.Image], call: Callable[[Captioner, Image.Image], T]
    ) -> Future[T]:
        """Use one place for something else than a caption, in turn with the captions: the future
        holds what ``call`` makes of the picture."""
        return self._use(Request(load, None, call))

    def give_back(self, places: int) -> None:
        """So many fewer are needed."""
        if places > self._places:
            raise ValueError("more places given back than were reserved")
        self._places -= places
        self._queue._give_back(places)

    def _use(self, request: Request) -> Future[Any]:
        if self._places == 0:
            raise ValueError("more requests than places were reserved")
        future = self._queue._submit(request)
        self._places -= 1
        return future

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back(self._places)
