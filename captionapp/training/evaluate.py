"""Any captioner and pictures with human captions -> figures.

The measures are those of `pycocoevalcap` (BLEU of Papineni et al. 2002, CIDEr-D of Vedantam et al.
2015, ROUGE-L of Lin 2004) over lower-cased text with punctuation replaced by spaces, which makes
its Java tokeniser unnecessary. The package is imported only when figures are asked for.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.errors import InvalidDataset, InvalidImage
from captionapp.sentences import Sentence
from captionapp.training.dataset import Example

if TYPE_CHECKING:
    from PIL import Image

    from captionapp.images import ValidatedImage

_NO_WORD = re.compile(r"[^\w\s]|_")


@dataclass(frozen=True)
class Figures:
    """How good captions are; shares and BLEU lie between 0 and 1, CIDEr between 0 and 10."""

    pictures: int
    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    cider: float
    rouge_l: float
    distinct: float  # different captions over captions
    empty: int  # captions without a word
    repeating: int  # captions in which a word follows itself or three words come twice
    mean_words: float
    exact: int  # captions that say what a person said, to the word
    edit_distance: float  # mean over the captions of the words a person would still change

    def as_dict(self) -> dict[str, float]:
        """For JSON files and tables."""
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """A field of ``Figures`` as a person reads it: a share, or a number with so many decimals.
    ``more_is_better`` is None where neither is."""

    label: Sentence
    field: str
    decimals: int
    more_is_better: bool | None
    share: bool = False


MEASURES = (
    Measure(Sentence("CIDEr"), "cider", 3, True),
    Measure(Sentence("BLEU-4"), "bleu_4", 3, True),
    Measure(Sentence("ROUGE-L"), "rouge_l", 3, True),
    Measure(Sentence("Exact matches"), "exact", 0, True),
    Measure(Sentence("Words still to change"), "edit_distance", 2, False),
    Measure(Sentence("Distinct captions"), "distinct", 1, True, share=True),
    Measure(Sentence("Captions that repeat themselves"), "repeating", 0, False),
    Measure(Sentence("Captions without a word"), "empty", 0, False),
    Measure(Sentence("Words a caption"), "mean_words", 1, None),
)


@dataclass(frozen=True)
class Evaluation:
    """Figures and what they were computed from, in the order of the examples."""

    figures: Figures
    captions: list[Caption]
    cider: list[float]  # of each caption alone

    @property
    def seconds_per_picture(self) -> float:
        """Median over the pictures of the wall time of their batch divided by its size."""
        sizes: dict[float, int] = {}
        for caption in self.captions:
            sizes[caption.seconds] = sizes.get(caption.seconds, 0) + 1
        return statistics.median(c.seconds / sizes[c.seconds] for c in self.captions)


def normalise_text(text: str) -> str:
    """What is compared: lower case, punctuation replaced by spaces, single spaces."""
    return " ".join(_NO_WORD.sub(" ", text.lower()).split())


def repeats(text: str) -> bool:
    """Whether a word follows itself or a phrase of three words occurs twice."""
    words = normalise_text(text).split()
    phrases = list(zip(words, words[1:], words[2:], strict=False))
    doubled = any(first == second for first, second in zip(words, words[1:], strict=False))
    return doubled or len(set(phrases)) < len(phrases)


def exact_match(text: str, references: Sequence[str]) -> bool:
    """Whether a caption says what one of the references says, but for case and punctuation."""
    return normalise_text(text) in map(normalise_text, references)


def edit_distance(text: str, references: Sequence[str]) -> int:
    """Words to insert, delete or replace (Levenshtein 1966) to reach the nearest reference."""
    words = normalise_text(text).split()
    return min(_distance(words, normalise_text(one).split()) for one in references)


def _distance(first: Sequence[str], second: Sequence[str]) -> int:
    row = list(range(len(second) + 1))
    for i, word in enumerate(first, start=1):
        before, row = row, [i]
        for j, other in enumerate(second, start=1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (word != other)))
    return row[-1]


def score_texts(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    cider: Sequence[float] | None = None,
) -> tuple[Figures, list[float]]:
    """Figures of captions against human ones, and the CIDEr of each caption.

    Document frequencies for CIDEr come from the references given, as is the custom; so CIDEr of
    sets of different pictures is not comparable, and that of a single picture is 0. ``cider`` is
    that of each caption where it was computed already, with the frequencies of a larger set.

    Raises:
        InvalidDataset: if there is nothing to score, the two differ in length, or a picture has no
            reference.
    """
    if not texts or len(texts) != len(references):
        raise InvalidDataset(f"{len(texts)} captions do not fit {len(references)} pictures.")
    said = {i: [normalise_text(text)] for i, text in enumerate(texts)}
    wanted = {i: [normalise_text(text) for text in group] for i, group in enumerate(references)}
    if not all(wanted.values()):
        raise InvalidDataset("A picture has no reference caption.")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its lengths
        bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
        rouge, _ = Rouge().compute_score(wanted, said)
    each = cider_of_each(texts, references) if cider is None else list(cider)
    plain = [said[i][0] for i in range(len(texts))]
    figures = Figures(
        pictures=len(texts),
        bleu_1=float(bleu[0]),
        bleu_2=float(bleu[1]),
        bleu_3=float(bleu[2]),
        bleu_4=float(bleu[3]),
        cider=statistics.fmean(each),
        rouge_l=float(rouge),
        distinct=len(set(plain)) / len(plain),
        empty=sum(not text for text in plain),
        repeating=sum(repeats(text) for text in plain),
        mean_words=statistics.fmean(len(text.split()) for text in plain),
        exact=sum(map(exact_match, texts, references)),
        edit_distance=statistics.fmean(map(edit_distance, texts, references)),
    )
    return figures, each


def cider_of_each(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr (0 to 10) of each caption, with the document frequencies of all these references."""
    from pycocoevalcap.cider.cider import Cider

    said = {i: [normalise_text(text)] for i, text in enumerate(texts)}
    wanted = {i: [normalise_text(text) for text in group] for i, group in enumerate(references)}
    _, each = Cider().compute_score(wanted, said)
    return [float(value) for value in each]


