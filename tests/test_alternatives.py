from __future__ import annotations

import pytest

from captionapp.captioning.alternatives import distinct, likeness
from captionapp.captioning.captioner import Caption, DecodeOptions


def captions(*said: tuple[str, float]) -> list[Caption]:
    return [Caption(text, probability, "v", DecodeOptions(), 0.1) for text, probability in said]


def texts(found: list[Caption]) -> list[str]:
    return [caption.text for caption in found]


def test_another_sentence_comes_before_another_preposition() -> None:
    found = distinct(
        captions(
            ("a dog runs through the grass", 0.40),
            ("a dog runs in the grass", 0.39),
            ("a dog running on the grass", 0.38),
            ("two animals play in a field", 0.30),
        ),
        2,
    )
    assert texts(found) == ["a dog runs through the grass", "two animals play in a field"]


def test_a_wild_guess_does_not() -> None:
    found = distinct(
        captions(("a dog runs", 0.4), ("a dog sits", 0.38), ("an elephant in space", 0.01)), 2
    )
    assert texts(found) == ["a dog runs", "a dog sits"]


def test_the_search_s_first_stays_first_and_the_others_are_in_order() -> None:
    found = distinct(captions(("a cat", 0.2), ("two boats", 0.1), ("one house", 0.3)), 3)
    assert texts(found) == ["a cat", "one house", "two boats"]


def test_no_text_comes_twice_and_there_may_be_too_few() -> None:
    found = distinct(captions(("a cat", 0.5), ("a cat", 0.4), ("a dog", 0.3)), 5)
    assert [(one.text, one.probability) for one in found] == [("a cat", 0.5), ("a dog", 0.3)]
    assert len(distinct(captions(("a cat", 0.5), ("a dog", 0.3)), 1)) == 1


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("a dog running on grass", "the dogs jump over the grass", 2 / 4),
        ("a cat", "the cats in it", 1.0),
        ("a dog", "a cat", 0.0),
        ("the", "a", 1.0),
        ("green boats", "wooden house", 0.0),
        ("running children", "the child is near a runner", 1.0),
    ],
)
def test_likeness_is_the_share_of_content_words_in_common(
    one: str, other: str, expected: float
) -> None:
    assert likeness(one, other) == pytest.approx(expected)
