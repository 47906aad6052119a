"""The blind comparison: two captions of a picture, in an order that only the server knows."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from captionapp.training.compare import PictureResult, Report
from captionapp.votes import Votes


@dataclass(frozen=True)
class Pair:
    """Two captions as a browser sees them, and the versions that they are of."""

    image_id: str
    version_a: str
    caption_a: str
    version_b: str
    caption_b: str


class Comparison:
    """One browser compares the versions of a report. ``key`` is the application's secret."""

    def __init__(self, report: Report, votes: Votes, contributor: str, key: str) -> None:
        self.report = report
        self.votes = votes
        self.contributor = contributor
        self._key = key.encode()
        #: The pictures whose captions differ; about the others there is nothing to say.
        self.results = [one for one in report.results if one.current != one.candidate]

    @property
    def mark(self) -> str:
        """Tells these versions and captions from others: a vote on others does not count here."""
        said = [(one.image_id, one.current, one.candidate) for one in self.results]
        content = repr((self.report.candidate, self.report.current, said))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def voted(self) -> set[str]:
        """Of the pictures to compare, those on which this browser has."""
        its = self.votes.voted(self.contributor, self.report.candidate, self.report.current)
        return its & {one.image_id for one in self.results}

    def left(self, is_there: Callable[[str], bool]) -> Iterator[Pair]:
        """Pairs that this browser has not judged, in an order of its own; ``is_there`` says
        whether the picture can still be shown."""
        voted = self.voted
        for result in sorted(self.results, key=lambda one: self._digest("order", one.image_id)):
            if result.image_id not in voted and is_there(result.image_id):
                yield self._shown(result)

    def pair(self, image_id: str) -> Pair | None:
        """The pair of a picture; None if it is not among those to compare."""
        found = next((one for one in self.results if one.image_id == image_id), None)
        return self._shown(found) if found else None

    def _shown(self, result: PictureResult) -> Pair:
        """The candidate first or second, at random, but for one browser always the same: what was
        voted for is what was shown, without anything in the page that tells."""
        candidate = (self.report.candidate, result.candidate)
        current = (self.report.current, result.current)
        candidate_first = self._digest("side", result.image_id)[0] & 1
        first, second = (candidate, current) if candidate_first else (current, candidate)
        return Pair(result.image_id, *first, *second)

    def _digest(self, purpose: str, image_id: str) -> bytes:
        parts = (purpose, self.contributor, self.report.candidate, self.report.current, image_id)
        return hmac.digest(self._key, "\0".join(parts).encode(), "sha256")
