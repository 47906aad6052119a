"""Pictures with human captions -> examples: from an imagefolder on disk, or from feedback rows.

An imagefolder is a folder of pictures with a ``metadata.csv`` beside them: a column ``file_name``
and ``caption``, ``caption_0`` … ``caption_n`` or ``text``. This is the layout that the Hub's
``datasets`` library reads, and the one that `flask feedback export` writes.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from captionapp.errors import InvalidDataset, NotFound
from captionapp.feedback.interchange import METADATA, MORE, caption_columns, numbered, table_reader
from captionapp.feedback.rows import FeedbackRow, Verdict
from captionapp.feedback.text import normalise_caption
from captionapp.image_store import ImageStore
from captionapp.training.split import Side, Sides

__all__ = [
    "Example",
    "FeedbackDataset",
    "FeedbackExample",
    "Skipped",
    "load_feedback_dataset",
    "normalise_caption",
    "read_imagefolder",
]


@dataclass(frozen=True)
class Example:
    """One picture and what people wrote about it, as they wrote it; at least one caption."""

    path: Path
    captions: tuple[str, ...]


def read_imagefolder(folder: Path, *, must_exist: bool = True) -> list[Example]:
    """All examples of an imagefolder, in the order of ``metadata.csv``.

    Empty caption cells are left out. The pictures are checked for existence, not decoded; without
    ``must_exist`` not even that, for who says of each picture that cannot be opened that it cannot.

    Raises:
        InvalidDataset: if the folder, a column, a picture or every caption of a picture is missing,
            if a picture is listed twice or lies outside the folder, or if the file is not a CSV in
            UTF-8. The message names the file and the row.
    """
    metadata = folder / METADATA
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            reader = table_reader(file)
            columns = _caption_columns(metadata, reader.fieldnames)
            examples = [
                _example(folder, f"{metadata}, row {number}", row, columns, must_exist)
                for number, row in numbered(metadata, reader)
            ]
    except FileNotFoundError as error:
        raise InvalidDataset(f"{folder} has no {METADATA}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataset(f"{metadata} cannot be read: {error}") from error
    seen: set[Path] = set()
    for example in examples:
        if example.path in seen:
            raise InvalidDataset(f"{metadata} lists {example.path.name} twice.")
        seen.add(example.path)
    return examples


def _caption_columns(metadata: Path, names: object) -> list[str]:
    """The caption columns of the header, in its order."""
    header = [str(name) for name in names] if isinstance(names, (list, tuple)) else []
    columns = caption_columns(header)
    if "file_name" not in header:
        raise InvalidDataset(f"{metadata} has no column file_name.")
    if not columns:
        raise InvalidDataset(f"{metadata} has no column caption, caption_0 and so on, or text.")
    return columns


def _example(
    folder: Path,
    where: str,
    row: Mapping[str, str],
    columns: list[str],
    must_exist: bool,
) -> Example:
    """One row of the metadata; ``where`` begins the message of an error."""
    name = row["file_name"]
    captions = tuple(text.strip() for column in columns if (text := row[column]).strip())
    if MORE in row:
        raise InvalidDataset(
            f"{where} has more cells than there are columns: is a comma not in quotation marks?"
        )
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidDataset(f"{where}: {name!r} is not the name of a file in the folder.")
    path = folder / name
    if must_exist and not path.is_file():
        raise InvalidDataset(f"{where}: there is no picture {name}.")
    if not captions:
        raise InvalidDataset(f"{where}: {name} has no caption.")
    return Example(path, captions)


@dataclass(frozen=True)
class FeedbackExample:
    """The latest answer about a stored picture.

    ``caption`` is what the person said, normalised: the target. ``said`` is what the model said,
    as it said it. An acceptance has both the same, but for the normalisation.
    """

    image_id: str
    path: Path
    caption: str
    verdict: Verdict
    said: str
    model_version: str
    side: Side
    #: The smallest id among its near-duplicates on the held-out side; its own if there are none.
    group: str = ""

    @property
    def example(self) -> Example:
        """The picture with its target, for training and evaluation."""
        return Example(self.path, (self.caption,))


@dataclass(frozen=True)
class Skipped:
    """A picture with an answer that is no example, and the sentence that says why."""

    image_id: str
    reason: str


@dataclass(frozen=True)
class FeedbackDataset:
    """The examples of both sides, in the order of ``image_id``.

    ``fingerprint`` is the SHA-256, in hex, of what they teach: equal for equal data, in whatever
    order the answers came. ``seed`` is that of the split.
    """

    train: tuple[FeedbackExample, ...]
    held_out: tuple[FeedbackExample, ...]
    skipped: tuple[Skipped, ...]
    fingerprint: str
    seed: int


def load_feedback_dataset(
    rows: Sequence[FeedbackRow], store: ImageStore, sides: Sides
) -> FeedbackDataset:
    """Feedback rows, oldest first, and stored pictures -> examples. New pictures get their side.

    The last answer about a picture counts, whoever gave it. A picture that is missing or damaged,
    has an answer without a word, or would tie the two sides together is skipped, with the reason.
    """
    latest = {row.image_id: row for row in rows}
    skipped: dict[str, str] = {}
    for image_id, row in latest.items():
        if reason := _unusable(row, store):
            skipped[image_id] = reason
    usable = sorted(set(latest) - set(skipped))
    assigned = sides.assign([(one, partial(store.load, one)) for one in usable])
    examples = []
    for image_id in usable:
        if image_id not in assigned:
            skipped[image_id] = _DAMAGED
        elif (side := assigned[image_id]) is None:
            skipped[image_id] = _TIES
        else:
            examples.append(_feedback_example(latest[image_id], store.path(image_id), side))
    held_out = [one for one in examples if one.side is Side.HELD_OUT]
    group = sides.groups_of(one.image_id for one in held_out)
    return FeedbackDataset(
        train=tuple(one for one in examples if one.side is Side.TRAIN),
        held_out=tuple(replace(one, group=group[one.image_id]) for one in held_out),
        skipped=tuple(Skipped(image_id, skipped[image_id]) for image_id in sorted(skipped)),
        fingerprint=_fingerprint(examples),
        seed=sides.seed,
    )


_DAMAGED = "The stored file of this picture is damaged."
_TIES = "It is nearly the same as pictures on both sides of the split, and stays out of both."


def _unusable(row: FeedbackRow, store: ImageStore) -> str:
    """Why the answer can be no example; empty if it can."""
    if not normalise_caption(row.feedback):
        return "The answer has no word in it."
    try:
        return "" if store.is_whole(row.image_id) else _DAMAGED
    except (NotFound, OSError):
        return "The picture is no longer stored, or cannot be read."


def _feedback_example(row: FeedbackRow, path: Path, side: Side) -> FeedbackExample:
    return FeedbackExample(
        image_id=row.image_id,
        path=path,
        caption=normalise_caption(row.feedback),
        verdict=row.verdict,
        said=row.caption,
        model_version=row.model_version,
        side=side,
    )


def _fingerprint(examples: Sequence[FeedbackExample]) -> str:
    content = sorted((one.image_id, one.caption, one.verdict, one.side) for one in examples)
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
