"""Versions and reports as they lie in the instance folder, without a model in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captionapp.training import compare
from captionapp.training.compare import Judged, Report, save_report
from captionapp.training.evaluate import Figures
from captionapp.votes import Tally


def add_version(instance: Path, name: str, parent: str = "", **values: Any) -> Path:
    """A trained version of this name; ``values`` go over its metadata."""
    folder = instance / "models" / name
    folder.mkdir(parents=True)
    details: dict[str, Any] = {"parent": parent, "data": {"corrected": 30}, "seconds": 90}
    described = {"origin": "trained", "created_at": "2026-11-01T10:00:00Z", "source": parent}
    (folder / "version.json").write_text(json.dumps(described | {"details": details} | values))
    return folder


def figures(**values: Any) -> Figures:
    given = dict.fromkeys(("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"), 0.5)
    counts = {"pictures": 3, "empty": 0, "repeating": 0, "exact": 1}
    rest = {"cider": 1.5, "distinct": 1.0, "mean_words": 4.0, "edit_distance": 1.25}
    return Figures(**(given | counts | rest | values))


def report(
    candidate: str,
    current: str,
    pictures: Sequence[tuple[str, str, str, str]],
    scores: Sequence[tuple[float, float]],
    **values: Any,
) -> Report:
    """Of (image_id, reference, candidate's, current's caption) and their (candidate, current)
    scores."""
    judged = [
        Judged(image_id, (said,), before, after) for image_id, said, after, before in pictures
    ]
    results = compare.results(judged, [one[1] for one in scores], [one[0] for one in scores])
    given: dict[str, Any] = {
        "candidate": candidate,
        "current": current,
        "source": "held-out answers",
        "pictures": len(results),
        "compared": len(results),
        "candidate_figures": figures(),
        "current_figures": figures(cider=0.5),
        "distinct_references": 1.0,
        "probability_better": 0.99,
        "verdict": "better",
        "slices": compare.slices(results),
        "results": results,
        "retained": None,
        "votes": Tally(),
        "data_fingerprint": "f" * 64,
        "created_at": "2026-11-02T10:00:00Z",
    }
    return Report(**(given | values))


def keep(instance: Path, made: Report) -> None:
    """Keep the report with its candidate, which has to be there."""
    save_report(made, instance / "models" / made.candidate / compare.REPORT_FILE)
