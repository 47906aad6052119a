"""The files that data sets travel in -> entries: an imagefolder's table, or the three old columns.

An imagefolder is a folder of pictures with a ``metadata.csv``: ``file_name``, ``caption`` or
``text`` (what a person wrote), and, if it was exported here, the rest of the answer. The three old
columns are ``image`` (a file beside the CSV), ``caption`` (what the model said) and ``feedback``
(what the person said).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captionapp.errors import InvalidDataset
from captionapp.feedback.rows import FeedbackRow, Verdict, parse
from captionapp.feedback.text import normalise_caption

METADATA = "metadata.csv"
#: Answers to pictures of METADATA that a later one replaced; the same columns.
EARLIER = "earlier.csv"
OLD_TABLE = "feedback.csv"
OLD_COLUMNS = ("image", "caption", "feedback")
#: What an imagefolder of ours has after ``file_name`` and ``caption``. Who answered is not told.
OUR_COLUMNS = (
    "id",
    "created_at",
    "image_name",
    "model_caption",
    "verdict",
    "reasons",
    "model_version",
)
#: Contributor of every imported row.
IMPORTED = "import"
#: Where the csv module puts cells beyond the last column.
MORE = "\0more"
_CAPTIONS = re.compile(r"caption(_\d+)?")
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@dataclass(frozen=True)
class Entry:
    """An answer on its way in: ``text`` is a person's, about the picture ``file`` in ``folder``.

    ``where`` names its place for a message. ``ours`` is the answer's row as it was exported, empty
    where it comes from elsewhere; nothing in it has been checked. ``problem`` says what is wrong
    with a broken one.
    """

    where: str
    folder: Path
    file: str
    text: str
    ours: Mapping[str, str]
    problem: str = ""

    def locate(self) -> Path:
        """The picture's file.

        Raises:
            InvalidDataset: if it is not a file inside the folder (a link that leads out is none),
                or the entry is broken.
        """
        if self.problem:
            raise InvalidDataset(self.problem)
        try:
            path = (self.folder / self.file).resolve()
            if not path.is_relative_to(self.folder.resolve()) or Path(self.file).is_absolute():
                raise InvalidDataset(f"{self.file!r} is not a file inside {self.folder}.")
            if not self.file or not path.is_file():
                raise InvalidDataset(f"There is no picture {self.file!r} in {self.folder}.")
        except (OSError, ValueError, RuntimeError) as error:  # names no system allows, loops
            raise InvalidDataset(f"{self.file!r} cannot be the name of a picture.") from error
        return path

    def row(self, image_id: str, image_name: str) -> FeedbackRow | None:
        """The exported row, now about ``image_id``; None if the entry is not a whole one.

        If the text was changed since, the verdict follows it.

        Raises:
            InvalidDataset: if a cell of it does not hold what its column says.
        """
        if not all(self.ours.get(name) for name in ("model_caption", "model_version", "id")):
            return None
        cells = {name: self.ours.get(name) or "" for name in OUR_COLUMNS}
        said, verdict = cells["model_caption"], cells["verdict"]
        if verdict == Verdict.ACCEPTED and normalise_caption(self.text) != normalise_caption(said):
            verdict = Verdict.CORRECTED.value
        elif verdict == Verdict.CORRECTED and self.text == said:
            verdict = Verdict.ACCEPTED.value
        text = said if verdict == Verdict.ACCEPTED else self.text
        if not _HEX_ID.fullmatch(cells["id"]):
            raise InvalidDataset("Its id is not 32 hexadecimal digits.")
        if not _STAMP.fullmatch(cells["created_at"]):
            raise InvalidDataset("Its created_at is not a moment such as 2026-01-31T12:00:00.000Z.")
        ours = (cells["id"], cells["created_at"], image_id, image_name, said, text, verdict)
        try:
            return parse([*ours, cells["reasons"], cells["model_version"], IMPORTED])
        except ValueError as error:
            raise InvalidDataset(f"Its columns do not hold an answer: {error}.") from error


def read_entries(path: Path) -> list[Entry]:
    """The answers of an imagefolder or a CSV file, those that were replaced later first.

    Of several captions of a picture (``caption_0`` …) the first counts.

    Raises:
        InvalidDataset: if there is no such table, its columns are others, or it is not a CSV in
            UTF-8. Rows and pictures are not checked yet.
    """
    if not path.is_dir():
        return list(_read(path))
    names = [name for name in (EARLIER, METADATA) if (path / name).is_file()]
    if METADATA not in names:
        names = [OLD_TABLE] if (path / OLD_TABLE).is_file() else []
    if not names:
        raise InvalidDataset(
            f"{path} has no {METADATA}. Give an imagefolder, or the CSV file itself."
        )
    return [entry for name in names for entry in _read(path / name)]


def _read(path: Path) -> Iterator[Entry]:
    if not path.is_file():
        raise InvalidDataset(f"{path} is not a file.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = table_reader(file)
            columns = _columns(path, reader.fieldnames or ())
            for number, row in numbered(path, reader):
                yield _entry(path, f"{path.name}, row {number}", row, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataset(f"{path} cannot be read as CSV in UTF-8: {error}") from error


def table_reader(file: Iterable[str]) -> csv.DictReader[str]:
    """Of a table's rows; missing cells are empty, those beyond the last column under ``MORE``. It
    is strict: else a quotation mark that is never closed makes one caption of all that follows."""
    return csv.DictReader(file, restkey=MORE, restval="", strict=True)


def numbered(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of the table in ``path`` with their numbers; the header is row 1.

    Raises:
        InvalidDataset: where the quotation marks of a row are wrong.
    """
    number = 1
    try:
        for number, row in enumerate(reader, start=2):
            yield number, row
    except csv.Error as error:
        raise InvalidDataset(
            f"{path} cannot be read as CSV after row {number}: is a quotation mark not closed, not"
            f" doubled inside of others, or is there a blank behind it? ({error})"
        ) from error


