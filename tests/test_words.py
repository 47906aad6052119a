from __future__ import annotations

from math import log

import pytest

from captionapp.captioning.captioner import Word
from captionapp.captioning.words import spans, words_of


def test_a_word_of_several_pieces_is_as_likely_as_all_of_them_together() -> None:
    words = words_of(
        "a skateboarder", ["a", "skate", "##board", "##er"], [log(0.5)] + [log(0.8)] * 3
    )
    assert [word.text for word in words] == ["a", "skateboarder"]
    assert words[0].probability == pytest.approx(0.5)
    assert words[1].probability == pytest.approx(0.8**3)


def test_what_a_person_gave_has_no_probability() -> None:
    assert words_of("i see dogs", ["i", "see", "dogs"], [None, None, log(0.5)])[:2] == (
        Word("i", None),
        Word("see", None),
    )


def test_a_word_begun_by_a_person_and_ended_by_the_model_is_the_person_s() -> None:
    assert words_of("dogs", ["dog", "##s"], [None, log(0.5)]) == (Word("dogs", None),)


@pytest.mark.parametrize(
    "text, pieces, expected",
    [
        ("a man's t-shirt", ["a", "man", "'", "s", "t", "-", "shirt"], [(0, 1), (1, 4), (4, 7)]),
        ("red, blue", ["red", ",", "blue"], [(0, 2), (2, 3)]),
        ("a b", ["ab"], [(0, 1), (0, 1)]),
        ("a cat", ["a", "dog"], []),
        ("a cat", ["a"], []),
        ("", [], []),
    ],
)
def test_words_are_found_in_their_pieces(
    text: str, pieces: list[str], expected: list[tuple[int, int]]
) -> None:
    assert spans(text, pieces) == [range(*one) for one in expected]


def test_a_text_that_is_not_made_of_its_pieces_has_no_words() -> None:
    assert words_of("a cat", ["a", "dog"], [0.0, 0.0]) == ()
