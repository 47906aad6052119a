"""Captions on their way: queued here, recorded when made, taken over from a process that died."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image
from sqlalchemy.orm import Session

from captionapp.caption_records import CaptionRecords
from captionapp.captioning.batching import CaptionQueue, Reservation
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.captioning.service import LOADING, LOADING_RETRY_SECONDS, ModelService
from captionapp.errors import CaptionAppError, Dropped, ModelUnavailable
from captionapp.image_store import ImageStore
from captionapp.job_records import JobRecords, JobState
from captionapp.metrics import Metrics
from captionapp.records import Held, Records
from captionapp.sentences import Sentence
from captionapp.settings import Settings
from captionapp.timing import Work, collected, timed

logger = logging.getLogger(__name__)

#: A process that has not finished a caption for this long is taken for dead.
LEASE_SECONDS = 120.0
#: How often another process's caption is looked for.
POLL_SECONDS = 0.1
#: How often a client that waits is looked after.
GONE_SECONDS = 0.5
BUSY = Sentence("The model is busy. Try again in a moment.")
BUSY_RETRY_SECONDS = 5.0
_NOT_STORED = "The description could not be stored."
_NOT_MADE = Sentence("The model could not describe this picture. The operator's log says why.")

T = TypeVar("T")


@dataclass(eq=False)
class _UnderWay:
    """A job of this process: ``finished`` is set once its result is written. ``future`` is there
    once it is queued."""

    finished: threading.Event = field(default_factory=threading.Event)
    future: Future[Caption] | None = None


@dataclass(frozen=True, eq=False)
class _Made:
    """The result of a job."""

    key: tuple[str, str]
    job: _UnderWay
    future: Future[Caption]


class CaptionJobs:
    """The captions that this process is making. A job is named by (image_id, options key)."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        job_records: JobRecords,
        captions: CaptionRecords,
        store: ImageStore,
        service: ModelService,
        queue: CaptionQueue,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.records = records
        self.job_records = job_records
        self.captions = captions
        self.store = store
        self.service = service
        self.queue = queue
        self.metrics = metrics
        # Threads that only wait: some are always left for the other requests.
        self._waiters = threading.BoundedSemaphore(max(1, settings.threads // 2))
        self._under_way: dict[tuple[str, str], _UnderWay] = {}
        self._lock = threading.Lock()
        #: Results that are not written yet.
        self._made: list[_Made] = []
        # Results are written in a thread of their own: the model does not wait for the disk.
        self._recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._leases_extended = 0.0

    def close(self) -> None:
        """Return when the results there are have been written. The queue is closed before."""
        self._recorder.shutdown()

    def have_model(self) -> None:
        """Have the model loaded, within the time that an upload may wait.

        Raises:
            ModelUnavailable: if it is not there then, or half of the threads wait already.
        """
        if self.service.state == "ready":
            return
        if not self._waiters.acquire(blocking=False):
            raise ModelUnavailable(LOADING, LOADING_RETRY_SECONDS)
        try:
            with timed("load"):
                self.service.captioner(timeout=self.settings.wait_seconds)
        finally:
            self._waiters.release()

    def wait(
        self,
        key: tuple[str, str],
        contributor: str | None,
        seconds: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when the job is done or has failed, or time is up.

        Time is up at once if half of the threads wait already. If whoever waits is ``gone``, the
        job is dropped unless it is begun, or another browser wants the same; somebody who looks at
        the picture later starts it again.
        """
        if not self._waiters.acquire(blocking=False):
            return
        try:
            self._wait(key, contributor, time.monotonic() + seconds, gone)
        finally:
            self._waiters.release()

    def result(self, future: Future[T]) -> T:
        """What the queue makes of something, within the time that an upload may wait.

        Raises:
            ModelUnavailable: if it is not there then, or half of the threads wait already.
            Exception: what the future failed with.
        """
        if future.done() and not future.cancelled():
            return future.result()
        if not self._waiters.acquire(blocking=False):
            raise ModelUnavailable(BUSY, BUSY_RETRY_SECONDS)
        try:
            return future.result(timeout=self.settings.wait_seconds)
        except (TimeoutError, CancelledError) as error:
            raise ModelUnavailable(BUSY, BUSY_RETRY_SECONDS) from error
        finally:
            self._waiters.release()

    def _wait(
        self,
        key: tuple[str, str],
        contributor: str | None,
        end: float,
        gone: Callable[[], bool],
    ) -> None:
        with self._lock:
            job = self._under_way.get(key)
        if job:
            while not job.finished.wait(max(0.0, min(GONE_SECONDS, end - time.monotonic()))):
                if time.monotonic() >= end:
                    return
                if gone():
                    if self.job_records.drop(*key, contributor):
                        logger.info("nobody waits for the description of picture %s", key[0])
                        self.leave_out([key[0]])
                    return
            return
        while time.monotonic() < end:  # another process may be at it
            state = self.job_records.of([key[0]]).get(key)
            if state is None or state.problem or state.abandoned:
                return
            time.sleep(POLL_SECONDS)

    def leave_out(self, image_ids: Collection[str]) -> None:
        """Take those of these pictures whose jobs were dropped out of the queue, so that their
        places are free at once; the others are left out in their turn, see ``JobRecords.take``."""
        with self._lock:
            queued = {key: job for key, job in self._under_way.items() if key[0] in image_ids}
        states = self.job_records.of(image_ids)
        for key, job in queued.items():
            state = states.get(key)
            if job.future and (state is None or state.problem):
                self.queue.drop(job.future)

    def start(self, image_id: str, options: DecodeOptions, reservation: Reservation) -> None:
        """Queue the making of a caption, unless the served version's is there or on its way."""
        serving = self.service.captioner().model_version
        with self.records.write() as session:
            begun = self.begin(session, image_id, options, serving)
        if begun:
            self.queue_up(image_id, options, reservation)

    def begin(self, session: Session, image_id: str, options: DecodeOptions, serving: str) -> bool:
        """Whether a caption is to be made, which this process has to ``queue_up`` then; not if that
        of the version ``serving`` is there, or this process, or another, is at it."""
        key = (image_id, options.key())
        known = self.captions.of_in(session, [image_id]).get(key, [])
        if known and known[0].model_version == serving:
            self.metrics.cache_hit()
            return False
        return self.job_records.begin_in(session, *key, LEASE_SECONDS)

    def queue_up(
        self,
        image_id: str,
        options: DecodeOptions,
        reservation: Reservation,
        picture: Image.Image | None = None,
    ) -> None:
        """Queue the making of a caption that was begun. The stored picture is read if the
        ``picture`` is not at hand."""
        key = (image_id, options.key())
        job = _UnderWay()
        with self._lock:
            self._under_way[key] = job
        work, queued_at = collected(), time.perf_counter()
        try:
            job.future = future = reservation.submit(
                lambda: self.store.load(image_id),
                options,
                name=key,
                picture=picture,
            )
        except Exception:  # no thread can be started, say
            self._give_up(*key, _NOT_MADE)
            self._end(key, job)
            raise
        future.add_done_callback(lambda done: _add_times(work, queued_at, done))
        future.add_done_callback(lambda done: self._finish_later(_Made(key, job, done)))

    def take_over(self, held: Held) -> JobState:
        """Queue the caption that a process which died left unmade. If that fails, a later look at
        the page tries again."""
        if self.service.state != "ready":
            self.service.start_loading()
            return JobState(problem="", abandoned=False)
        try:
            with self.queue.reserve(1) as reservation:
                self.start(held.image_id, options_of(held), reservation)
        except ModelUnavailable as error:
            logger.warning("picture %s still waits for its caption: %s", held.image_id, error)
        return JobState(problem="", abandoned=False)

    def _finish_later(self, made: _Made) -> None:
        with self._lock:
            self._made.append(made)
        try:
            self._recorder.submit(self._record)
        except RuntimeError:  # closed; whoever looks at the picture next has it described
            with self._lock:
                if made not in self._made:  # it was taken along with one before it
                    return
                self._made.remove(made)
            logger.warning("the caption of picture %s came too late to be recorded", made.key[0])
            self._end(made.key, made.job)

    def _record(self) -> None:
        """Keep what has come by now. Runs in the recorder's thread: results that come while it
        waits for the database are written together."""
        with self._lock:
            made, self._made = self._made, []
        try:
            captions = [one for one in made if self._has_caption(one)]
            if captions:
                self._keep(captions)
        except Exception:  # nobody waits for the result of a callback: it would go unseen
            logger.exception("results could not be written")
            for one in made:  # the job of what was written is gone
                if not _was_dropped(one.future):
                    self._give_up(*one.key, _NOT_STORED)
        finally:
            for one in made:
                self._end(one.key, one.job)
        self._extend_leases()

    def _has_caption(self, made: _Made) -> bool:
        """Whether there is one to keep; if not, it is noted why."""
        image_id, options = made.key
        problem = _problem(made.future, image_id)
        if _was_dropped(made.future):
            logger.info("picture %s was cancelled before its turn", image_id)
            return False
        if problem:
            self.metrics.failure("caption")
            self._give_up(image_id, options, problem)
            return False
        return True

    def _keep(self, made: list[_Made]) -> None:
        """Write the captions in one transaction; if that fails, one by one, so that one fails
        alone."""
        captions = [(one.key[0], one.future.result()) for one in made]
        try:
            self.captions.add_all(captions)
        except Exception:
            if len(made) > 1:
                for one in made:
                    self._keep([one])
                return
            image_id, options = made[0].key
            logger.exception("the caption of picture %s could not be recorded", image_id)
            self._give_up(image_id, options, _NOT_STORED)
        else:
            for _, caption in captions:
                self.metrics.caption_made(caption.model_version, caption.seconds)

    def _extend_leases(self) -> None:
        """Of what is under way, and nothing else: what could not be recorded is made again once
        its lease has run out."""
        if time.monotonic() - self._leases_extended <= LEASE_SECONDS / 4:
            return
        with self._lock:
            under_way = list(self._under_way)
        try:
            self.job_records.extend_leases(under_way, LEASE_SECONDS)
        except Exception:
            logger.exception("the leases of the jobs under way could not be extended")
        else:
            self._leases_extended = time.monotonic()

    def _end(self, key: tuple[str, str], job: _UnderWay) -> None:
        with self._lock:
            if self._under_way.get(key) is job:  # or asked for again after it was dropped
                del self._under_way[key]
        job.finished.set()

    def _give_up(self, image_id: str, options: str, problem: str) -> None:
        try:
            self.job_records.fail(image_id, options, problem)
        except Exception:  # the database itself is what fails; the lease will run out
            logger.exception("the job of picture %s stays open", image_id)


def _add_times(work: Work | None, queued_at: float, future: Future[Caption]) -> None:
    """Tell the request that waits where its time went: behind others, and in the model."""
    if work and not future.cancelled() and future.exception() is None:
        in_model = future.result().seconds
        work.add("caption", in_model)
        work.add("queue", max(0.0, time.perf_counter() - queued_at - in_model))


def _was_dropped(future: Future[Caption]) -> bool:
    return not future.cancelled() and isinstance(future.exception(), Dropped)


def _problem(future: Future[Caption], image_id: str) -> str:
    """A sentence for the page if the future holds no caption; empty otherwise."""
    if future.cancelled():
        return Sentence("The server stopped before this picture was described. Try again.")
    error = future.exception()
    if error is None or isinstance(error, Dropped):
        return ""
    logger.error("picture %s was not described", image_id, exc_info=error)
    if isinstance(error, CaptionAppError):
        return error.message
    return _NOT_MADE


def options_of(held: Held) -> DecodeOptions:
    """How this browser asked for the picture to be described."""
    return DecodeOptions.from_key(held.options)
