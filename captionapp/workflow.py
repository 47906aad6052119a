"""The flow of the application, one call for each thing a person does.

A request goes bytes -> ValidatedImage -> Caption; an answer goes form -> FeedbackRow ->
``feedback.csv``. Pages and commands call this, or one of its parts, and nothing deeper.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from captionapp.answers import Answers
from captionapp.arrivals import Arrivals
from captionapp.asked import Asked
from captionapp.caption_records import CaptionRecords
from captionapp.captioning.batching import CaptionQueue
from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.service import ModelService
from captionapp.captioning.versions import ModelVersions
from captionapp.errors import InvalidImage, NotFound, StorageFull
from captionapp.feedback.interchange import IMPORTED, Entry
from captionapp.feedback.memory import CorrectionMemory
from captionapp.feedback.repository import CsvFeedbackRepository
from captionapp.feedback.transfer import FeedbackImport, Imported
from captionapp.gallery import EVERYTHING, PER_PAGE, Gallery, Wanted
from captionapp.hints import hint
from captionapp.image_store import ImageStore
from captionapp.images import ImageLimits, ValidatedImage, decode
from captionapp.job_records import JobRecords
from captionapp.jobs import CaptionJobs, options_of
from captionapp.letting_go import LettingGo
from captionapp.looking import Looking
from captionapp.metrics import Metrics
from captionapp.picture_views import PictureViews
from captionapp.promotion import Promotion
from captionapp.records import Held, Records
from captionapp.results import IncomingFile, Page, PictureView, Rejected, Submission
from captionapp.sentences import Sentence
from captionapp.settings import Settings
from captionapp.timing import about, timed
from captionapp.training.caption_cache import CaptionCache
from captionapp.training.dataset import FeedbackDataset, load_feedback_dataset
from captionapp.training.proof import Prover
from captionapp.training.retained import not_trained_on
from captionapp.training.split import Sides
from captionapp.votes import Votes

if TYPE_CHECKING:
    from captionapp.addresses import PictureFetcher

logger = logging.getLogger(__name__)

#: How often pictures past their retention time are looked for, at most.
SWEEP_SECONDS = 3600.0


class Workflow:
    """The one per application: what is stored, the model behind its queue, and the feedback."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        job_records: JobRecords,
        store: ImageStore,
        feedback: CsvFeedbackRepository,
        versions: ModelVersions,
        service: ModelService,
        queue: CaptionQueue,
        metrics: Metrics,
        fetcher: PictureFetcher | None = None,
    ) -> None:
        self.settings = settings
        self.records = records
        self.captions = CaptionRecords(records)
        self.store = store
        self.feedback = feedback
        self.versions = versions
        self.service = service
        self.queue = queue
        self.metrics = metrics
        #: None if the server is not to fetch pictures.
        self.fetcher = fetcher
        self.limits = ImageLimits(
            max_bytes=settings.max_file_mb * 1_000_000,
            max_pixels=settings.max_megapixels * 1_000_000,
        )
        self.arrivals = Arrivals(records)
        self.asked = Asked(records)
        self.jobs = CaptionJobs(
            settings, records, job_records, self.captions, store, service, queue, metrics
        )
        self.looking = Looking(self.jobs, queue, store)
        self.memory = CorrectionMemory(feedback, settings.correction_memory)
        self.gallery = Gallery(records, self.captions, self.memory)
        self.answers = Answers(records, self.captions, feedback, self.asked, metrics)
        self._views = PictureViews(
            records, self.captions, self.asked, self.jobs, feedback, self.memory
        )
        undo = timedelta(minutes=settings.undo_minutes)
        self.letting_go = LettingGo(records, store, feedback, undo)
        prover = Prover(
            settings,
            service.load_version,
            CaptionCache(settings.instance / "evaluations" / "captions.db"),
            self.feedback_dataset,
            Votes(records).tally,
            lambda examples: not_trained_on(examples, self.sides()),
        )
        self.promotion = Promotion(settings, versions, prover)
        self._next_sweep = 0.0

    def close(self, timeout: float) -> bool:
        """Finish the captions under way, for at most ``timeout`` seconds, and let go of files;
        whether no thread uses the model any more."""
        self.letting_go.close()
        finished = self.queue.close(timeout)
        self.jobs.close()
        finished &= self.service.close(1.0)  # a load that nobody waits for is not waited for
        self.records.close()
        return finished

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
        self.jobs.have_model()  # without one nothing is taken in
        with self.queue.reserve(len(files)) as reservation:
            for file in files:
                try:
                    image, fresh, begun = self._take_in(file, contributor, options)
                except (InvalidImage, StorageFull) as error:
                    full = error if isinstance(error, StorageFull) else full
                    self.metrics.failure(type(error).__name__)
                    submission.rejected.append(Rejected(file.display_name, error.message))
                    reservation.give_back(1)
                    continue
                if image.image_id not in submission.accepted:
                    submission.accepted.append(image.image_id)
                    submission.fresh.update({image.image_id} if fresh else ())
                if begun:
                    self.jobs.queue_up(image.image_id, options, reservation, image.image)
                else:
                    reservation.give_back(1)
        if full and not submission.accepted:
            raise full
        return submission

    def wait(
        self,
        image_id: str,
        contributor: str | None,
        seconds: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when the caption this browser asked for is there, has failed, or time is up.

        It is up at once if many wait already, or if a person's words are there to be shown: the
        page does not need this, it can be looked at again. If the one who waits is ``gone``, the
        caption is not made, unless it is begun; whoever comes back to the picture has it made then.
        """
        held = self.records.held(image_id, contributor)
        if not self.memory.remembered(image_id, contributor):
            self.jobs.wait((image_id, held.options), contributor, seconds, gone)

    def again(self, image_id: str, contributor: str) -> None:
        """Describe the picture once more, by the version that is served now.

        Raises:
            NotFound, ModelUnavailable, QueueFull.
        """
        held = self.records.held(image_id, contributor)
        self.describe(image_id, contributor, options_of(held))

    def describe(self, image_id: str, contributor: str, options: DecodeOptions) -> None:
        """Describe the picture in this way. What was said of it before stays among the earlier
        descriptions.

        Raises:
            NotFound, ModelUnavailable, QueueFull.
        """
        self.records.held(image_id, contributor)
        self.jobs.have_model()
        with self.queue.reserve(1) as reservation:
            self.asked.ask(image_id, contributor, options.key())
            self.jobs.start(image_id, options, reservation)

    def picture(self, image_id: str, contributor: str | None) -> PictureView:
        """The picture as this browser sees it; ``None`` is the operator.

        Raises:
            NotFound: if it is not this browser's.
        """
        return self._views.of(
            lambda session: [self.records.held_in(session, image_id, contributor)], contributor
        )[0]

    def pictures_of(self, image_ids: Iterable[str], contributor: str) -> dict[str, PictureView]:
        """Those of these pictures that this browser holds, by id, in the order asked for."""
        views = self._views.of(
            lambda session: self.records.held_among(session, image_ids, contributor), contributor
        )
        return {view.image_id: view for view in views}

    def pictures(
        self,
        contributor: str,
        wanted: Wanted = EVERYTHING,
        *,
        after: str = "",
        before: str | None = None,
        per_page: int = PER_PAGE,
    ) -> Page:
        """A page of this browser's pictures, as ``Gallery.page`` finds it."""
        self.letting_go.sweep()
        self.gallery.refresh(contributor)
        found = self.gallery.page(contributor, wanted, after=after, before=before, limit=per_page)
        views = self.pictures_of(found.image_ids, contributor)
        return Page(list(views.values()), found.first, found.total, found.newer, found.older)

    def serve_file(self, image_id: str, contributor: str | None) -> Path:
        """Path of the stored picture. Raises NotFound if it is not this browser's."""
        self.records.held(image_id, contributor)
        return self.store.path(image_id)

    def serve_view(self, image_id: str, contributor: str | None) -> Path:
        """Path of the picture in the size of a page. Raises NotFound if it is not this browser's,
        InvalidImage if its file is damaged."""
        self.records.held(image_id, contributor)
        return self.store.view_path(image_id)

    def serve_thumbnail(self, image_id: str, contributor: str | None) -> Path:
        """Path of the small picture. Raises NotFound if it is not this browser's."""
        self.records.held(image_id, contributor)
        return self.store.thumbnail_path(image_id)

    def serve_veil(
        self, image_id: str, contributor: str | None, caption_id: str, word: int
    ) -> bytes:
        """Where the model looked when it wrote this word of a caption: see ``Looking.veil``.

        Raises:
            NotFound: if the picture is not this browser's, or has no such caption or word.
            CaptionFailed, ModelUnavailable, QueueFull.
        """
        self.records.held(image_id, contributor)
        caption = self.captions.get(image_id, caption_id)
        if not 0 <= word < len(caption.text.split()):
            raise NotFound(Sentence("The description has no such word."))
        return self.looking.veil(caption, word)

    def let_go(self, image_id: str, contributor: str) -> None:
        """This browser no longer holds the picture, for good.

        Raises:
            NotFound: if this browser does not hold it.
        """
        self.letting_go.for_good(image_id, contributor)

    def cancel(self, contributor: str, batch: str = "") -> list[str]:
        """Drop the descriptions of this batch, or all that this browser waits for, that have not
        been begun. Returns the ids of their pictures; those that are new here are let go of."""
        dropped = self.arrivals.cancel(contributor, batch, self.letting_go.end)
        self.jobs.leave_out(dropped)
        return dropped

    # What is learned from

    def feedback_dataset(self) -> FeedbackDataset:
        """The answers so far as examples, each on its side of the split for good.

        Raises:
            FeedbackStoreError: if feedback.csv cannot be read.
        """
        return load_feedback_dataset(self.feedback.rows(), self.store, self.sides())

    def sides(self) -> Sides:
        """Which pictures are trained on, and which only judge."""
        return Sides(self.records, self.settings.split_seed, self.settings.held_out_share)

    # Whole data sets

    def import_feedback(self, entries: Sequence[Entry]) -> Iterator[Imported]:
        """Bring answers with their pictures in, captioned by the version that is served now.

        What is yielded as added is kept, whatever comes after. Raises as ``FeedbackImport.run``.
        """
        options = self.settings.decode_options()

        def keep(image: ValidatedImage, name: str) -> None:
            held = _held(image, name, options)
            with self._stored(image) as session:
                self._hold(session, held, IMPORTED, image)

        importing = FeedbackImport(
            captions=self.captions,
            feedback=self.feedback,
            captioner=self.service.captioner,
            keep=keep,
            limits=self.limits,
            options=options,
            batch_size=self.settings.batch_size,
        )
        return importing.run(entries)

    # Steps of the above

    def _take_in(
        self, file: IncomingFile, contributor: str, options: DecodeOptions
    ) -> tuple[ValidatedImage, bool, bool]:
        """The picture, whether this browser did not hold it before, and whether a caption of it is
        to be queued: all of that is one transaction."""
        with timed("decode"):
            image = decode(file.read(), self.limits)
        about(image.image_id)
        with timed("store"):
            held = _held(image, file.display_name, options)
            serving = self.service.captioner().model_version
            with self._stored(image) as session:
                fresh = self._hold(session, held, contributor, image)
                begun = self.jobs.begin(session, image.image_id, options, serving)
        self.metrics.picture_stored()
        return image, fresh, begun

    @contextmanager
    def _stored(self, image: ValidatedImage) -> Iterator[Session]:
        """A transaction that makes the row of the picture, whose file is there. If that fails the
        file goes as well: nothing else would ever remove it."""
        self.store.add(image)
        try:
            with self.records.write() as session:
                yield session
        except Exception:
            self._remove_without_row(image.image_id)
            raise

    def _remove_without_row(self, image_id: str) -> None:
        try:
            with self.records.write() as session:  # inside it nobody makes the row
                if not self.records.is_there(session, image_id):
                    self.store.delete(image_id)
        except Exception:  # what brought us here is what is to be told
            logger.exception("the file of picture %s stays without a row", image_id)

    def _hold(self, session: Session, held: Held, contributor: str, image: ValidatedImage) -> bool:
        fresh = self.records.hold(session, held, contributor)
        # Somebody else may have let go of the same picture since it was stored.
        self.store.add(image)
        return fresh

    def _sweep(self) -> None:
        """Let go of what is past its retention time, or can no longer be taken back."""
        self.letting_go.sweep()
        if not self.settings.retention_days or time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        oldest = datetime.now(UTC) - timedelta(days=self.settings.retention_days)
        for image_id, contributor in self.records.held_before(oldest):
            try:
                self.let_go(image_id, contributor)
            except NotFound:
                continue  # somebody else was faster


def _held(image: ValidatedImage, name: str, options: DecodeOptions) -> Held:
    return Held(
        image_id=image.image_id,
        name=name,
        width=image.width,
        height=image.height,
        options=options.key(),
        created_at=datetime.now(UTC),
        hint=hint(image.image) or "",
    )
