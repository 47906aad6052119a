"""The gate: what a report has against a trained version that is to be served.

Each check gives its reasons as parts of one sentence; nothing is known here but the report and the
settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from captionapp.settings import Settings
from captionapp.training.compare import Report
from captionapp.training.evaluate import Figures

#: A candidate whose share of distinct captions is under this part of what it was has collapsed.
DISTINCT_KEPT = 0.5
#: Fewer accepted pictures than these show nothing.
MIN_ACCEPTED = 5


def refusals(report: Report, settings: Settings) -> tuple[str, ...]:
    """Why the gate does not let the candidate pass; empty if it does."""
    return (
        *_not_better(report, settings),
        *_forgetful(report, settings),
        *_worse_where_accepted(report, settings),
        *_collapsed(report),
        *_not_voted_for(report, settings),
    )


def described(report: Report) -> str:
    """What a report says for a candidate, for the history."""
    said = f"better on {report.compared} held-out corrections with probability "
    said += f"{report.probability_better or 0:.3f}"
    if report.retained:
        said += f", CIDEr of {report.retained.pictures} retained pictures "
        said += f"{report.retained.change:+.1%}"
    return said


def _not_better(report: Report, settings: Settings) -> Sequence[str]:
    if report.verdict == "better":
        return ()
    if report.probability_better is None:
        return (
            f"it cannot be told whether it is better: {report.compared} held-out corrections, and "
            f"{settings.min_held_out} are needed (CAPTIONAPP_MIN_HELD_OUT)",
        )
    corrected = report.slices["corrected"]
    return (
        f"it is not shown to be better on {report.compared} held-out corrections: CIDEr "
        f"{corrected.candidate_cider:.3f} against {corrected.current_cider:.3f}, better with "
        f"probability {report.probability_better:.3f}, and "
        f"{settings.promote_probability:g} is asked for (CAPTIONAPP_PROMOTE_PROBABILITY)",
    )


def _forgetful(report: Report, settings: Settings) -> Sequence[str]:
    if report.retained is None:
        return (
            "nothing says whether it has forgotten what it knew: no retained pictures are known; "
            "name a folder with --retained DIR or CAPTIONAPP_RETAIN, or override this with "
            "--force REASON",
        )
    if report.retained.pictures < settings.min_retained:
        return (
            f"{report.retained.pictures} retained pictures do not show whether it has forgotten "
            f"what it knew: {settings.min_retained} are needed (CAPTIONAPP_MIN_RETAINED)",
        )
    if not report.retained.current_figures.cider:
        return (
            f"{report.current} has a CIDEr of 0 on {report.retained.pictures} retained pictures: "
            "nothing shows what was lost; name another folder with --retained DIR",
        )
    if report.retained.loss <= settings.max_retained_loss:
        return ()
    return (
        f"it is worse on {report.retained.pictures} retained pictures: CIDEr "
        f"{report.retained.candidate_figures.cider:.3f} against "
        f"{report.retained.current_figures.cider:.3f}, {report.retained.loss:.1%} less, and at "
        f"most {settings.max_retained_loss:.1%} is allowed (CAPTIONAPP_MAX_RETAINED_LOSS)",
    )


def _worse_where_accepted(report: Report, settings: Settings) -> Sequence[str]:
    """Other words may be right as well, so more may be lost there than elsewhere."""
    accepted = report.slices.get("accepted before")
    if accepted is None or accepted.pictures < MIN_ACCEPTED or not accepted.current_cider:
        return ()
    loss = 1 - accepted.candidate_cider / accepted.current_cider
    if loss <= settings.max_accepted_loss:
        return ()
    return (
        f"it says something else of {accepted.pictures} pictures whose captions people accepted: "
        f"CIDEr {accepted.candidate_cider:.3f} against {accepted.current_cider:.3f}, {loss:.1%} "
        f"less, and at most {settings.max_accepted_loss:.1%} is allowed "
        "(CAPTIONAPP_MAX_ACCEPTED_LOSS)",
    )


def _collapsed(report: Report) -> Sequence[str]:
    """Corrections may all say the same; then captions may, too."""

    def reason(where: str, candidate: Figures, wanted: float) -> Sequence[str]:
        if candidate.distinct >= DISTINCT_KEPT * wanted:
            return ()
        return (
            f"it says the same of many pictures: {candidate.distinct:.0%} of its captions of "
            f"{candidate.pictures} {where} are distinct, where {wanted:.0%} were",
        )

    wanted = min(report.current_figures.distinct, report.distinct_references)
    found = [*reason("held-out pictures", report.candidate_figures, wanted)]
    if report.retained:
        before = report.retained.current_figures.distinct
        found += reason("retained pictures", report.retained.candidate_figures, before)
    return found


def _not_voted_for(report: Report, settings: Settings) -> Sequence[str]:
    votes = report.votes
    if not settings.min_votes:
        return ()
    if votes.decided < settings.min_votes:
        return (
            f"{votes.decided} blind votes preferred one of the two, and {settings.min_votes} are "
            "needed (CAPTIONAPP_MIN_VOTES)",
        )
    if votes.candidate <= votes.current:
        return (
            f"people preferred it {votes.candidate} times in blind votes, and "
            f"{report.current} {votes.current} times",
        )
    return ()
