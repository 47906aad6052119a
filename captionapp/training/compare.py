"""Two versions on the same pictures: who is better, how sure that is, and on which pictures.

The figures decide nothing here; ``captionapp.promotion`` does.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from captionapp import atomic
from captionapp.captioning.versions import ModelVersion
from captionapp.training.evaluate import Figures, edit_distance, exact_match, normalise_text
from captionapp.votes import Tally

Outcome = Literal["win", "tie", "loss"]
Judgement = Literal["better", "not better", "cannot tell"]

REPORT_FILE = "evaluation.json"
#: Resamples of the bootstrap: the standard error of a probability of 0.95 is 0.002 then.
RESAMPLES = 10_000
SEED = 0
#: CIDEr (0 to 10) by which two captions of a picture must differ for one of them to win.
TIE = 1e-6
#: Standard deviation of the grey values, 0 to 127.5, under which a picture counts as blank or of
#: low contrast: one photograph in a hundred (measured on the 1,000 of Flickr8k's dev set).
LOW_CONTRAST = 25.0

_PEOPLE = frozenset(
    "man men woman women boy boys girl girls child children kid kids baby babies toddler toddlers "
    "person persons people lady ladies guy guys gentleman adult adults teenager teenagers youth "
    "crowd family couple player players worker workers bride groom".split()
)
_COUNTS = frozenset(
    "two three four five six seven eight nine ten eleven twelve both pair couple several many few "
    "group crowd dozen".split()
)
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Judged:
    """A picture with what people say of it and what two versions said; input of a comparison.

    ``image_id`` is a picture's id, or its file's name in a folder. ``verdict`` is what a person
    said of its caption before, ``accepted`` or ``corrected``; empty if nobody was asked.
    ``contrast`` is the standard deviation of its grey values, 0 to 127.5.
    """

    image_id: str
    references: tuple[str, ...]
    current: str
    candidate: str
    verdict: str = ""
    contrast: float = 127.5


@dataclass(frozen=True)
class PictureResult:
    """One picture: both captions, the CIDEr (0 to 10) of each, and who won."""

    image_id: str
    references: tuple[str, ...]
    current: str
    candidate: str
    current_score: float
    candidate_score: float
    outcome: Outcome
    #: Names of the slices that the picture belongs to.
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceFigures:
    """Some of the pictures: mean CIDEr, exact matches and mean edit distance (words) of both."""

    pictures: int
    current_cider: float
    candidate_cider: float
    current_exact: int
    candidate_exact: int
    current_edit_distance: float
    candidate_edit_distance: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Retained:
    """What the candidate must not forget: captions of pictures nobody corrected."""

    source: str
    pictures: int
    current_figures: Figures
    candidate_figures: Figures

    @property
    def loss(self) -> float:
        """Share of the current version's CIDEr that the candidate lacks; negative if it gained."""
        before = self.current_figures.cider
        return 1 - self.candidate_figures.cider / before if before else 0.0

    @property
    def change(self) -> float:
        """The same to be shown: negative if it lost, and never a zero with a minus."""
        return 0.0 - self.loss


@dataclass(frozen=True)
class Report:
    """A candidate against the version that was current, on the same pictures.

    ``pictures`` were captioned; ``probability_better`` is about the held-out corrections, or all
    pictures of a folder that was given: ``compared`` of them, where near-duplicates count as one.
    It is None if they are fewer than the setting asks for. ``refusals`` are the gate's reasons,
    empty if it would let the candidate pass. ``options`` are those of the decoding.
    """

    candidate: str
    current: str
    source: str
    pictures: int
    compared: int
    candidate_figures: Figures
    current_figures: Figures
    #: Different first references over pictures: corrections may all say the same.
    distinct_references: float
    probability_better: float | None
    verdict: Judgement
    slices: dict[str, SliceFigures]
    results: tuple[PictureResult, ...]
    retained: Retained | None
    votes: Tally
    data_fingerprint: str
    created_at: str
    options: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    #: Pictures that could not be read.
    skipped: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Pictures with this outcome."""
        return sum(result.outcome == outcome for result in self.results)

    def of(self, outcome: Outcome) -> list[PictureResult]:
        """Results with this outcome, the largest difference first."""
        chosen = [result for result in self.results if result.outcome == outcome]
        return sorted(chosen, key=lambda r: -abs(r.candidate_score - r.current_score))


def save_report(report: Report, path: Path) -> None:
    """Write the report as JSON, whole or not at all, into a folder that is there: that of a version
    which was pruned meanwhile is not to come back.

    Raises:
        OSError: if it could not be written.
    """
    from pydantic import TypeAdapter

    atomic.write(path, TypeAdapter(Report).dump_json(report, indent=1))


def read_report(path: Path) -> Report | None:
    """The report in a file; None if there is none, or one of another form."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Report).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def load_report(version: ModelVersion) -> Report | None:
    """The last report that was kept with a version as the candidate; None if there is none.

    Reports of versions that are not in the instance folder are found by ``Promotion.report``.
    """
    return read_report(version.folder / REPORT_FILE)


