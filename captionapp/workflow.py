"""The flow of the application, one call for each thing a person does.

A request goes bytes -> ValidatedImage -> Caption; an answer goes form -> FeedbackRow ->
``feedback.csv``. Pages and commands call this and nothing deeper.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

from captionapp.captioning.batching import CaptionQueue, Reservation
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.captioning.service import ModelService
from captionapp.captioning.versions import ModelVersions
from captionapp.errors import (
    CaptionAppError,
    InvalidFeedback,
    InvalidImage,
    ModelUnavailable,
    NotFound,
    StorageFull,
)
from captionapp.feedback.repository import (
    CsvFeedbackRepository,
    FeedbackRow,
    Reason,
    Verdict,
    clean_correction,
)
from captionapp.images import ImageLimits, ImageStore, ValidatedImage, decode
from captionapp.metrics import Metrics
from captionapp.records import CaptionRecord, Held, JobState, Records
from captionapp.results import IncomingFile, Page, PictureView, Rejected, Submission
from captionapp.settings import Settings
from captionapp.timing import Work, about, collected, timed

logger = logging.getLogger(__name__)

#: A process that has not finished a caption for this long is taken for dead.
LEASE_SECONDS = 120.0
#: How often another process's caption is looked for.
POLL_SECONDS = 0.1
#: How often pictures past their retention time are looked for, at most.
SWEEP_SECONDS = 3600.0


class Workflow:
    """The one per application: what is stored, the model behind its queue, and the feedback."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        store: ImageStore,
        feedback: CsvFeedbackRepository,
        versions: ModelVersions,
        service: ModelService,
        queue: CaptionQueue,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.records = records
        self.store = store
        self.feedback = feedback
        self.versions = versions
        self.service = service
        self.queue = queue
        self.metrics = metrics
        self.limits = ImageLimits(
            max_bytes=settings.max_file_mb * 1_000_000,
            max_pixels=settings.max_megapixels * 1_000_000,
        )
        self._under_way: dict[tuple[str, str], threading.Event] = {}
        self._lock = threading.Lock()
        self._next_sweep = 0.0

    def close(self, timeout: float) -> None:
        """Finish the captions under way, for at most ``timeout`` seconds, and let go of files."""
        self.queue.close(timeout)
        self.service.close()
        self.records.close()

    # A picture in, a description out

    def submit(
        self, files: Iterable[IncomingFile], contributor: str, prompt: str = ""
    ) -> Submission:
        """Check, store and queue pictures.

        Each file is read, decoded and stored by itself, so that memory holds one at a time.

        Raises:
            InvalidOptions: if the prompt is not usable.
            ModelUnavailable, QueueFull: nothing was stored.
            StorageFull: there was no room for any of the pictures.
        """
        options = self.settings.decode_options(prompt)
        files = list(files)
        submission = Submission()
        full: StorageFull | None = None
        self._sweep()
        self.service.captioner()  # loads it if need be: without a model nothing is taken in
        with self.queue.reserve(len(files)) as reservation:
            for file in files:
                try:
                    image_id = self._take_in(file, contributor, options)
                except (InvalidImage, StorageFull) as error:
                    full = error if isinstance(error, StorageFull) else full
                    self.metrics.failure(type(error).__name__)
                    submission.rejected.append(Rejected(file.display_name, str(error)))
                    continue
                if image_id not in submission.accepted:
                    submission.accepted.append(image_id)
                    self._describe(image_id, options, reservation)
        if full and not submission.accepted:
            raise full
        return submission

    def wait(self, image_id: str, contributor: str | None, seconds: float) -> None:
        """Return when the caption this browser asked for is there, has failed, or time is up."""
        options = self.records.held(image_id, contributor).options
        end = time.monotonic() + seconds
        with self._lock:
            finished = self._under_way.get((image_id, options))
        if finished:
            finished.wait(seconds)
            return
        while time.monotonic() < end:  # another process may be at it
            job = self.records.jobs([image_id]).get((image_id, options))
            if job is None or job.problem or job.abandoned:
                return
            time.sleep(POLL_SECONDS)

    def again(self, image_id: str, contributor: str) -> None:
        """Describe the picture once more, by the version that is served now.

        Raises:
            NotFound, ModelUnavailable, QueueFull.
        """
        held = self.records.held(image_id, contributor)
        self.service.captioner()
        with self.queue.reserve(1) as reservation:
            self._describe(image_id, _options(held), reservation)

    def picture(self, image_id: str, contributor: str | None) -> PictureView:
        """The picture as this browser sees it; ``None`` is the operator.

        Raises:
            NotFound: if it is not this browser's.
        """
        return self._views([self.records.held(image_id, contributor)], contributor)[0]

    def pictures(self, contributor: str, page: int, per_page: int = 24) -> Page:
        """This browser's pictures, newest first; a page beyond the last is the last."""
        held, total = self.records.held_by(contributor, (page - 1) * per_page, per_page)
        pages = max(1, -(-total // per_page))
        if page > pages:
            return self.pictures(contributor, pages, per_page)
        return Page(self._views(held, contributor), page, pages, total)

    def serve_file(self, image_id: str, contributor: str | None) -> Path:
        """Path of the stored picture. Raises NotFound if it is not this browser's."""
        self.records.held(image_id, contributor)
        return self.store.path(image_id)

    def serve_thumbnail(self, image_id: str, contributor: str | None) -> Path:
        """Path of the small picture. Raises NotFound if it is not this browser's."""
        self.records.held(image_id, contributor)
        return self.store.thumbnail_path(image_id)

    def let_go(self, image_id: str, contributor: str) -> None:
        """This browser no longer holds the picture; the last one out takes the bytes along.

        They stay if a feedback row needs them: a correction without its picture teaches nothing.

        Raises:
            NotFound: if this browser does not hold it.
        """
        self.records.held(image_id, contributor)
        with self.records.write() as session:
            if self.records.release(session, image_id, contributor):
                return
            if image_id in self.feedback.image_ids():
                return
            self.records.forget(session, image_id)
            self.store.delete(image_id)

    # An answer kept

    def give_feedback(
        self,
        image_id: str,
        contributor: str,
        caption_id: str,
        verdict: str,
        correction: str,
        reasons: Iterable[str],
    ) -> FeedbackRow:
        """Append an answer about a caption that was shown. Durable once this returns.

        Raises:
            NotFound: if the picture is not this browser's or the caption not the picture's.
            InvalidFeedback: if the verdict, the correction or a reason cannot be kept.
            FeedbackStoreError: if the row could not be written.
        """
        held = self.records.held(image_id, contributor)
        caption = self.records.caption(image_id, caption_id)
        try:
            chosen = Verdict(verdict)
            given = {Reason(reason) for reason in reasons}
        except ValueError as error:
            raise InvalidFeedback(f"The form says {error}; load the page again.") from error
        said = caption.text if chosen is Verdict.ACCEPTED else clean_correction(correction)
        if chosen is Verdict.CORRECTED and said == caption.text:
            raise InvalidFeedback(
                "Your text is the same as the description. Change it, or accept the description."
            )
        row = FeedbackRow(
            id=uuid.uuid4().hex,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            image_id=image_id,
            image_name=held.name,
            caption=caption.text,
            feedback=said,
            verdict=chosen,
            reasons=tuple(reason for reason in Reason if reason in given),
            model_version=caption.model_version,
            contributor=contributor,
        )
        with timed("feedback"):
            self.feedback.append(row)
        self.metrics.feedback_given(chosen)
        return row

    # Steps of the above

    def _take_in(self, file: IncomingFile, contributor: str, options: DecodeOptions) -> str:
        with timed("decode"):
            image = decode(file.read(), self.limits)
        about(image.image_id)
        with timed("store"):
            self.store.add(image)
            self._hold(image, file.display_name, contributor, options)
        self.metrics.picture_stored()
        return image.image_id

    def _hold(
        self, image: ValidatedImage, name: str, contributor: str, options: DecodeOptions
    ) -> None:
        held = Held(
            image_id=image.image_id,
            name=name,
            width=image.width,
            height=image.height,
            options=options.key(),
            created_at=datetime.now(UTC),
        )
        with self.records.write() as session:
            self.records.hold(session, held, contributor)
            # Somebody else may have let go of the same picture since it was stored.
            self.store.add(image)

    def _describe(self, image_id: str, options: DecodeOptions, reservation: Reservation) -> None:
        """Queue the making of a caption, unless the current version's is there or on its way."""
        key = (image_id, options.key())
        known = self.records.captions([image_id]).get(key, [])
        if known and known[0].model_version == self.versions.current().name:
            self.metrics.cache_hit()
            return
        if not self.records.begin_job(*key, LEASE_SECONDS):
            return
        finished = threading.Event()
        with self._lock:
            self._under_way[key] = finished
        work, queued_at = collected(), time.perf_counter()
        future = reservation.submit(lambda: self.store.load(image_id), options)
        future.add_done_callback(lambda done: _add_times(work, queued_at, done))
        future.add_done_callback(lambda done: self._finish(key, finished, done))

    def _finish(
        self, key: tuple[str, str], finished: threading.Event, future: Future[Caption]
    ) -> None:
        """Keep the caption, or why there is none. Runs in the queue's thread."""
        image_id, options = key
        try:
            problem = _problem(future, image_id)
            if problem:
                self.metrics.failure("caption")
                self.records.fail_job(image_id, options, problem)
            else:
                caption = future.result()
                self.metrics.caption_made(caption.model_version, caption.seconds)
                self.records.add_caption(image_id, caption)
            self.records.extend_leases(LEASE_SECONDS)
        except Exception:  # nobody waits for the result of a callback: it would go unseen
            logger.exception("the caption of picture %s could not be recorded", image_id)
        finally:
            with self._lock:
                if self._under_way.get(key) is finished:
                    del self._under_way[key]
            finished.set()

    def _views(self, held: list[Held], contributor: str | None) -> list[PictureView]:
        image_ids = [one.image_id for one in held]
        captions = self.records.captions(image_ids)
        jobs = self.records.jobs(image_ids)
        return [
            self._view(
                one,
                captions.get((one.image_id, one.options), []),
                jobs.get((one.image_id, one.options)),
                contributor,
            )
            for one in held
        ]

    def _view(
        self,
        held: Held,
        captions: list[CaptionRecord],
        job: JobState | None,
        contributor: str | None,
    ) -> PictureView:
        if (job is None and not captions) or (job and job.abandoned):
            job = self._take_over(held)
        status = "done" if job is None else "failed" if job.problem else "waiting"
        return PictureView(
            image_id=held.image_id,
            name=held.name,
            width=held.width,
            height=held.height,
            created_at=held.created_at,
            status=status,
            problem=job.problem if job else "",
            caption=captions[0] if captions else None,
            previous=captions[1:],
            answer=self.feedback.latest(held.image_id, contributor) if contributor else None,
            correction=self._remembered(held.image_id, contributor),
        )

    def _take_over(self, held: Held) -> JobState:
        """Queue the caption that a process which died left unmade. If that fails, a later look at
        the page tries again."""
        try:
            self.service.captioner()
            with self.queue.reserve(1) as reservation:
                self._describe(held.image_id, _options(held), reservation)
        except ModelUnavailable as error:
            logger.warning("picture %s still waits for its caption: %s", held.image_id, error)
        return JobState(problem="", abandoned=False)

    def _remembered(self, image_id: str, contributor: str | None) -> FeedbackRow | None:
        memory = self.settings.correction_memory
        if memory == "off":
            return None
        answer = self.feedback.latest(image_id, contributor if memory == "own" else None)
        return answer if answer and answer.verdict is Verdict.CORRECTED else None

    def _sweep(self) -> None:
        """Let go of what is past its retention time."""
        if not self.settings.retention_days or time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        oldest = datetime.now(UTC) - timedelta(days=self.settings.retention_days)
        for image_id, contributor in self.records.held_before(oldest):
            try:
                self.let_go(image_id, contributor)
            except NotFound:
                continue  # somebody else was faster


def _add_times(work: Work | None, queued_at: float, future: Future[Caption]) -> None:
    """Tell the request that waits where its time went: behind others, and in the model."""
    if work and not future.cancelled() and future.exception() is None:
        in_model = future.result().seconds
        work.add("caption", in_model)
        work.add("queue", max(0.0, time.perf_counter() - queued_at - in_model))


def _problem(future: Future[Caption], image_id: str) -> str:
    """A sentence for the page if the future holds no caption; empty otherwise."""
    if future.cancelled():
        return "The server stopped before this picture was described. Try again."
    error = future.exception()
    if error is None:
        return ""
    logger.error("picture %s was not described", image_id, exc_info=error)
    if isinstance(error, CaptionAppError):
        return str(error)
    return "The model could not describe this picture. The operator's log says why."


def _options(held: Held) -> DecodeOptions:
    return DecodeOptions.from_key(held.options)
