"""What a captioner is: its answer, its options, and the protocol that engines and fakes share.

Standard library and Pillow's types only, so that importing it costs nothing.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Protocol

from captionapp.errors import InvalidOptions
from captionapp.sentences import Sentence

if TYPE_CHECKING:
    from PIL import Image

MAX_BEAMS = 8
MAX_NEW_TOKENS = 100
MAX_PROMPT_CHARACTERS = 200
MAX_ALTERNATIVES = 5
MAX_AVOIDED_WORDS = 20
MAX_AVOIDED_CHARACTERS = 40
LENGTHS = ("", "short", "medium")


@dataclass(frozen=True)
class DecodeOptions:
    """How a caption is decoded. By default deterministic: beams, with a guard against repetition.

    ``num_beams`` is 1 to 8, ``max_new_tokens`` 1 to 100, ``length_penalty`` -5 to 5,
    ``repetition_penalty`` 1 to 5, ``no_repeat_ngram_size`` 0 (off) to 10.
    ``prompt`` is the beginning of the caption, at most 200 characters, continued by the model.
    ``bad_words`` are never written.

    What a person may ask for beside the prompt: ``alternatives``, 1 to 5 different texts;
    ``avoid``, up to 20 words that are not written, nor their plurals; ``length``, ``short``,
    ``medium`` (at least a dozen tokens) or empty (as it comes).

    Raises:
        InvalidOptions: if a value is outside its bounds.
    """

    num_beams: int = 3
    max_new_tokens: int = 30
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    prompt: str = ""
    bad_words: tuple[str, ...] = ("arafed", "araffe", "arafe")
    alternatives: int = 1
    avoid: tuple[str, ...] = ()
    length: str = ""

    def __post_init__(self) -> None:
        _within("num_beams", self.num_beams, 1, MAX_BEAMS)
        _within("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        _within("length_penalty", self.length_penalty, -5, 5)
        _within("repetition_penalty", self.repetition_penalty, 1, 5)
        _within("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, 10)
        if not 1 <= self.alternatives <= MAX_ALTERNATIVES:
            raise InvalidOptions(
                "alternatives", Sentence("Ask for 1 to %(most)s texts.", most=MAX_ALTERNATIVES)
            )
        if self.length not in LENGTHS:
            raise InvalidOptions("length", Sentence("A length is short or medium, or left open."))
        object.__setattr__(self, "avoid", _avoided(self.avoid))
        prompt = " ".join(unicodedata.normalize("NFC", self.prompt).split())
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise InvalidOptions(
                "prompt",
                Sentence(
                    "The beginning of a description may have at most %(most)s characters,"
                    " not %(count)s.",
                    most=MAX_PROMPT_CHARACTERS,
                    count=len(prompt),
                ),
            )
        if any(unicodedata.category(character) == "Cc" for character in prompt):
            raise InvalidOptions(
                "prompt",
                Sentence("The beginning of a description contains control characters."),
            )
        object.__setattr__(self, "prompt", prompt)

    def key(self) -> str:
        """Canonical JSON: equal for options that decode equally, fit for a database column.

        What came later than the first databases is in it only if it was asked for.
        """
        values = asdict(self)
        for field in fields(self):
            if field.name in ASKED and values[field.name] == field.default:
                del values[field.name]
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_key(cls, key: str) -> DecodeOptions:
        """The options that ``key()`` was made of."""
        values = json.loads(key)
        words = {name: tuple(values.get(name, ())) for name in ("bad_words", "avoid")}
        return cls(**values | words)

    @property
    def forbidden(self) -> tuple[str, ...]:
        """All words that are not written: ``bad_words``, and ``avoid`` with the plurals."""
        return (*self.bad_words, *(form for word in self.avoid for form in (word, _plural(word))))


#: Fields of ``DecodeOptions`` that are asked for by a person, and not in every key.
ASKED = ("alternatives", "avoid", "length")


def is_plain(options: Mapping[str, object]) -> bool:
    """Whether a caption with these options (of a key) is what its version says by itself: nobody
    began it or asked for anything special."""
    return not options.get("prompt") and not any(name in options for name in ASKED)


def _avoided(words: Sequence[str]) -> tuple[str, ...]:
    """Lower case, each once, in alphabetical order, so that equal wishes have equal keys."""
    tidy = {" ".join(unicodedata.normalize("NFC", word).lower().split()) for word in words} - {""}
    if len(tidy) > MAX_AVOIDED_WORDS:
        raise InvalidOptions(
            "avoid", Sentence("At most %(most)s words can be avoided.", most=MAX_AVOIDED_WORDS)
        )
    for word in tidy:
        if len(word) > MAX_AVOIDED_CHARACTERS or not word.isprintable():
            raise InvalidOptions(
                "avoid",
                Sentence(
                    "Words to avoid have at most %(most)s characters each, with commas between.",
                    most=MAX_AVOIDED_CHARACTERS,
                ),
            )
    return tuple(sorted(tidy))


def _plural(word: str) -> str:
    """The regular one: a person who avoids "bus" does not want to read "buses" either."""
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not low <= value <= high:  # NaN fails the comparison too
        raise InvalidOptions(name, f"{name} is {value!r}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class Word:
    """A word of a caption. ``probability`` is that of the model writing it there, after the words
    before it; None if a person gave it."""

    text: str
    probability: float | None


@dataclass(frozen=True)
class Caption:
    """A caption as a model made it.

    ``probability`` is ``exp(mean log p)`` over the caption's own tokens (prompt excluded, end token
    included), under the model, without length penalty: a number in (0, 1].
    ``seconds`` is the wall time of the batch that it was made in. ``words`` are those of the text
    between blanks, or none if the captioner cannot tell. ``others`` are further captions of the
    picture if alternatives were asked for; there may be fewer of them.
    """

    text: str
    probability: float
    model_version: str
    options: DecodeOptions
    seconds: float
    words: tuple[Word, ...] = ()
    others: tuple[Caption, ...] = ()


@dataclass(frozen=True)
class Looks:
    """Where a captioner looked while it wrote the words of a caption.

    ``words`` holds for each word the share of its attention that each field of the picture got, row
    by row from the top left; ``columns`` x ``rows`` fields cover the whole picture.
    """

    columns: int
    rows: int
    words: tuple[tuple[float, ...], ...]


class Captioner(Protocol):
    """Anything that turns pictures into captions: the BLIP engine, and the fakes of the tests."""

    @property
    def model_version(self) -> str:
        """Name of the version that writes the captions."""

    def prepare(self, image: Image.Image) -> Image.Image:
        """The RGB picture as small as it is needed: ``caption`` says the same of both, and has less
        to do with this one."""

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        """One caption for each RGB picture, in order. An empty sequence gives an empty list."""

    def look(self, image: Image.Image, text: str) -> Looks:
        """Where in the RGB picture it looks when it writes this caption.

        Raises:
            CaptionFailed: if it cannot write these words.
        """
