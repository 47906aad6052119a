"""Whole data sets in and out: pictures with answers, as files that other programs read too."""

from __future__ import annotations

import csv
import io
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from captionapp import atomic
from captionapp.caption_records import CaptionRecords
from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.captioning.together import caption_together
from captionapp.errors import (
    ExportFailed,
    FeedbackStoreError,
    InvalidDataset,
    InvalidFeedback,
    InvalidImage,
    NotFound,
)
from captionapp.feedback.interchange import (
    EARLIER,
    IMPORTED,
    METADATA,
    OLD_COLUMNS,
    OLD_TABLE,
    OUR_COLUMNS,
    Entry,
)
from captionapp.feedback.repository import CsvFeedbackRepository, clean_correction
from captionapp.feedback.rows import COLUMNS as ROW_COLUMNS
from captionapp.feedback.rows import FeedbackRow, Verdict, cells, encode
from captionapp.feedback.text import normalise_caption
from captionapp.image_store import ImageStore
from captionapp.images import ImageLimits, ValidatedImage, decode
from captionapp.results import IncomingFile

# In


@dataclass(frozen=True)
class Imported:
    """What became of an entry: a new row, one that was there before, or a sentence why neither."""

    where: str
    outcome: Literal["added", "known", "skipped"]
    row: FeedbackRow | None = None
    problem: str = ""


@dataclass(frozen=True)
class _Taken:
    """An entry whose picture has been decoded; ``row`` if it came with a whole one."""

    where: str
    image: ValidatedImage
    name: str
    text: str
    row: FeedbackRow | None


class FeedbackImport:
    """Brings entries in, ``batch_size`` at a time: stored, captioned, then kept as rows.

    ``keep`` stores a picture under its name. ``captioner`` gives the one that is served now.
    """

    def __init__(
        self,
        captions: CaptionRecords,
        feedback: CsvFeedbackRepository,
        captioner: Callable[[], Captioner],
        keep: Callable[[ValidatedImage, str], None],
        limits: ImageLimits,
        options: DecodeOptions,
        batch_size: int,
    ) -> None:
        self.captions = captions
        self.feedback = feedback
        self.captioner = captioner
        self.keep = keep
        self.limits = limits
        self.options = options
        self.batch_size = batch_size
        self._rows: dict[str, FeedbackRow] = {}
        self._said: set[tuple[str, str]] = set()

    def run(self, entries: Sequence[Entry]) -> Iterator[Imported]:
        """Bring the entries in; what is yielded as added is on the disk, whatever comes after.

        An answer that is there already adds nothing: by its id, or, if it came without one or was
        changed, if the picture has the same answer from anybody. A broken entry takes nothing from
        the others.

        Raises:
            FeedbackStoreError: if another import is under way, or the rows cannot be written.
            ModelUnavailable, StorageFull: what was yielded before is kept.
        """
        path = self.feedback.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{path}.import.lock", timeout=0):
                for row in self.feedback.rows():
                    self._remember(row)
                for start in range(0, len(entries), self.batch_size):
                    yield from self._batch(entries[start : start + self.batch_size])
        except Timeout as error:
            raise FeedbackStoreError(
                "Another import is under way. Wait until it is done, then try again."
            ) from error

    def _batch(self, entries: Sequence[Entry]) -> list[Imported]:
        taken = [self._take(entry) for entry in entries]
        captions = self._captions([one for one in taken if isinstance(one, _Taken)])
        results = [
            self._answered(one, captions[one.image.image_id]) if isinstance(one, _Taken) else one
            for one in taken
        ]
        self.feedback.extend(one.row for one in results if one.row)
        return results

    def _take(self, entry: Entry) -> _Taken | Imported:
        """Read one entry and its picture. Nothing is kept yet."""
        try:
            path = entry.locate()
            with path.open("rb") as stream:  # one byte beyond the limit is enough to be refused
                image = decode(stream.read(self.limits.max_bytes + 1), self.limits)
            name = IncomingFile(entry.ours.get("image_name") or path.name, bytes).display_name
            row = entry.row(image.image_id, name)
            text = row.feedback if row else entry.text
            if row is None or row.verdict is Verdict.CORRECTED:
                text = clean_correction(text)
            if row is not None:
                row = replace(row, feedback=text)
                encode([row])
        except (InvalidImage, InvalidFeedback, InvalidDataset) as error:
            return Imported(entry.where, "skipped", problem=str(error))
        except OSError as error:
            return Imported(entry.where, "skipped", problem=f"It cannot be read: {error.strerror}.")
        if self._is_known(image.image_id, text, row):
            return Imported(entry.where, "known")
        if row is not None and row.id in self._rows:  # an answer that was exported, then changed
            row = replace(row, id=uuid.uuid4().hex, created_at=_now())
        return _Taken(entry.where, image, name, text, row)

    def _is_known(self, image_id: str, text: str, row: FeedbackRow | None) -> bool:
        known = self._rows.get(row.id) if row else None
        if row is not None and known is None:
            return False
        if known is not None and known.feedback == text:
            return True
        return (image_id, normalise_caption(text)) in self._said

    def _remember(self, row: FeedbackRow) -> None:
        self._rows[row.id] = row
        self._said.add((row.image_id, normalise_caption(row.feedback)))

    def _captions(self, taken: Sequence[_Taken]) -> dict[str, Caption | str]:
        """Captions by the version that is served now, and the pictures kept that have one.

        By ``image_id``; a sentence where there can be none. What was made before is not made again.
        """
        if not taken:
            return {}
        captioner = self.captioner()
        pictures = {one.image.image_id: one for one in taken}
        said = self._captions_there_are(list(pictures), captioner.model_version)
        missing = [one for image_id, one in pictures.items() if image_id not in said]
        made = caption_together(captioner, [one.image.image for one in missing], self.options)
        fresh = dict(zip((one.image.image_id for one in missing), made, strict=True))
        for image_id, one in pictures.items():
            if isinstance(caption := fresh.get(image_id, ""), Caption) or image_id in said:
                self.keep(one.image, one.name)
                if isinstance(caption, Caption):
                    self.captions.add(image_id, caption)
        return said | fresh

    def _captions_there_are(
        self, image_ids: Sequence[str], model_version: str
    ) -> dict[str, Caption | str]:
        known = self.captions.of(image_ids)
        newest = {image_id: known.get((image_id, self.options.key()), []) for image_id in image_ids}
        return {
            image_id: Caption(
                text=made[0].text,
                probability=made[0].probability,
                model_version=model_version,
                options=self.options,
                seconds=made[0].seconds,
            )
            for image_id, made in newest.items()
            if made and made[0].model_version == model_version
        }

    def _answered(self, taken: _Taken, caption: Caption | str) -> Imported:
        if isinstance(caption, str):
            return Imported(taken.where, "skipped", problem=caption)
        if self._is_known(taken.image.image_id, taken.text, taken.row):
            return Imported(taken.where, "known")  # twice among these entries
        row = taken.row or _new_row(taken, caption)
        self._remember(row)
        return Imported(taken.where, "added", row)


