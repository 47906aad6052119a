"""``feedback.csv``: every answer of a person, appended by many processes, read by all.

An append holds an inter-process lock, puts right what a killed writer left, writes the whole row
at once and returns after fsync. Readers take no lock: they read complete records only. Where a
record ends is decided by the csv module itself (``rows.records``), from the last known end on.
"""

import csv
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

from filelock import FileLock, Timeout

from captionapp import atomic
from captionapp.errors import FeedbackStoreError, InvalidFeedback
from captionapp.feedback.rows import (
    COLUMNS,
    HEADER,
    FeedbackRow,
    FeedbackStats,
    Reason,
    Record,
    Verdict,
    cells,
    completed_by_line_end,
    encode,
    holds_whole_rows,
    parse,
    records,
    summarise,
)
from captionapp.feedback.text import clean_correction, neutralise
from captionapp.sentences import Sentence

__all__ = [
    "COLUMNS",
    "CsvFeedbackRepository",
    "FeedbackRow",
    "FeedbackStats",
    "Reason",
    "Verdict",
    "clean_correction",
    "neutralise",
]

log = logging.getLogger(__name__)

LOCK_SECONDS = 30
_BOM = b"\xef\xbb\xbf"
#: Bytes before the known end that are compared to see that the file only grew.
_ANCHOR = 256


@dataclass
class _Index:
    """What has been read so far: ``end`` is the offset after the last complete record."""

    file: tuple[int, int] = (0, 0)  # device, inode
    seen: tuple[int, int] = (0, 0)  # size, modification time in ns
    end: int = 0
    anchor: bytes = b""
    rows: list[FeedbackRow] = field(default_factory=list)
    by_image: dict[str, list[FeedbackRow]] = field(default_factory=dict)

    def add(self, row: FeedbackRow) -> None:
        self.rows.append(row)
        self.by_image.setdefault(row.image_id, []).append(row)


