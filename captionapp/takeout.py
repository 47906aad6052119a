"""A browser's pictures with their descriptions, to take away: written while they are sent, so that
thousands of them need neither memory nor room on the disk."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captionapp.errors import NotFound
from captionapp.feedback.interchange import METADATA, OUR_COLUMNS
from captionapp.feedback.rows import COLUMNS, FeedbackRow, Verdict, cells
from captionapp.feedback.text import neutralise
from captionapp.feedback.transfer import safe_stem
from captionapp.neutral import neutral

if TYPE_CHECKING:
    from captionapp.results import PictureView
    from captionapp.workflow import Workflow

#: Pictures that are looked up together.
AT_ONCE = 100
CHUNK = 1 << 18
#: Columns of the table for a spreadsheet.
TABLE = (
    "name",
    "sent_at",
    "description",
    "written_by",
    "model_caption",
    "model_version",
    "verdict",
)


@dataclass(frozen=True)
class Said:
    """What a picture shows, in words: ``text`` is the description, to the letter, ``row`` the
    answer behind it, if a person gave one."""

    text: str
    row: FeedbackRow | None


def said(view: PictureView) -> Said:
    """What this browser said itself, else what a person said, else the model."""
    answer, caption = view.answer, view.caption
    if answer and answer.verdict is Verdict.CORRECTED:
        return Said(answer.feedback, answer)
    if answer and caption and answer.confirms(caption.text, caption.model_version):
        return Said(caption.text, answer)
    if view.correction:
        return Said(view.correction.feedback, view.correction)
    return Said(caption.text if caption else "", None)


def shown(view: PictureView, is_neutral: bool) -> str:
    """The description as this browser reads it: a machine's perhaps without guesses at gender."""
    what = said(view)
    if is_neutral and view.caption and not _is_corrected(what):
        return neutral(view.caption.text, view.caption.given)
    return what.text


def imagefolder(
    workflow: Workflow, image_ids: Sequence[str], contributor: str, is_neutral: bool
) -> Iterator[bytes]:
    """A ZIP of the pictures and their ``metadata.csv``, as ``flask feedback export`` writes it: to
    the letter, for programs, whatever ``is_neutral`` says. Where no person has answered,
    ``verdict`` is empty."""
    table: list[list[str]] = [["file_name", "caption", *OUR_COLUMNS]]

    def note(name: str, view: PictureView) -> dict[str, bytes]:
        table.append([name, said(view).text, *_ours(view)])
        return {}

    yield from _zip(workflow, image_ids, contributor, note, lambda: {METADATA: _csv(table)})


def sidecars(
    workflow: Workflow, image_ids: Sequence[str], contributor: str, is_neutral: bool
) -> Iterator[bytes]:
    """A ZIP of the pictures, each with its description in a text file of the same name."""

    def note(name: str, view: PictureView) -> dict[str, bytes]:
        text = shown(view, is_neutral)
        return {name.removesuffix(".webp") + ".txt": f"{text}\n".encode()} if text else {}

    yield from _zip(workflow, image_ids, contributor, note, dict)


def spreadsheet(
    workflow: Workflow, image_ids: Sequence[str], contributor: str, is_neutral: bool
) -> Iterator[bytes]:
    """A CSV in which no cell can run as a formula, and that Excel reads as UTF-8."""
    yield b"\xef\xbb\xbf" + _csv([TABLE])
    for views in _views(workflow, image_ids, contributor):
        yield _csv([[neutralise(cell) for cell in _line(view, is_neutral)] for view in views])


@dataclass(frozen=True)
class Form:
    make: Callable[[Workflow, Sequence[str], str, bool], Iterator[bytes]]
    file_name: str
    media_type: str


FORMS = {
    "imagefolder": Form(imagefolder, "pictures.zip", "application/zip"),
    "sidecars": Form(sidecars, "pictures-and-texts.zip", "application/zip"),
    "spreadsheet": Form(spreadsheet, "descriptions.csv", "text/csv"),
}


class _Sent(io.RawIOBase):
    """Where the ZIP is written to; what it has got is taken away and sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _zip(
    workflow: Workflow,
    image_ids: Sequence[str],
    contributor: str,
    note: Callable[[str, PictureView], dict[str, bytes]],
    last: Callable[[], dict[str, bytes]],
) -> Iterator[bytes]:
    """The stored files, each followed by the files that ``note`` makes of it; then those of
    ``last``. Pictures are stored as they are: they are compressed already."""
    sent = _Sent()
    names: set[str] = set()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED) as archive:
        for views in _views(workflow, image_ids, contributor):
            for view in views:
                name = _file_name(view, names)
                with suppress(NotFound, FileNotFoundError):  # gone since
                    path = workflow.serve_file(view.image_id, contributor)
                    moment = view.created_at.timetuple()[:6]
                    with path.open("rb") as source:
                        with archive.open(zipfile.ZipInfo(name, moment), "w") as target:
                            while chunk := source.read(CHUNK):
                                target.write(chunk)
                                yield sent.take()
                    for other, data in note(name, view).items():
                        archive.writestr(zipfile.ZipInfo(other, moment), data)
                    yield sent.take()
        for other, data in last().items():
            archive.writestr(other, data)
    yield sent.take()


def _views(
    workflow: Workflow, image_ids: Sequence[str], contributor: str
) -> Iterator[list[PictureView]]:
    image_ids = list(dict.fromkeys(image_ids))
    for first in range(0, len(image_ids), AT_ONCE):
        views = workflow.pictures_of(image_ids[first : first + AT_ONCE], contributor)
        yield list(views.values())


def _file_name(view: PictureView, taken: set[str]) -> str:
    stem = safe_stem(view.name)
    name = f"{stem}-{view.image_id[:8]}.webp"
    if name in taken:
        name = f"{stem}-{view.image_id}.webp"
    taken.add(name)
    return name


def _ours(view: PictureView) -> list[str]:
    """``OUR_COLUMNS`` of the answer; of an unanswered picture, those that its caption knows. Of
    somebody else's answer only what this browser is shown: what was corrected, and to what."""
    row, caption = said(view).row, view.caption
    values = {}
    if row is not None:
        values = dict(zip(COLUMNS, cells(row), strict=True)) | {"model_caption": row.caption}
        if row is not view.answer:
            values |= dict.fromkeys(("id", "created_at", "reasons"), "")
    elif caption is not None:
        values |= {"model_caption": caption.text, "model_version": caption.model_version}
    values["image_name"] = view.name
    return [values.get(name, "") for name in OUR_COLUMNS]


def _is_corrected(what: Said) -> bool:
    return what.row is not None and what.row.verdict is Verdict.CORRECTED


def _line(view: PictureView, is_neutral: bool) -> list[str]:
    what, caption = said(view), view.caption
    return [
        view.name,
        view.created_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        shown(view, is_neutral),
        "person" if _is_corrected(what) else "machine" if what.text else "",
        caption.text if caption else "",
        caption.model_version if caption else "",
        what.row.verdict.value if what.row else "",
    ]


def _csv(table: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue().encode()