def probability_better(differences: Sequence[float], resamples: int = RESAMPLES) -> float:
    """Share of bootstrap resamples of the pictures in which the candidate's mean is the higher.

    ``differences`` are candidate minus current, one a picture: the bootstrap is paired (Koehn
    2004). Their CIDEr was computed once, with document frequencies of the whole set, so that a
    resample that repeats a picture does not change what its words are worth. A resample without a
    difference counts half. Seeded: the same differences give the same answer.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise ValueError("there is nothing to resample")
    generator = np.random.default_rng(SEED)
    better = 0.0
    for start in range(0, resamples, 500):  # not all at once: 500 x pictures numbers are in memory
        size = (min(500, resamples - start), len(values))
        means = values[generator.integers(0, len(values), size)].mean(axis=1)
        better += (means > 1e-12).sum() + 0.5 * (np.abs(means) <= 1e-12).sum()
    return float(better / resamples)


def judgement(probability: float | None, wanted: float) -> Judgement:
    """The probability as a word; ``wanted`` is the setting."""
    if probability is None:
        return "cannot tell"
    return "better" if probability >= wanted else "not better"


def results(
    pictures: Sequence[Judged], current: Sequence[float], candidate: Sequence[float]
) -> tuple[PictureResult, ...]:
    """Pictures and the CIDEr of both captions of each, in the same order, as results."""
    return tuple(
        PictureResult(
            image_id=picture.image_id,
            references=picture.references,
            current=picture.current,
            candidate=picture.candidate,
            current_score=before,
            candidate_score=after,
            outcome="tie" if abs(after - before) < TIE else "win" if after > before else "loss",
            slices=tuple(name for name, belongs in SLICES.items() if belongs(picture)),
        )
        for picture, before, after in zip(pictures, current, candidate, strict=True)
    )


def slice_figures(chosen: Iterable[PictureResult]) -> SliceFigures:
    """Figures of some results, at least one."""
    rows = list(chosen)

    def distance(said: Callable[[PictureResult], str]) -> float:
        return statistics.fmean(edit_distance(said(row), row.references) for row in rows)

    return SliceFigures(
        pictures=len(rows),
        current_cider=statistics.fmean(row.current_score for row in rows),
        candidate_cider=statistics.fmean(row.candidate_score for row in rows),
        current_exact=sum(exact_match(row.current, row.references) for row in rows),
        candidate_exact=sum(exact_match(row.candidate, row.references) for row in rows),
        current_edit_distance=distance(lambda row: row.current),
        candidate_edit_distance=distance(lambda row: row.candidate),
        wins=sum(row.outcome == "win" for row in rows),
        ties=sum(row.outcome == "tie" for row in rows),
        losses=sum(row.outcome == "loss" for row in rows),
    )


def slices(rows: Sequence[PictureResult]) -> dict[str, SliceFigures]:
    """Figures of every slice that has a picture, in the order of ``SLICES``."""
    parts = {name: [row for row in rows if name in row.slices] for name in SLICES}
    return {name: slice_figures(part) for name, part in parts.items() if part}


def _mentions(words: frozenset[str]) -> Callable[[Judged], bool]:
    return lambda picture: any(
        word in words for text in picture.references for word in normalise_text(text).split()
    )


def _counts(picture: Judged) -> bool:
    words = [word for text in picture.references for word in normalise_text(text).split()]
    return any(word in _COUNTS or _NUMBER.fullmatch(word) for word in words)


#: What pictures are looked at apart, by name. People and counts are what the references mention.
SLICES: Mapping[str, Callable[[Judged], bool]] = {
    "accepted before": lambda picture: picture.verdict == "accepted",
    "corrected": lambda picture: picture.verdict == "corrected",
    "low contrast": lambda picture: picture.contrast < LOW_CONTRAST,
    "people": _mentions(_PEOPLE),
    "counts": _counts,
}
