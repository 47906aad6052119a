"""Examples -> the tensors of a training step. Imports torch.

What a step sees follows from the seed and its number alone, so that a training that goes on after
a crash needs no state for it.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageOps

from captionapp.training.config import FinetuneConfig
from captionapp.training.dataset import Example, normalise_caption

#: Of the pictures that are kept in memory, reduced to somewhat more than the model sees.
CACHE_BYTES = 512 * 2**20
#: How much larger than the model's input a picture is kept, so that a crop is still sharp.
SPARE = 1.25
#: Label of what is no word to be learnt; `torch.nn.functional.cross_entropy` leaves it out.
IGNORED = -100
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """n pictures with a caption each; the first ``corrections`` are corrections.

    Text is (n, longest caption): ``labels`` is the word that follows each of ``input_ids``, [SEP]
    at the end, and -100 in the padding.
    """

    pixels: torch.Tensor  # (n, 3, height, width)
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    corrections: int

    def part(self, first: int) -> Batch:
        """The pictures from number ``first`` on."""
        return Batch(
            self.pixels[first:],
            self.input_ids[first:],
            self.attention_mask[first:],
            self.labels[first:],
            max(0, self.corrections - first),
        )


class Batches:
    """Draws batches; a picture that cannot be read is said once and left out.

    ``processor`` and ``text_config`` are the checkpoint's. ``on_skip`` gets a sentence.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        processor: Any,
        text_config: Any,
        on_skip: Callable[[str], None],
    ) -> None:
        self.config = config
        self.processor = processor
        self.text_config = text_config
        self.on_skip = on_skip
        self.broken: set[Path] = set()
        size = processor.image_processor.size
        self._kept = int(SPARE * max(size["height"], size["width"]))
        self._open = lru_cache(CACHE_BYTES // (3 * self._kept**2))(self._decode)

    def draw(
        self, step: int, train: Sequence[Example], rehearsal: Sequence[Example]
    ) -> Batch | None:
        """The corrections and rehearsed pictures of a step, augmented; None if none can be read."""
        config = self.config
        count = min(config.batch_size, len(train))
        chosen = _turn(train, step, count, f"{config.seed} train")
        more = min(round(config.rehearsal * count), len(rehearsal))
        chosen += _turn(rehearsal, step, more, f"{config.seed} rehearsal")
        chance = random.Random(f"{config.seed} {step}")
        pictures, captions, corrections = [], [], 0
        for place, example in enumerate(chosen):
            caption = chance.choice(example.captions)
            picture = self._read(example)
            if picture is None:
                continue
            pictures.append(augment(picture, caption, config, chance))
            captions.append(caption)
            corrections += place < count
        return self._batch(pictures, captions, corrections) if corrections else None

    def as_they_are(self, examples: Sequence[Example]) -> list[Batch]:
        """All pictures, unchanged, with each of their captions, for a loss that can be compared."""
        pairs = [(example, caption) for example in examples for caption in example.captions]
        size = self.config.batch_size
        batches = []
        for first in range(0, len(pairs), size):
            read = [(self._read(example), caption) for example, caption in pairs[first:][:size]]
            there = [(picture, caption) for picture, caption in read if picture is not None]
            if there:
                pictures, captions = zip(*there, strict=True)
                batches.append(self._batch(pictures, captions, len(there)))
        return batches

    def _batch(
        self, pictures: Sequence[Image.Image], captions: Sequence[str], corrections: int
    ) -> Batch:
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        text = self.text_config
        room = min(self.config.max_tokens, text.max_position_embeddings) - 1
        words = [
            # A person who writes "[SEP]" means the letters, and not the end of the caption.
            self.processor.tokenizer(
                normalise_caption(caption), add_special_tokens=False, split_special_tokens=True
            ).input_ids[:room]
            for caption in captions
        ]
        shape = (len(words), 1 + max(map(len, words)))
        input_ids = torch.full(shape, text.pad_token_id)
        labels = torch.full(shape, IGNORED)
        for row, tokens in enumerate(words):
            input_ids[row, : len(tokens) + 1] = torch.tensor([text.bos_token_id, *tokens])
            labels[row, : len(tokens) + 1] = torch.tensor([*tokens, text.sep_token_id])
        mask = (labels != IGNORED).long()
        return Batch(pixels.pixel_values, input_ids, mask, labels, corrections)

    def _read(self, example: Example) -> Image.Image | None:
        if example.path in self.broken:
            return None
        try:
            return self._open(example.path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.broken.add(example.path)
            self.on_skip(f"The picture {example.path} cannot be read and is left out: {error}")
            return None

    def _decode(self, path: Path) -> Image.Image:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = picture.size
        # The model squeezes pictures into a square, so either side counts by itself.
        size = (min(width, self._kept), min(height, self._kept))
        return (
            picture.resize(size, Image.Resampling.BICUBIC) if size != (width, height) else picture
        )


def augment(
    picture: Image.Image, caption: str, config: FinetuneConfig, chance: random.Random
) -> Image.Image:
    """A part of the picture, in somewhat other colours, perhaps mirrored."""
    width, height = picture.size
    share = chance.uniform(config.crop, 1) ** 0.5  # of each side
    stretch = chance.uniform(0.9, 1 / 0.9) ** 0.5
    part = (min(1, share * stretch) * width, min(1, share / stretch) * height)
    left, top = chance.uniform(0, width - part[0]), chance.uniform(0, height - part[1])
    box = (round(left), round(top), round(left + part[0]), round(top + part[1]))
    picture = picture.crop(box)
    if config.flip and not _SIDES.search(caption) and chance.random() < 0.5:
        picture = ImageOps.mirror(picture)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(chance.uniform(1 - config.colour, 1 + config.colour))
    return picture


def _turn(examples: Sequence[Example], step: int, count: int, seed: str) -> list[Example]:
    """``count`` examples for this step; each has its turn once a pass."""
    chosen = []
    for place in range(step * count, (step + 1) * count):
        turn, index = divmod(place, len(examples))
        chosen.append(examples[_order(len(examples), f"{seed} {turn}")[index]])
    return chosen


@lru_cache(8)
def _order(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
