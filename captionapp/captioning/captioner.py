"""What a captioner is: its answer, its options, and the protocol that engines and fakes share.

Standard library and Pillow's types only, so that importing it costs nothing.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from captionapp.errors import InvalidOptions

if TYPE_CHECKING:
    from PIL import Image

MAX_BEAMS = 8
MAX_NEW_TOKENS = 100
MAX_PROMPT_CHARACTERS = 200


@dataclass(frozen=True)
class DecodeOptions:
    """How a caption is decoded. By default deterministic: beams, with a guard against repetition.

    ``num_beams`` is 1 to 8, ``max_new_tokens`` 1 to 100, ``length_penalty`` -5 to 5,
    ``repetition_penalty`` 1 to 5, ``no_repeat_ngram_size`` 0 (off) to 10.
    ``prompt`` is the beginning of the caption, at most 200 characters, continued by the model.
    ``bad_words`` are never written.

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

    def __post_init__(self) -> None:
        _within("num_beams", self.num_beams, 1, MAX_BEAMS)
        _within("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        _within("length_penalty", self.length_penalty, -5, 5)
        _within("repetition_penalty", self.repetition_penalty, 1, 5)
        _within("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, 10)
        prompt = " ".join(unicodedata.normalize("NFC", self.prompt).split())
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise InvalidOptions(
                "prompt",
                "The beginning of a description may have at most "
                f"{MAX_PROMPT_CHARACTERS} characters, not {len(prompt)}.",
            )
        if any(unicodedata.category(character) == "Cc" for character in prompt):
            raise InvalidOptions(
                "prompt", "The beginning of a description contains control characters."
            )
        object.__setattr__(self, "prompt", prompt)

    def key(self) -> str:
        """Canonical JSON: equal for options that decode equally, fit for a database column."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_key(cls, key: str) -> DecodeOptions:
        """The options that ``key()`` was made of."""
        values = json.loads(key)
        return cls(**values | {"bad_words": tuple(values["bad_words"])})


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not low <= value <= high:  # NaN fails the comparison too
        raise InvalidOptions(name, f"{name} is {value!r}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class Caption:
    """A caption as a model made it.

    ``probability`` is ``exp(mean log p)`` over the caption's own tokens (prompt excluded, end token
    included), under the model, without length penalty: a number in (0, 1].
    ``seconds`` is the wall time of the batch that it was made in.
    """

    text: str
    probability: float
    model_version: str
    options: DecodeOptions
    seconds: float


class Captioner(Protocol):
    """Anything that turns pictures into captions: the BLIP engine, and the fakes of the tests."""

    @property
    def model_version(self) -> str:
        """Name of the version that writes the captions."""

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        """One caption for each RGB picture, in order. An empty sequence gives an empty list."""
