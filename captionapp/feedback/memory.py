"""Correction memory: what people said of a picture, for when it is looked at again."""

from __future__ import annotations

from captionapp.feedback.repository import CsvFeedbackRepository
from captionapp.feedback.rows import FeedbackRow, Verdict


class CorrectionMemory:
    """What of ``feedback`` is shown to whom: ``reach`` is ``everyone``, ``own`` or ``off``."""

    def __init__(self, feedback: CsvFeedbackRepository, reach: str) -> None:
        self.feedback = feedback
        self.reach = reach

    def remembered(self, image_id: str, contributor: str | None) -> FeedbackRow | None:
        """The correction to show this browser; ``None`` is the operator."""
        if self.reach == "off":
            return None
        own = contributor if self.reach == "own" else None
        said = self.feedback.latest_correction(image_id, own)
        if said is None:
            return None
        last = self.feedback.latest(image_id, said.contributor)  # they may think otherwise by now
        return said if last is None or last.verdict is Verdict.CORRECTED else None

    def confirmed(
        self, image_id: str, text: str, model_version: str, contributor: str | None
    ) -> bool:
        """Whether the last answer to the picture was that this caption is right."""
        everyone = self.reach == "everyone" or contributor is None
        last = self.feedback.latest(image_id, None if everyone else contributor)
        return last is not None and last.confirms(text, model_version)
