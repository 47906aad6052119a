"""Everything that a page says of a picture, put together for one browser."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session

from captionapp.asked import Asked
from captionapp.caption_records import CaptionRecord, CaptionRecords, chosen_first
from captionapp.feedback.memory import CorrectionMemory
from captionapp.feedback.repository import CsvFeedbackRepository
from captionapp.job_records import JobState
from captionapp.jobs import CaptionJobs, options_of
from captionapp.records import Held, Records
from captionapp.results import PictureView


class PictureViews:
    """Pictures as a browser sees them, with their captions, jobs and answers. A caption that a
    dead process left behind is taken over by this one when its picture is looked at."""

    def __init__(
        self,
        records: Records,
        captions: CaptionRecords,
        asked: Asked,
        jobs: CaptionJobs,
        feedback: CsvFeedbackRepository,
        memory: CorrectionMemory,
    ) -> None:
        self._records = records
        self._captions = captions
        self._asked = asked
        self._jobs = jobs
        self._feedback = feedback
        self._memory = memory

    def of(
        self, find: Callable[[Session], list[Held]], contributor: str | None
    ) -> list[PictureView]:
        """Views of the pictures that are found, with everything as it is at one moment."""
        with self._records.read() as session:
            held = find(session)
            image_ids = [one.image_id for one in held]
            captions = self._captions.of_in(session, image_ids)
            jobs = self._jobs.job_records.of_in(session, image_ids)
            asked = self._asked.earlier(session, image_ids, contributor) if contributor else {}
        return [
            self._view(
                one,
                captions.get((one.image_id, one.options), []),
                [
                    caption
                    for options in asked.get(one.image_id, [])
                    for caption in captions.get((one.image_id, options), [])
                ],
                jobs.get((one.image_id, one.options)),
                contributor,
            )
            for one in held
        ]

    def _view(
        self,
        held: Held,
        captions: list[CaptionRecord],
        earlier: list[CaptionRecord],
        job: JobState | None,
        contributor: str | None,
    ) -> PictureView:
        left_behind = (job is None and not captions) or (job is not None and job.abandoned)
        if left_behind and contributor is not None:
            job = self._jobs.take_over(held)
        status = "done" if job is None else "failed" if job.problem else "waiting"
        earlier.sort(key=lambda one: one.created_at, reverse=True)
        known = [*chosen_first(captions, held.chosen), *earlier]
        first = known[0] if known else None
        return PictureView(
            image_id=held.image_id,
            name=held.name,
            width=held.width,
            height=held.height,
            created_at=held.created_at,
            hint=held.hint,
            status=status,
            problem=job.problem if job else "",
            ahead=job.ahead if job else None,
            caption=first,
            alternatives=[one for one in known[1:] if one.set_id == known[0].set_id],
            asked=options_of(held),
            previous=[one for one in known[1:] if one.set_id != known[0].set_id],
            answer=self._feedback.latest(held.image_id, contributor) if contributor else None,
            correction=self._memory.remembered(held.image_id, contributor),
            confirmed=first is not None
            and self._memory.confirmed(held.image_id, first.text, first.model_version, contributor),
        )