def caption_columns(header: Sequence[str]) -> list[str]:
    """Of an imagefolder's columns those with a person's caption: ``caption``, ``caption_0`` …, or
    else ``text``, which the documentation of the Hub's ``datasets`` library calls it."""
    captions = [name for name in header if _CAPTIONS.fullmatch(name)]
    return captions or [name for name in header if name == "text"]


def _columns(path: Path, header: Sequence[str]) -> list[str]:
    """The column of the file's name, then those that may hold the person's text."""
    if set(OLD_COLUMNS) <= set(header):
        return ["image", "feedback"]
    captions = caption_columns(header)
    if "file_name" in header and captions:
        return ["file_name", *captions]
    raise InvalidDataset(
        f"{path} has the columns {', '.join(header)[:200] or '(none)'}; needed are file_name and"
        f" caption (or text), or {', '.join(OLD_COLUMNS)}."
    )


def _entry(path: Path, where: str, row: Mapping[str, str], columns: Sequence[str]) -> Entry:
    file, *texts = (row[name] for name in columns)
    text = next((text for text in texts if text.strip()), "")
    problem = "" if text else "There is no text for it."
    if MORE in row:
        problem = "It has more cells than there are columns: is a comma not in quotation marks?"
    ours = row if columns[0] == "file_name" else {}
    if text and _is_unanswered(text, ours):
        problem = "Nobody has said yet whether this description is right."
    return Entry(f"{where}: {file[:200]}", path.parent, file, text, ours, problem)


def _is_unanswered(text: str, ours: Mapping[str, str]) -> bool:
    """Whether it is what the model said, taken along without an answer; changed, it is one."""
    said = ours.get("model_caption")
    return (
        said is not None
        and ours.get("verdict") == ""
        and normalise_caption(text) == normalise_caption(said)
    )
