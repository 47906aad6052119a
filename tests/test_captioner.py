"""What can be asked of a captioner, and how it is written down."""

from __future__ import annotations

import json

import pytest

from captionapp.captioning.captioner import DecodeOptions, is_plain
from captionapp.errors import InvalidOptions


def test_a_key_says_what_was_asked_for_and_nothing_else() -> None:
    """Databases from before these options keep their captions."""
    plain = json.loads(DecodeOptions().key())
    assert not {"alternatives", "avoid", "length"} & set(plain)
    asked = DecodeOptions(alternatives=5, avoid=("dog",), length="short", prompt="I see")
    assert json.loads(asked.key()) == plain | {
        "alternatives": 5,
        "avoid": ["dog"],
        "length": "short",
        "prompt": "I see",
    }


@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(),
        DecodeOptions(alternatives=2),
        DecodeOptions(avoid=("a", "b c"), bad_words=()),
        DecodeOptions(length="medium", num_beams=1),
    ],
)
def test_options_come_back_from_their_key(options: DecodeOptions) -> None:
    assert DecodeOptions.from_key(options.key()) == options


@pytest.mark.parametrize(
    "options, plain",
    [
        (DecodeOptions(num_beams=1), True),
        (DecodeOptions(prompt="a"), False),
        (DecodeOptions(alternatives=2), False),
        (DecodeOptions(avoid=("a",)), False),
        (DecodeOptions(length="short"), False),
    ],
)
def test_plain_is_what_nobody_asked_for(options: DecodeOptions, plain: bool) -> None:
    assert is_plain(json.loads(options.key())) is plain


def test_equal_wishes_are_equal() -> None:
    one = DecodeOptions(avoid=(" Dog", "old  man", "dog", ""))
    assert one.avoid == ("dog", "old man")
    assert one == DecodeOptions(avoid=("old man", "dog"))


def test_plurals_are_avoided_too() -> None:
    options = DecodeOptions(avoid=("dog", "bus", "beach"), bad_words=("arafed",))
    assert options.forbidden == ("arafed", "beach", "beaches", "bus", "buses", "dog", "dogs")


@pytest.mark.parametrize(
    "values, option, message",
    [
        ({"alternatives": 0}, "alternatives", "1 to 5 texts"),
        ({"alternatives": 6}, "alternatives", "1 to 5 texts"),
        ({"length": "long"}, "length", "short or medium"),
        ({"avoid": [str(i) for i in range(21)]}, "avoid", "At most 20 words"),
        ({"avoid": ["x" * 41]}, "avoid", "at most 40 characters"),
        ({"avoid": ["a\0b"]}, "avoid", "commas between"),
    ],
)
def test_what_cannot_be_asked_for_is_named(
    values: dict[str, object], option: str, message: str
) -> None:
    with pytest.raises(InvalidOptions, match=message) as caught:
        DecodeOptions(**values)  # type: ignore[arg-type]
    assert caught.value.option == option
