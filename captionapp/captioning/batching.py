"""The bounded queue before the model: requests of many threads gathered into batches."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from PIL import Image

from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.captioning.service import ModelService
from captionapp.errors import ModelUnavailable, QueueFull
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

QUEUE_RETRY_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class _Request:
    """A caption with these options, or, without options, what ``call`` makes of the picture."""

    load: Callable[[], Image.Image]
    options: DecodeOptions | None
    future: Future[Any]
    call: Callable[[Captioner, Image.Image], Any] | None = None


class CaptionQueue:
    """At most ``size`` captions wait or are being made; a thread takes them in batches.

    The thread is started by the first request, which is after any fork. ``on_depth`` is told the
    number of captions that wait whenever it changes.
    """

    def __init__(
        self,
        service: ModelService,
        size: int,
        batch_size: int,
        on_depth: Callable[[int], None] = lambda depth: None,
    ) -> None:
        self._service = service
        self._size = size
        self._batch_size = batch_size
        self._on_depth = on_depth
        self._waiting: deque[_Request] = deque()
        #: Places that are reserved, waiting, or in the batch under way.
        self._taken = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """Captions that wait for a batch."""
        return len(self._waiting)

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
                    QUEUE_RETRY_SECONDS,
                )
            self._taken += places
        return Reservation(self, places)

    def close(self, timeout: float) -> None:
        """Take nothing more, and make what is waiting for at most ``timeout`` seconds.

        What is left then is cancelled.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for request in left:
            request.future.cancel()

    def _submit(self, request: _Request) -> Future[Any]:
        with self._changed:
            self._waiting.append(request)
            self._on_depth(len(self._waiting))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="captions", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return request.future

    def _give_back(self, places: int) -> None:
        with self._changed:
            self._taken -= places
            # The thread that stops may be waiting for the last reservation.
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._make(batch)
            except Exception:  # the thread must outlive whatever a batch does
                logger.exception("a batch of captions failed")
                _fail(batch, RuntimeError("the batch failed"))
            finally:
                self._give_back(len(batch))

    def _next_batch(self) -> list[_Request]:
        """The oldest request and others of its options; a call is alone. Empty when all is done at
        closing."""
        with self._changed:
            while not self._waiting:
                if self._closing and self._taken == 0:
                    return []
                self._changed.wait()
            first = self._waiting[0]
            size = 1 if first.call else self._batch_size
            batch: list[_Request] = []
            rest: deque[_Request] = deque()
            for request in self._waiting:
                same = request.options == first.options and len(batch) < size
                (batch if same else rest).append(request)
            self._waiting = rest
            self._on_depth(len(rest))
        return batch

    def _make(self, batch: list[_Request]) -> None:
        requests, images = [], []
        for request in batch:
            if not request.future.set_running_or_notify_cancel():
                continue
            try:
                images.append(request.load())
                requests.append(request)
            except Exception as error:  # a picture that cannot be read fails alone
                request.future.set_exception(error)
        if requests:
            self._answer(requests, images)

    def _answer(self, requests: list[_Request], images: list[Image.Image]) -> None:
        """Caption the pictures; if that fails for several, one by one, so that one fails alone."""
        first = requests[0]
        try:
            captioner = self._service.captioner()
            answers: Sequence[Any]
            if first.call:
                answers = [first.call(captioner, images[0])]
            else:
                assert first.options
                answers = captioner.caption(images, first.options)
        except ModelUnavailable as error:
            _fail(requests, error)
        except Exception as error:
            if len(requests) == 1:
                _fail(requests, error)
                return
            logger.warning("a batch of %d failed and is made one by one: %s", len(images), error)
            for request, image in zip(requests, images, strict=True):
                self._answer([request], [image])
        else:
            for request, answer in zip(requests, answers, strict=True):
                request.future.set_result(answer)


class Reservation:
    """Places in the queue that nobody else can take."""

    def __init__(self, queue: CaptionQueue, places: int) -> None:
        self._queue = queue
        self._places = places

    def submit(self, load: Callable[[], Image.Image], options: DecodeOptions) -> Future[Caption]:
        """Use one place. ``load`` gives the RGB picture when its turn comes, in the queue's thread.

        The future holds the caption, or what went wrong; never an error as a caption.
        """
        return self._use(_Request(load, options, Future()))

    def call(
        self, load: Callable[[], Image.Image], call: Callable[[Captioner, Image.Image], T]
    ) -> Future[T]:
        """Use one place for something else than a caption, in turn with the captions: the future
        holds what ``call`` makes of the picture."""
        return self._use(_Request(load, None, Future(), call))

    def _use(self, request: _Request) -> Future[Any]:
        if self._places == 0:
            raise ValueError("more requests than places were reserved")
        self._places -= 1
        return self._queue._submit(request)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue._give_back(self._places)
        self._places = 0


def _fail(requests: list[_Request], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
