"""Pictures with a table beside them, and bringing them in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from captionapp.feedback.interchange import read_entries
from captionapp.feedback.transfer import Imported
from captionapp.workflow import Workflow
from tests.conftest import draw, encoded

COLOURS = ("red", "green", "blue", "white", "black", "pink", "orange", "cyan", "brown", "gold")


def drawn(folder: Path) -> Path:
    """Pictures red.png, green.png and so on; no table yet."""
    folder.mkdir()
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(encoded(draw(colour)))
    return folder


def table(folder: Path, rows: Sequence[Sequence[str]], name: str = "metadata.csv") -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def metadata(folder: Path, *rows: tuple[str, str]) -> Path:
    table(folder, [("file_name", "caption"), *rows])
    return folder


def bring_in(workflow: Workflow, path: Path) -> list[Imported]:
    return list(workflow.import_feedback(read_entries(path)))


def outcomes(results: Sequence[Imported]) -> list[str]:
    return [one.outcome for one in results]