def _new_row(taken: _Taken, caption: Caption) -> FeedbackRow:
    """The answer as if the person had been shown this caption."""
    same = normalise_caption(taken.text) == normalise_caption(caption.text)
    return FeedbackRow(
        id=uuid.uuid4().hex,
        created_at=_now(),
        image_id=taken.image.image_id,
        image_name=taken.name,
        caption=caption.text,
        feedback=caption.text if same else taken.text,
        verdict=Verdict.ACCEPTED if same else Verdict.CORRECTED,
        reasons=(),
        model_version=caption.model_version,
        contributor=IMPORTED,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Out


@dataclass(frozen=True)
class Exported:
    """Answers and pictures that were written, and the pictures that are no longer stored."""

    answers: int
    pictures: int
    missing: tuple[str, ...]


def export_feedback(
    rows: Sequence[FeedbackRow],
    store: ImageStore,
    folder: Path,
    old_columns: bool,
    on_picture: Callable[[], object],
) -> Exported:
    """Write the answers with their pictures into a new folder, whole or not at all.

    An imagefolder: METADATA has the latest answer of each picture, EARLIER those it replaced. The
    same picture under two names is two pictures here, as it was where it came from. With
    ``old_columns``, a CSV of these with the latest answers only. Text is written to the letter, not
    made harmless for spreadsheets. ``on_picture`` is called after each picture.

    Raises:
        ExportFailed: if there are no rows, or something in ``folder``, or it cannot be written.
    """
    if not rows:
        raise ExportFailed("There are no answers yet, so there is nothing to export.")
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportFailed(f"{folder} is there already. Name a folder that is new or empty.")
        part.mkdir(parents=True)
        latest = {(row.image_id, row.image_name): row for row in rows}
        files = _copy_pictures(list(latest), store, part, on_picture)
        tables = _tables(rows, latest, files, old_columns)
        for name, table in tables.items():
            _write(part / name, table)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows renames onto nothing
        part.rename(folder)
    except OSError as error:
        raise ExportFailed(
            f"{folder} cannot be written ({error.strerror or error}). Nothing is left there."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    missing = {image_id for image_id, name in latest if (image_id, name) not in files}
    answers = sum(len(table) - 1 for table in tables.values())
    return Exported(answers, len(files), tuple(sorted(missing)))


def _copy_pictures(
    pictures: Sequence[tuple[str, str]],
    store: ImageStore,
    folder: Path,
    on_picture: Callable[[], object],
) -> dict[tuple[str, str], str]:
    """Copies the stored files; returns their new names. A picture that has none is left out."""
    files: dict[tuple[str, str], str] = {}
    for image_id, image_name in pictures:
        stem = safe_stem(image_name)
        name = f"{stem}-{image_id[:8]}.webp"
        if (folder / name).exists():
            name = f"{stem}-{image_id}-{len(files)}.webp"
        with suppress(NotFound, FileNotFoundError):
            shutil.copyfile(store.path(image_id), folder / name)
            files[image_id, image_name] = name
        on_picture()
    return files


def safe_stem(image_name: str) -> str:
    """The beginning of a file's name, of letters and digits that every system allows. It needs
    something behind it: it may be a name that Windows reserves."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(image_name).stem)[:40].strip("-") or "picture"


def _tables(
    rows: Sequence[FeedbackRow],
    latest: Mapping[tuple[str, str], FeedbackRow],
    files: Mapping[tuple[str, str], str],
    old_columns: bool,
) -> dict[str, list[Sequence[str]]]:
    """The files of the data set by name, each as its header and its rows."""
    last: list[Sequence[str]] = []
    replaced: list[Sequence[str]] = []
    for row in rows:
        key = (row.image_id, row.image_name)
        if key not in files:
            continue
        values = dict(zip(ROW_COLUMNS, cells(row), strict=True))
        values["model_caption"] = row.caption
        ours = [files[key], row.feedback, *(values[name] for name in OUR_COLUMNS)]
        old = [files[key], row.caption, row.feedback]
        (last if latest[key] is row else replaced).append(old if old_columns else ours)
    if old_columns:
        return {OLD_TABLE: [OLD_COLUMNS, *last]}
    header = ("file_name", "caption", *OUR_COLUMNS)
    tables = {METADATA: [header, *last]}
    return tables | {EARLIER: [header, *replaced]} if replaced else tables


def _write(path: Path, table: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    atomic.write(path, text.getvalue().encode())
