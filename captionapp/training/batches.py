"""Examples -> the tensors of a training step. Imports torch.

With a trained vision half a step sees pictures that are augmented anew. With one that is frozen, or
but for its upper layers, it sees one of some views of each, which ``Features`` keeps.

What a step sees follows from the seed and its number alone, so that a training that goes on after
a crash needs no state for it.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image, ImageEnhance, ImageOps

from captionapp.training.config import FinetuneConfig
from captionapp.training.dataset import Example, normalise_caption
from captionapp.training.features import Features

#: Of the pictures that are kept in memory, reduced to somewhat more than the model sees.
CACHE_BYTES = 512 * 2**20
#: How much larger than the model's input a picture is kept, so that a crop is still sharp.
SPARE = 1.25
#: Shares of a picture's sides that another one takes within it, from and to.
_INSET = (0.45, 0.75)
#: Label of what is no word to be learnt; `torch.nn.functional.cross_entropy` leaves it out.
IGNORED = -100
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """n pictures with a caption each; the first ``corrections`` are corrections.

    ``pictures`` are pixels (n, 3, height, width), or what the frozen layers of the vision model
    made of them (n, places, width). Text is (n, longest caption): ``labels`` is the word that
    follows each of ``input_ids``, [SEP] at the end, and -100 in the padding.
    """

    pictures: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    corrections: int

    def part(self, first: int) -> Batch:
        """The pictures from number ``first`` on."""
        return Batch(
            self.pictures[first:],
            self.input_ids[first:],
            self.attention_mask[first:],
            self.labels[first:],
            max(0, self.corrections - first),
        )


@dataclass(frozen=True)
class View:
    """How a picture is shown: mirrored or not, and a part of it that follows from the text
    ``part``; all of it, in its own colours, if that is empty. Perhaps small, within the picture
    ``around``: what is small in a picture is overlooked otherwise."""

    path: Path
    mirrored: bool = False
    part: str = ""
    around: Path | None = None


class Batches:
    """Draws batches. A picture that cannot be read is named once, to ``on_skip``, and left out.

    ``processor`` and ``text_config`` are the checkpoint's; ``features`` are those of the frozen
    layers of the vision model, None if all are trained.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        processor: Any,
        text_config: Any,
        features: Features | None,
        on_skip: Callable[[str], None],
    ) -> None:
        self.config = config
        self.processor = processor
        self.text_config = text_config
        self.features = features
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
        views, captions, corrections = [], [], 0
        for place, example in enumerate(chosen):
            caption = chance.choice(example.captions)
            of_how_many = config.views if place < count else config.rehearsed_views
            view = self._view(example.path, caption, of_how_many, chance, rehearsal)
            if self._read(example.path) is None:
                continue
            views.append(view)
            captions.append(caption)
            corrections += place < count
        return self._batch(views, captions, corrections) if corrections else None

    def readable(self, examples: Sequence[Example]) -> list[Example]:
        """Those whose pictures can be read."""
        return [example for example in examples if self._read(example.path) is not None]

    def as_they_are(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """All pictures, unchanged, with each of their captions, for a loss that can be compared."""
        pairs = [
            (View(example.path), caption) for example in examples for caption in example.captions
        ]
        size = self.config.batch_size
        for first in range(0, len(pairs), size):
            there = [pair for pair in pairs[first:][:size] if self._read(pair[0].path) is not None]
            if there:
                views, captions = zip(*there, strict=True)
                yield self._batch(views, captions, len(there))

    def _view(
        self,
        path: Path,
        caption: str,
        of_how_many: int,
        chance: random.Random,
        others: Sequence[Example],
    ) -> View:
        """How a picture is shown this time; perhaps within one of ``others``."""
        config = self.config
        may_mirror = config.flip and not _SIDES.search(caption)
        if self.features is None:
            mirrored = may_mirror and chance.random() < 0.5
            part = f"{chance.random()}"
            return View(path, mirrored, part, self._around(path, part, others))
        number = chance.randrange(of_how_many)
        mirrored = config.flip and number % 2 == 1
        if mirrored and not may_mirror:
            number, mirrored = number - 1, False
        # The first two show all of the picture.
        part = "" if number < (2 if config.flip else 1) else f"{config.seed} {path.name} {number}"
        return View(path, mirrored, part, self._around(path, part, others))

    def _around(self, path: Path, part: str, others: Sequence[Example]) -> Path | None:
        """The picture within which this part is shown, if it is."""
        chance = random.Random(f"{part} around")
        if not part or not others or chance.random() >= self.config.inset:
            return None
        around = chance.choice(others).path
        return around if around != path and self._read(around) is not None else None

    def _shown(self, view: View) -> Image.Image:
        picture = self._read(view.path)
        assert picture is not None  # it was read a moment ago
        around = self._read(view.around) if view.around else None
        return shown(picture, view, self.config, around)

    def _pixels(self, views: Sequence[View]) -> torch.Tensor:
        pictures = [self._shown(view) for view in views]
        made = self.processor.image_processor(images=pictures, return_tensors="pt")
        return cast(torch.Tensor, made.pixel_values)

    def _pictures(self, views: Sequence[View]) -> torch.Tensor:
        if self.features is None:
            return self._pixels(views)
        return self.features.of(
            [repr(view) for view in views],
            lambda places: self._pixels([views[place] for place in places]),
        )

    def _batch(self, views: Sequence[View], captions: Sequence[str], corrections: int) -> Batch:
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
        return Batch(self._pictures(views), input_ids, mask, labels, corrections)

    def _read(self, path: Path) -> Image.Image | None:
        if path in self.broken:
            return None
        try:
            return self._open(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.broken.add(path)
            self.on_skip(f"The picture {path} cannot be read and is left out: {error}")
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


def shown(
    picture: Image.Image, view: View, config: FinetuneConfig, around: Image.Image | None = None
) -> Image.Image:
    """The picture as the view says: mirrored perhaps, a part of it in somewhat other colours,
    within ``around`` if there is one."""
    chance = random.Random(view.part)
    if view.part:
        picture = picture.crop(_box(picture.size, config.crop, chance))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            change = chance.uniform(1 - config.colour, 1 + config.colour)
            picture = enhance(picture).enhance(change)
    if view.mirrored:
        picture = ImageOps.mirror(picture)
    return _within(around, picture, chance) if around is not None else picture


def _within(around: Image.Image, picture: Image.Image, chance: random.Random) -> Image.Image:
    """``around``, of which ``picture`` covers a fifth to a half."""
    share = chance.uniform(*_INSET)  # of each side
    size = (round(around.width * share), round(around.height * share))
    place = (chance.randint(0, around.width - size[0]), chance.randint(0, around.height - size[1]))
    together = around.copy()
    together.paste(picture.resize(size, Image.Resampling.BICUBIC), place)
    return together


def _box(
    size: tuple[int, int], smallest: float, chance: random.Random
) -> tuple[int, int, int, int]:
    """A part of a picture of this size, of about its shape; at least a pixel of it."""
    width, height = size
    share = chance.uniform(smallest, 1) ** 0.5  # of each side
    stretch = chance.uniform(0.9, 1 / 0.9) ** 0.5
    part = (min(1, share * stretch) * width, min(1, share / stretch) * height)
    left, top = chance.uniform(0, width - part[0]), chance.uniform(0, height - part[1])
    x, y = min(round(left), width - 1), min(round(top), height - 1)
    return x, y, max(x + 1, round(left + part[0])), max(y + 1, round(top + part[1]))


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