class CsvFeedbackRepository:
    """The answers in the CSV file ``path``, which is made with its header on the first append.

    Safe to use from many threads and many processes. ``<path>.lock`` is the lock beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._index = _Index()

    def append(self, row: FeedbackRow) -> None:
        """Append one row; it is on the disk when this returns.

        Raises:
            InvalidFeedback: the row could not be read back as it is (NUL, lone surrogates).
            FeedbackStoreError: it could not be written; then the file is as it was.
        """
        self.extend([row])

    def extend(self, rows: Iterable[FeedbackRow]) -> None:
        """Append several rows under one lock with one fsync; raises as ``append`` does.

        A process that is killed meanwhile may leave some of them, each of them whole.
        """
        try:
            data = encode(rows)
        except InvalidFeedback:
            raise
        except ValueError as error:
            raise InvalidFeedback(f"The answer is not one that can be kept: {error}.") from error
        if not data:
            return
        with self._locked(), self._open_to_write() as file:
            end = self._settle(file)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                # Back to what it was, so that no half row and no unacknowledged one remains.
                file.truncate(end)
                with suppress(OSError):
                    os.fsync(file.fileno())
                raise

    def rows(self) -> list[FeedbackRow]:
        """All rows in the order of the file; FeedbackStoreError if it cannot be read.

        Records that are no rows (damaged by hand) are left out, with a warning in the log.
        """
        self._refresh()
        with self._reading:
            return list(self._index.rows)

    def latest(self, image_id: str, contributor: str | None = None) -> FeedbackRow | None:
        """The last answer about a picture, of one contributor if given."""
        return next(iter(self._newest_first(image_id, contributor)), None)

    def latest_correction(
        self, image_id: str, contributor: str | None = None
    ) -> FeedbackRow | None:
        """The last answer about a picture that corrected its caption."""
        answers = self._newest_first(image_id, contributor)
        return next((row for row in answers if row.verdict is Verdict.CORRECTED), None)

    def image_ids(self) -> set[str]:
        """The pictures that have an answer."""
        self._refresh()
        with self._reading:
            return set(self._index.by_image)

    def stats(self) -> FeedbackStats:
        """What all rows add up to."""
        return summarise(self.rows())

    def write_for_spreadsheets(
        self, stream: TextIO, rows: Iterable[FeedbackRow] | None = None
    ) -> None:
        """Write the rows, or all there are, as CSV in which no cell can run as a formula.

        ``stream`` must not translate newlines (``newline=""``); Excel recognises UTF-8 only by a
        byte order mark (``encoding="utf-8-sig"``).
        """
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in self.rows() if rows is None else rows:
            writer.writerow([neutralise(cell) for cell in cells(row)])

    def _newest_first(self, image_id: str, contributor: str | None) -> list[FeedbackRow]:
        self._refresh()
        with self._reading:
            answers = self._index.by_image.get(image_id, [])
            return [row for row in reversed(answers) if contributor in (None, row.contributor)]

    # Reading

    def _refresh(self) -> None:
        """Bring the index up to date with the file."""
        try:
            with open(self.path, "rb") as file:
                rest = self._read_on(file)
        except FileNotFoundError:
            with self._reading:
                self._index = _Index()
            return
        except OSError as error:
            raise FeedbackStoreError(
                f"{self.path.name} cannot be read: {error.strerror}."
            ) from error
        if rest:
            self._repair()

    def _repair(self) -> None:
        """Settle what follows the last complete record: once no writer is at it, it is torn."""
        try:
            with self._locked(), self._open_to_write() as file:
                self._settle(file)
        except FeedbackStoreError as error:
            log.warning("The last row of %s is incomplete and left alone: %s", self.path, error)

    def _read_on(self, file: BinaryIO) -> bytes:
        """Index the complete records that came since; return the bytes after the last of them."""
        with self._reading:
            status = os.fstat(file.fileno())
            if not self._only_grew(file, status):
                self._index = _Index(file=(status.st_dev, status.st_ino))
            index = self._index
            seen = (status.st_size, status.st_mtime_ns)
            if index.seen == seen and index.end == status.st_size:
                return b""
            file.seek(index.end)
            data = file.read()
            start = index.end
            used = 0
            if start == 0:
                used = self._header_end(data)
            skip = used
            for record in records(data[skip:]):
                if not record.complete:
                    break
                used = skip + record.end
                self._add(record, start + used)
            if used:
                index.anchor = (index.anchor + data[:used])[-_ANCHOR:]
            index.end = start + used
            index.seen = seen
            return data[used:]

    def _only_grew(self, file: BinaryIO, status: os.stat_result) -> bool:
        index = self._index
        if index.file != (status.st_dev, status.st_ino) or status.st_size < index.end:
            return False
        seen = (status.st_size, status.st_mtime_ns)
        if seen == index.seen:
            return True
        if status.st_size == index.end and index.end:
            return False  # as long as before, but written to
        file.seek(index.end - len(index.anchor))
        return file.read(len(index.anchor)) == index.anchor

    def _header_end(self, data: bytes) -> int:
        """Length of the header with its line end, 0 if only the line end is missing."""
        start = len(_BOM) if data.startswith(_BOM) else 0
        if not data:
            return 0
        header = next(records(data[start:]), None)
        if header is None or header.cells != list(COLUMNS):
            raise FeedbackStoreError(
                f"{self.path.name} does not begin with the columns {','.join(COLUMNS)}, so it is"
                " left alone. Move it away, or put the header back."
            )
        return start + header.end if header.complete else 0

    def _add(self, record: Record, end: int) -> None:
        if not record.cells:
            if record.cells is None:
                log.warning("Record before byte %d of %s left out: not CSV", end, self.path)
            return  # an empty line
        try:
            self._index.add(parse(record.cells))
        except ValueError as error:
            log.warning("Record before byte %d of %s left out: %s", end, self.path, error)

    # Writing

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock of this process's threads, then that of all processes."""
        # Not shared between threads and not kept: a lock object remembers its file descriptor.
        lock = FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS, poll_interval=0.005)
        try:
            with self._writing:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with lock:
                    yield
        except Timeout as error:
            log.error("No lock on %s for %d s", self.path, LOCK_SECONDS)
            raise FeedbackStoreError(_not_kept(Sentence("the file is in use"))) from error
        except OSError as error:
            log.error("Writing %s failed: %s", self.path, error)
            why = error.strerror or type(error).__name__
            raise FeedbackStoreError(_not_kept(why)) from error

    def _open_to_write(self) -> BinaryIO:
        """The file, made with its header if there is none; call it with the lock held."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            atomic.write(self.path, HEADER + b"\r\n")
        return open(self.path, "r+b", buffering=0)

    def _settle(self, file: BinaryIO) -> int:
        """Make the file end with a complete record and stand at its end; return that length.

        Call it with the lock held, so that no writer is at work.
        """
        rest = self._read_on(file)
        end = file.seek(0, os.SEEK_END)
        if not rest:
            return end
        # A whole row that lacks its line end has been edited by hand, or torn at the very end.
        data = rest.removeprefix(_BOM)
        last = list(records(data))[-1]
        if last.end == len(data) and completed_by_line_end(last):
            log.warning("The last row of %s had no line end; it has one now", self.path)
            _write_all(file, b"\n" if rest.endswith(b"\r") else b"\r\n")
        elif holds_whole_rows(rest):
            # A killed writer leaves one broken row at most: this is a quote lost by hand.
            raise FeedbackStoreError(
                f"{self.path.name} has a quotation mark after byte {end - len(rest)} that is never"
                " closed, with whole rows behind it. Close it, or remove that row."
            )
        else:
            self._set_aside(rest)
            file.truncate(end - len(rest))
        os.fsync(file.fileno())
        self._read_on(file)
        return file.seek(0, os.SEEK_END)

    def _set_aside(self, torn: bytes) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.torn-{stamp}")
        atomic.write(aside, torn)
        log.warning(
            "The last row of %s was torn, by a process that was killed while writing or a full"
            " disk: its %d bytes are in %s",
            self.path,
            len(torn),
            aside.name,
        )


def _write_all(file: BinaryIO, data: bytes) -> None:
    # An unbuffered file may take less than it was given, above all when the disk fills up.
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _not_kept(why: str) -> Sentence:
    return Sentence(
        "Your answer could not be kept: %(why)s. Nothing was changed; try again later.", why=why
    )
