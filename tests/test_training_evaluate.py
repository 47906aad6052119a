"""Figures of captions: known ones for known captions, whoever wrote them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import InvalidDataset
from captionapp.training.dataset import Example
from captionapp.training.evaluate import (
    cider_of_each,
    edit_distance,
    evaluate,
    normalise_text,
    repeats,
    score_texts,
)

REFERENCES = [
    ("A dog runs over the grass .", "A brown dog is running."),
    ("Two boys play football on the beach .", "Boys with a ball"),
    ("A cat sleeps on a sofa .", "A sleeping cat"),
]


class Fake:
    """Says what it was told to say, and remembers the sizes of its batches."""

    model_version = "fake"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.batches: list[int] = []

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        assert all(image.mode == "RGB" for image in images)
        self.batches.append(len(images))
        said, self.texts = self.texts[: len(images)], self.texts[len(images) :]
        return [Caption(text, 0.5, "fake", options, 0.1 * len(images)) for text in said]


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    """Three pictures, one of them grey."""
    result = []
    for i, captions in enumerate(REFERENCES):
        path = tmp_path / f"{i}.png"
        Image.new("L" if i == 0 else "RGB", (8, 8), 100).save(path)
        result.append(Example(path, captions))
    return result


def test_a_human_caption_scores_best() -> None:
    same, each = score_texts([group[0].upper() for group in REFERENCES], REFERENCES)
    assert same.bleu_1 == pytest.approx(1) and same.bleu_4 == pytest.approx(1)
    assert same.rouge_l == pytest.approx(1)
    other, _ = score_texts(["a dog runs", "two boys", "a dog on a sofa"], REFERENCES)
    assert same.cider > other.cider > 0
    assert len(each) == 3 and same.cider == pytest.approx(sum(each) / 3)


def test_exact_matches_and_words_still_to_change() -> None:
    figures, _ = score_texts(["A dog runs.", "two dogs"], [("a dog runs", "x"), ("two big cats",)])
    assert figures.exact == 1
    assert figures.edit_distance == pytest.approx((0 + 2) / 2)
    assert edit_distance("", ["a dog"]) == 2
    assert edit_distance("a dog runs fast", ["a cat runs", "the dog runs fast"]) == 1


def test_cider_may_come_from_a_larger_set() -> None:
    """A word that every picture of a small set has is worth nothing in it."""
    texts, references = ["a raccoon", "a raccoon"], [("a raccoon",), ("a raccoon",)]
    assert score_texts(texts, references)[0].cider == 0
    more = cider_of_each([*texts, "a dog"], [*references, ("two cats",)])
    figures, each = score_texts(texts, references, more[:2])
    assert figures.cider == pytest.approx(sum(each) / 2) and figures.cider > 1


def test_the_measures_need_neither_java_nor_another_process() -> None:
    program = """
import os, subprocess
os.environ["PATH"] = ""
def refuse(*args, **kwargs): raise AssertionError("a process was started")
subprocess.Popen = refuse
from captionapp.training.evaluate import score_texts
assert score_texts(["a dog"], [["a dog"]])[0].exact == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


def test_counts_of_what_goes_wrong() -> None:
    figures, _ = score_texts(["a dog", "A dog.", " . "], REFERENCES)
    assert figures.distinct == pytest.approx(2 / 3)
    assert figures.empty == 1
    assert figures.mean_words == pytest.approx(4 / 3)
    assert figures.as_dict()["pictures"] == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog dog runs", True),
        ("a man in a red shirt in a red shirt", True),
        ("a man in a red shirt and a man in a blue shirt", True),
        ("a dog and a cat and a bird", False),
        ("", False),
    ],
)
def test_repeated_phrases_are_noticed(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_text_is_compared_without_case_and_punctuation() -> None:
    assert normalise_text(" A well-known MAN's dog, barking_loudly. ") == (
        "a well known man s dog barking loudly"
    )


def test_any_captioner_is_evaluated_in_batches(examples: list[Example]) -> None:
    fake = Fake([group[0] for group in REFERENCES])
    evaluation = evaluate(fake, examples, DecodeOptions(), batch=2)
    assert fake.batches == [2, 1]
    assert evaluation.figures.bleu_4 == pytest.approx(1)
    assert evaluation.seconds_per_picture == pytest.approx(0.1)
    assert [c.text for c in evaluation.captions] == [group[0] for group in REFERENCES]


def test_a_broken_picture_is_named(examples: list[Example]) -> None:
    examples[1].path.write_bytes(b"no picture")
    with pytest.raises(InvalidDataset, match="1.png cannot be read as a picture"):
        evaluate(Fake(["x"] * 3), examples, DecodeOptions())


@pytest.mark.parametrize(
    ("texts", "references"), [([], []), (["a"], []), (["a"], [()]), (["a", "b"], [("a",)])]
)
def test_nothing_to_score_is_an_error(texts: list[str], references: list[tuple[str, ...]]) -> None:
    with pytest.raises(InvalidDataset):
        score_texts(texts, references)
