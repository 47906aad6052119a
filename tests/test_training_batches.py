"""What a step sees of pictures and captions."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps

from captionapp.training.config import FinetuneConfig
from tests.conftest import draw

pytest.importorskip("torch")

CONFIG = FinetuneConfig()


@pytest.fixture(scope="module")
def processor(checkpoint: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint, backend="pil")


def views(processor: Any, caption: str, frozen: bool, config: FinetuneConfig = CONFIG) -> set[Any]:
    """All views of a picture that a hundred steps show."""
    from captionapp.training.batches import Batches

    features: Any = object() if frozen else None
    batches = Batches(config, processor, None, features, print)
    chance = random.Random(1)
    return {batches._view(Path("1.png"), caption, config.views, chance) for _ in range(100)}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_picture_with_sides_in_its_caption_is_never_mirrored(
    processor: Any, frozen: bool
) -> None:
    assert not any(view.mirrored for view in views(processor, "a cat on the left", frozen))
    some = views(processor, "a cat", frozen)
    assert {view.mirrored for view in some} == {True, False}
    unmirrored = replace(CONFIG, flip=False)
    assert not any(view.mirrored for view in views(processor, "a cat", frozen, unmirrored))


def test_with_frozen_vision_there_are_only_so_many_views(processor: Any) -> None:
    some = views(processor, "a cat", True)
    assert len(some) == CONFIG.views
    assert [view.mirrored for view in some if not view.part] in ([True, False], [False, True])
    assert len(views(processor, "a cat", True, replace(CONFIG, flip=False))) == CONFIG.views
    assert len(views(processor, "to the right", True)) == CONFIG.views // 2
    assert len(views(processor, "a cat", False)) == 100


def test_a_view_shows_the_same_whenever_it_is_shown() -> None:
    from captionapp.training.batches import View, shown

    picture = draw("red", (80, 60))
    plain = shown(picture, View(Path("1.png")), CONFIG)
    assert same(plain, picture)
    mirrored = shown(picture, View(Path("1.png"), mirrored=True), CONFIG)
    assert same(mirrored, ImageOps.mirror(picture))
    part, again = (shown(picture, View(Path("1.png"), part="x"), CONFIG) for _ in range(2))
    assert same(part, again) and part.size != picture.size
    assert part.width * part.height >= 0.95 * CONFIG.crop * 80 * 60  # but for rounding


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and not ImageChops.difference(one, other).getbbox()