def caption_examples(
    captioner: Captioner, examples: Sequence[Example], options: DecodeOptions, batch: int = 16
) -> list[Caption]:
    """One caption an example, in order; ``batch`` pictures are in memory at a time.

    Raises:
        InvalidDataset: if a picture cannot be decoded.
        ModelUnavailable: if the captioner cannot caption.
    """
    captions: list[Caption] = []
    for part in _batches(examples, batch):
        captions += captioner.caption([open_picture(example.path) for example in part], options)
    return captions


def evaluate(
    captioner: Captioner, examples: Sequence[Example], options: DecodeOptions, batch: int = 16
) -> Evaluation:
    """Caption held-out pictures and score the captions.

    Raises:
        InvalidDataset: if there is no picture, or one that cannot be decoded.
        ModelUnavailable: if the captioner cannot caption.
    """
    captions = caption_examples(captioner, examples, options, batch)
    figures, cider = score_texts(
        [caption.text for caption in captions], [example.captions for example in examples]
    )
    return Evaluation(figures, captions, cider)


def _batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    for first in range(0, len(examples), size):
        yield examples[first : first + size]


def open_picture(path: Path) -> Image.Image:
    """The picture as the application would take it in: upright, in sRGB, opaque.

    Raises:
        InvalidDataset: if it cannot be decoded.
    """
    return read_picture(path).image


def read_picture(path: Path) -> ValidatedImage:
    """The same with its ``image_id``. Raises as that does."""
    from captionapp.images import ImageLimits, decode

    try:
        # The operator's own folder: only what is no picture at all is refused.
        return decode(path.read_bytes(), ImageLimits(2**31, 2**31))
    except (OSError, InvalidImage) as error:
        raise InvalidDataset(f"{path} cannot be read as a picture: {error}") from error
