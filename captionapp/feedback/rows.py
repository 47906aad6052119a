"""One answer of a person: its fields, their form in the file, and what many of them add up to."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from enum import StrEnum

from captionapp.errors import InvalidFeedback

#: Longest cell that is written; the csv module refuses to read more than 131,072 characters.
MAX_CELL = 100_000
#: A contributor that cannot be the beginning of a longer one.
_WHOLE_CONTRIBUTOR = re.compile(r"[0-9a-f]{32}|import")


class Verdict(StrEnum):
    """What a person said about a caption."""

    ACCEPTED = "accepted"
    CORRECTED = "corrected"


class Reason(StrEnum):
    """What was wrong with a caption."""

    INACCURATE = "inaccurate"
    ASSUMPTIVE = "assumptive"
    MISSING_DETAILS = "missing-details"
    TOO_LONG = "too-long"
    HARD_TO_READ = "hard-to-read"
    WRONG_TONE = "wrong-tone"


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """A row of feedback.csv; the fields are its columns, in their order.

    ``id`` is a uuid4 in hex, ``created_at`` ISO 8601 in UTC with ``Z``; ``caption`` is what the
    model said, ``feedback`` what the person said, the same text when accepted.
    """

    id: str
    created_at: str
    image_id: str
    image_name: str
    caption: str
    feedback: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    model_version: str
    contributor: str

    def confirms(self, caption: str, model_version: str) -> bool:
        """Whether it says of this caption, by this version, that it is right."""
        said = (self.caption, self.model_version)
        return self.verdict is Verdict.ACCEPTED and said == (caption, model_version)


COLUMNS = tuple(field.name for field in fields(FeedbackRow))
HEADER = ",".join(COLUMNS).encode()


def cells(row: FeedbackRow) -> list[str]:
    """The row as the ten strings of the file."""
    values = [*astuple(row)]
    values[COLUMNS.index("verdict")] = row.verdict.value
    values[COLUMNS.index("reasons")] = ";".join(row.reasons)
    return values


def parse(values: Sequence[str]) -> FeedbackRow:
    """The row of ten strings; ValueError if they are not one."""
    if len(values) != len(COLUMNS):
        raise ValueError(f"{len(values)} columns, expected {len(COLUMNS)}")
    for value in values:
        value.encode()  # bytes that are not UTF-8 were read as lone surrogates
    row = dict(zip(COLUMNS, values, strict=True))
    if not row["id"] or not row["image_id"]:
        raise ValueError("no id or no image_id")
    datetime.fromisoformat(row["created_at"])
    given = [reason for reason in row["reasons"].split(";") if reason]
    return FeedbackRow(
        **{name: row[name] for name in COLUMNS if name not in ("verdict", "reasons")},
        verdict=Verdict(row["verdict"]),
        reasons=tuple(Reason(reason) for reason in given),
    )


def encode(rows: Iterable[FeedbackRow]) -> bytes:
    """The rows as RFC 4180, UTF-8. InvalidFeedback for what would not be read back the same."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    for row in rows:
        values = cells(row)
        for name, value in zip(COLUMNS, values, strict=True):
            _refuse_unfaithful(name, value)
        parse(values)
        writer.writerow(values)
    return buffer.getvalue().encode()


def _refuse_unfaithful(name: str, value: str) -> None:
    if "\0" in value:
        raise InvalidFeedback(f"The {name} contains a NUL character, which cannot be kept.")
    if len(value) > MAX_CELL:
        raise InvalidFeedback(f"The {name} has more than {MAX_CELL} characters.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidFeedback(f"The {name} contains half a character (a surrogate).") from error


@dataclass(frozen=True)
class Record:
    """Cells that the csv module read as one record, and where it ends in the bytes given."""

    cells: list[str] | None  # None if it is not CSV
    end: int
    complete: bool  # ended by a line end outside quotes
    quoted: bool  # the data ended inside quotes


def records(data: bytes) -> Iterator[Record]:
    """Split ``data`` into records exactly as the csv module does, with the offset of their ends.

    The module asks for another line only while a record is inside quotes, so what it has taken
    when it hands out a record is that record: a newline in quotes is never mistaken for an end.
    """
    end = 0
    ended = False
    last = b""

    def lines() -> Iterator[str]:
        nonlocal end, ended, last
        for line in io.BytesIO(data):
            end += len(line)
            last = line
            yield line.decode(errors="surrogateescape")
        ended = True

    reader = csv.reader(lines())
    while True:
        try:
            values: list[str] | None = next(reader)
        except StopIteration:
            return
        except csv.Error:
            values = None
        yield Record(values, end, not ended and last.endswith(b"\n"), ended)


def completed_by_line_end(record: Record) -> bool:
    """Whether a last record lacks nothing but its line end, as after editing by hand.

    A row torn inside its last cell has ten columns as well, so that cell must be a whole one.
    """
    return not record.quoted and (record.cells == list(COLUMNS) or _is_whole_row(record))


def holds_whole_rows(torn: bytes) -> bool:
    """Whether whole rows start at a line behind the first: then it is not one torn row."""
    start = torn.find(b"\n") + 1
    while start:
        record = next(records(torn[start : start + MAX_CELL]), None)
        if record and record.complete and _is_whole_row(record):
            return True
        start = torn.find(b"\n", start) + 1
    return False


def _is_whole_row(record: Record) -> bool:
    if record.cells is None:
        return False
    try:
        row = parse(record.cells)
    except ValueError:
        return False
    return bool(_WHOLE_CONTRIBUTOR.fullmatch(row.contributor))


@dataclass(frozen=True)
class FeedbackStats:
    """What the rows add up to. ``acceptance_rate`` is accepted / rows, None without rows;
    ``first`` and ``last`` are the earliest and latest ``created_at``."""

    rows: int
    pictures: int
    accepted: int
    corrected: int
    by_reason: dict[Reason, int]
    by_model_version: dict[str, int]
    acceptance_rate: float | None
    first: str | None
    last: str | None


def summarise(rows: Sequence[FeedbackRow]) -> FeedbackStats:
    """Count the rows."""
    accepted = sum(row.verdict is Verdict.ACCEPTED for row in rows)
    by_version: dict[str, int] = {}
    for row in rows:
        by_version[row.model_version] = by_version.get(row.model_version, 0) + 1
    dates = sorted(row.created_at for row in rows)
    return FeedbackStats(
        rows=len(rows),
        pictures=len({row.image_id for row in rows}),
        accepted=accepted,
        corrected=len(rows) - accepted,
        by_reason={reason: sum(reason in row.reasons for row in rows) for reason in Reason},
        by_model_version=by_version,
        acceptance_rate=accepted / len(rows) if rows else None,
        first=dates[0] if dates else None,
        last=dates[-1] if dates else None,
    )
