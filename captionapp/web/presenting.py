"""What templates say about a picture: whose words its description is, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flask import Flask, session
from flask_babel import format_date, format_decimal, format_percent, format_time, gettext

from captionapp.captioning.captioner import Word
from captionapp.errors import CaptionAppError
from captionapp.feedback.repository import Verdict
from captionapp.hints import Hint
from captionapp.looking import unsure
from captionapp.neutral import neutral, neutral_words
from captionapp.web.current import workflow

if TYPE_CHECKING:
    from captionapp.caption_records import CaptionRecord
    from captionapp.results import PictureView


#: Of the session: what this browser chose.
NEUTRAL = "neutral"


@dataclass(frozen=True)
class ShownWord:
    """A word of a machine's text as it is shown. ``place`` is where it stands in what the model
    wrote; ``unsure`` says that the model might as well have written another."""

    text: str
    place: int
    probability: float | None
    unsure: bool


@dataclass(frozen=True)
class Description:
    """The text to show first. ``source`` is ``person`` or ``machine``; ``label`` says it in words.

    ``checked`` is False as long as no person has confirmed or written the text. ``words`` are those
    of a machine's text.
    """

    text: str
    source: str
    label: str
    checked: bool
    words: tuple[ShownWord, ...] = ()


def description_of(view: PictureView, viewer: str | None) -> Description | None:
    """What this browser said itself, else what a person said, else the model's; or None."""
    answer, caption, correction = view.answer, view.caption, view.correction
    if answer is not None and answer.verdict is Verdict.CORRECTED:
        correction = answer
    elif answer is not None and caption and answer.confirms(caption.text, caption.model_version):
        return _by_machine(caption, gettext("Written by a machine, confirmed by you"), checked=True)
    if correction is not None:
        by_viewer = viewer is not None and correction.contributor == viewer
        label = gettext("Written by you") if by_viewer else gettext("Written by a person")
        return Description(correction.feedback, "person", label, checked=True)
    if caption is None:
        return None
    if view.confirmed:
        label = gettext("Written by a machine, confirmed by a person")
        return _by_machine(caption, label, checked=True)
    return _by_machine(caption, gettext("Written by a machine, not yet checked"), checked=False)


def _by_machine(caption: CaptionRecord, label: str, *, checked: bool) -> Description:
    words = shown_words(caption)
    return Description(text_of(words), "machine", label, checked, words)


def shown_words(caption: CaptionRecord) -> tuple[ShownWord, ...]:
    """The words of a caption, in the way that this browser wants to read it; without probabilities
    if it was made before they were kept."""
    known = caption.words or tuple(Word(word, None) for word in caption.text.split())
    written = [word.text for word in known]
    shown = neutral_words(written, caption.given if is_neutral() else len(written))
    return tuple(
        ShownWord(word.text, word.place, p, unsure(p))
        for word in shown
        for p in [known[word.place].probability]
    )


def text_of(words: Iterable[ShownWord]) -> str:
    return " ".join(word.text for word in words)


def is_neutral() -> bool:
    """Whether this browser reads descriptions without guesses at gender."""
    return bool(session.get(NEUTRAL, workflow().settings.neutral))


def as_shown(caption: CaptionRecord) -> str:
    """The text of a caption, in the way that this browser wants to read it."""
    return text_of(shown_words(caption))


def neutral_if_wanted(text: str) -> str:
    """A machine's text of which no more is known, in the way that this browser wants to read it."""
    return neutral(text) if is_neutral() else text


def hint_text(hint: str) -> str:
    """A sentence for ``hints.Hint``; empty for none."""
    if hint == Hint.BLANK:
        return gettext("The picture is all of one colour: there is nothing to describe.")
    if hint == Hint.NEARLY_UNIFORM:
        return gettext("The picture is nearly uniform: the model has little to go by.")
    if hint == Hint.SMALL:
        return gettext("The picture is very small: the model has little to go by.")
    return ""


def hint_of(view: PictureView, description: Description | None) -> str:
    """Why whatever a model says of the picture is a guess; empty of most pictures, and once a
    person stands behind the description."""
    return "" if description and description.checked else hint_text(view.hint)


def sureness(probability: float) -> str:
    """A sentence for the geometric mean of the tokens' probabilities, in (0, 1]."""
    if probability >= 0.6:
        return gettext("Each next word was a clear choice.")
    if probability >= 0.35:
        return gettext("Several words could have been chosen differently.")
    return gettext("It was guessing: read this one with care.")


def percent(probability: float) -> str:
    """``0.4567`` -> ``46%``; never 0 % for something that was possible."""
    return share(max(0.01, probability))


def share(fraction: float) -> str:
    """``0.4567`` -> ``46%``, of something that was counted."""
    return format_percent(round(fraction, 2))


def number(value: float, digits: int | None = None) -> str:
    """``1234.5`` -> ``1,234.5``; with ``digits`` always so many behind the point."""
    pattern = None if digits is None else "#,##0" + (f".{'0' * digits}" if digits else "")
    return format_decimal(value, pattern)


def change(fraction: float) -> str:
    """``-0.123`` -> ``-12.3%``, always with its sign."""
    return format_percent(fraction, "+0.0%;-0.0%")


def day(moment: datetime | str) -> str:
    """``23 November 2026, 12:45 UTC``, from a UTC datetime or ISO 8601 text."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return f"{format_date(moment, 'long')}, {format_time(moment, 'short')} UTC"


def clock(moment: datetime) -> str:
    """``12:45 UTC``"""
    return f"{format_time(moment, 'short')} UTC"


def served_version() -> str:
    """Name of the version that would write a caption now; empty if it cannot be told."""
    try:
        return str(workflow().versions.current().name)
    except CaptionAppError:
        return ""


def init_app(app: Flask) -> None:
    """Makes the words of this module known to the templates."""
    app.jinja_env.filters.update(
        as_shown=as_shown, hint_text=hint_text, neutral_if_wanted=neutral_if_wanted
    )
    app.jinja_env.globals["is_neutral"] = is_neutral
    app.jinja_env.filters.update(
        percent=percent,
        share=share,
        change=change,
        number=number,
        clock=clock,
        sureness=sureness,
        day=day,
    )
    app.jinja_env.globals.update(description_of=description_of, hint_of=hint_of)
