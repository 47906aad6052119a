"""What goes into the workflow and what comes out of it: plain values, for pages and commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from captionapp.caption_records import CaptionRecord
from captionapp.captioning.captioner import DecodeOptions
from captionapp.feedback.repository import FeedbackRow, Verdict

MAX_NAME_CHARACTERS = 80


@dataclass(frozen=True)
class IncomingFile:
    """A file somebody sent; ``read`` gives its bytes."""

    name: str
    read: Callable[[], bytes]

    @property
    def display_name(self) -> str:
        """The last part of the name, fit for a page: it is shown, never used as a path."""
        last = self.name.replace("\\", "/").rsplit("/", 1)[-1]
        printable = "".join(character for character in last if character.isprintable())
        return printable[:MAX_NAME_CHARACTERS].strip() or "picture"


@dataclass(frozen=True)
class Rejected:
    """A file that could not be used, and the sentence that says why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Submission:
    """What became of the files of one request: ids in order, each once, and refusals. ``fresh``
    are the ids that this browser did not hold before."""

    accepted: list[str] = field(default_factory=list)
    fresh: set[str] = field(default_factory=set)
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class PictureView:
    """Everything a page says of a picture, for one browser.

    ``hint`` is why little can be said of it (``hints.Hint``), or empty.

    ``status`` is ``done``, ``waiting`` or ``failed``, with the ``problem``; ``ahead`` is how many
    captions are queued before one that waits, None once it is being made. ``caption`` is the one
    that was chosen, or the newest there is, also while another is on its way. ``alternatives`` were
    made with it, ``previous`` at other times; ``asked`` is how it was asked for last. ``answer`` is
    what this browser said last, ``correction`` what a person said of the picture (correction
    memory), and ``confirmed`` says that a person accepted ``caption``.
    """

    image_id: str
    name: str
    width: int
    height: int
    created_at: datetime
    hint: str
    status: str
    problem: str
    ahead: int | None
    caption: CaptionRecord | None
    alternatives: list[CaptionRecord]
    asked: DecodeOptions
    previous: list[CaptionRecord]
    answer: FeedbackRow | None
    correction: FeedbackRow | None
    confirmed: bool

    @property
    def answered(self) -> bool:
        """Whether this browser has said something of the description as it is now: a correction
        stays, that a text is right is said of that text only."""
        if self.answer is None or self.caption is None:
            return self.answer is not None and self.answer.verdict is Verdict.CORRECTED
        return self.answer.verdict is Verdict.CORRECTED or self.answer.confirms(
            self.caption.text, self.caption.model_version
        )


@dataclass(frozen=True)
class Page:
    """A page of a browser's gallery.

    ``first`` is the number of its first picture, counted from 1, among the ``total`` that are
    wanted; ``newer`` and ``older`` are cursors of the pages beside it, empty at the ends.
    """

    items: list[PictureView]
    first: int
    total: int
    newer: str
    older: str
