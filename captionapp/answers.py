"""What a person answers to a caption: checked, and kept as a row of ``feedback.csv``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from captionapp.asked import Asked
from captionapp.caption_records import CaptionRecords
from captionapp.errors import InvalidFeedback
from captionapp.feedback.repository import (
    CsvFeedbackRepository,
    FeedbackRow,
    Reason,
    Verdict,
    clean_correction,
)
from captionapp.metrics import Metrics
from captionapp.neutral import neutral
from captionapp.records import Records
from captionapp.sentences import Sentence
from captionapp.timing import timed


class Answers:
    """Answers to captions that this server made: what the model said is in its own records."""

    def __init__(
        self,
        records: Records,
        captions: CaptionRecords,
        feedback: CsvFeedbackRepository,
        asked: Asked,
        metrics: Metrics,
    ) -> None:
        self._records = records
        self._captions = captions
        self._feedback = feedback
        self._asked = asked
        self._metrics = metrics

    def give(
        self,
        image_id: str,
        contributor: str,
        caption_id: str,
        verdict: str,
        correction: str,
        reasons: Iterable[str],
        *,
        by_operator: bool = False,
        shown_neutral: bool = False,
    ) -> FeedbackRow:
        """Append an answer about a caption that was shown. Durable once this returns.

        The operator answers also about pictures that this browser does not hold. If the caption was
        shown without guesses at gender, the row holds what the model said all the same; somebody
        who puts the model's own words back accepts it.

        Raises:
            NotFound: if the picture is not this browser's or the caption not the picture's.
            InvalidFeedback: if the verdict, the correction or a reason cannot be kept.
            FeedbackStoreError: if the row could not be written.
        """
        holder = None if by_operator else contributor
        held = self._records.held(image_id, holder)
        caption = self._captions.get(image_id, caption_id)
        chosen, given = _chosen(verdict, reasons)
        said = caption.text if chosen is Verdict.ACCEPTED else clean_correction(correction)
        shown = neutral(caption.text, caption.given) if shown_neutral else caption.text
        if said == caption.text != shown:
            chosen = Verdict.ACCEPTED
        elif chosen is Verdict.CORRECTED and said == shown:
            raise InvalidFeedback(
                Sentence(
                    "Your text is the same as the description. Change it, or accept the"
                    " description."
                )
            )
        row = FeedbackRow(
            id=uuid.uuid4().hex,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            image_id=image_id,
            image_name=held.name,
            caption=caption.text,
            feedback=said,
            verdict=chosen,
            reasons=given,
            model_version=caption.model_version,
            contributor=contributor,
        )
        # Inside the transaction nobody can let go of the picture that the row needs.
        with timed("feedback"), self._records.write() as session:
            self._records.require_holding(session, image_id, holder)
            self._feedback.append(row)
            if holder is not None and chosen is Verdict.ACCEPTED:  # perhaps an alternative
                self._asked.choose(session, contributor, caption)
        self._metrics.feedback_given(chosen)
        return row


def _chosen(verdict: str, reasons: Iterable[str]) -> tuple[Verdict, tuple[Reason, ...]]:
    """What a form says, the reasons in their order, each once. Raises InvalidFeedback for values
    that no form of ours has."""
    try:
        chosen, given = Verdict(verdict), {Reason(reason) for reason in reasons}
        return chosen, tuple(reason for reason in Reason if reason in given)
    except ValueError as error:
        raise InvalidFeedback(
            Sentence("The form says %(what)s; load the page again.", what=str(error))
        ) from error
