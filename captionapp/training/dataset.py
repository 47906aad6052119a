"""Pictures with human captions: an imagefolder on disk -> examples.

An imagefolder is a folder of pictures with a ``metadata.csv`` beside them: a column ``file_name``
and either ``caption`` or ``caption_0`` … ``caption_n``. This is the layout that the Hub's
``datasets`` library reads, and the one that `flask feedback export` writes.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from captionapp.errors import InvalidDataset

METADATA = "metadata.csv"
_CAPTION_COLUMN = re.compile(r"caption(_\d+)?")


@dataclass(frozen=True)
class Example:
    """One picture and what people wrote about it, as they wrote it; at least one caption."""

    path: Path
    captions: tuple[str, ...]


def normalise_caption(text: str) -> str:
    """The form that the model learns: lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).rstrip(" .")


def read_imagefolder(folder: Path) -> list[Example]:
    """All examples of an imagefolder, in the order of ``metadata.csv``.

    Empty caption cells are left out. The pictures are checked for existence, not decoded.

    Raises:
        InvalidDataset: if the folder, a column, a picture or every caption of a picture is missing,
            if a picture is listed twice or lies outside the folder, or if the file is not a CSV in
            UTF-8. The message names the file and the row.
    """
    metadata = folder / METADATA
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = _caption_columns(metadata, reader.fieldnames)
            examples = [
                _example(folder, f"{metadata}, row {number}", row, columns)
                for number, row in enumerate(reader, start=2)
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
    columns = [name for name in header if _CAPTION_COLUMN.fullmatch(name)]
    if "file_name" not in header:
        raise InvalidDataset(f"{metadata} has no column file_name.")
    if not columns:
        raise InvalidDataset(f"{metadata} has no column caption, nor caption_0 and so on.")
    return columns


def _example(folder: Path, where: str, row: dict[str, str | None], columns: list[str]) -> Example:
    """One row of the metadata; ``where`` begins the message of an error."""
    name = row["file_name"] or ""
    captions = tuple(text.strip() for column in columns if (text := row[column]) and text.strip())
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidDataset(f"{where}: {name!r} is not the name of a file in the folder.")
    path = folder / name
    if not path.is_file():
        raise InvalidDataset(f"{where}: there is no picture {name}.")
    if not captions:
        raise InvalidDataset(f"{where}: {name} has no caption.")
    return Example(path, captions)
