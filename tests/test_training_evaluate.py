"""Figures of captions: known ones for known captions, whoever wrote them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import InvalidDataset
from captionapp.training.dataset import Example
from captionapp.training.evaluate import evaluate, normalise_text, repeats, score_texts

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
    pytest.importorskip("pycocoevalcap")
    same, each = score_texts([group[0].upper() for group in REFERENCES], REFERENCES)
    assert same.bleu_1 == pytest.approx(1) and same.bleu_4 == pytest.approx(1)
    assert same.rouge_l == pytest.approx(1)
    other, _ = score_texts(["a dog runs", "two boys", "a dog on a sofa"], REFERENCES)
    assert same.cider > other.cider > 0
    assert len(each) == 3 and same.cider == pytest.approx(sum(each) / 3)


def test_counts_of_what_goes_wrong() -> None:
    pytest.importorskip("pycocoevalcap")
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
    pytest.importorskip("pycocoevalcap")
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
