"""What a step sees of pictures and captions."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps

from captionapp.training.config import FinetuneConfig
from captionapp.training.dataset import Example
from tests.conftest import draw

pytest.importorskip("torch")
from captionapp.training.batches import View  # noqa: E402

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
    return {batches._view(Path("1.png"), caption, config.views, chance, ()) for _ in range(100)}


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
    from captionapp.training.batches import shown

    picture = draw("red", (80, 60))
    plain = shown(picture, View(Path("1.png")), CONFIG)
    assert same(plain, picture)
    mirrored = shown(picture, View(Path("1.png"), mirrored=True), CONFIG)
    assert same(mirrored, ImageOps.mirror(picture))
    part, again = (shown(picture, View(Path("1.png"), part="x"), CONFIG) for _ in range(2))
    assert same(part, again) and part.size != picture.size
    assert part.width * part.height >= 0.95 * CONFIG.crop * 80 * 60  # but for rounding


def test_the_smallest_part_is_a_pixel_of_the_picture() -> None:
    from captionapp.training.batches import _box

    for number in range(200):
        size = (1 + number % 3, 1 + number % 2)
        left, top, right, bottom = _box(size, 1e-6, random.Random(number))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("frozen", [True, False])
def test_some_parts_are_shown_within_rehearsed_pictures(
    processor: Any, frozen: bool, tmp_path: Path
) -> None:
    from captionapp.training.batches import Batches

    others = [Example(tmp_path / f"{number}.png", ("a dog",)) for number in range(3)]
    for example in others[:2]:
        draw("blue").save(example.path)  # the third one is missing

    def of(inset: float) -> list[View]:
        features: Any = object() if frozen else None
        config = replace(CONFIG, inset=inset, views=40)
        batches = Batches(config, processor, None, features, lambda sentence: None)
        chance = random.Random(1)
        return [batches._view(others[0].path, "a cat", 40, chance, others) for _ in range(200)]

    assert not any(view.around for view in of(0.0))
    every, some = of(1.0), of(0.5)
    assert {view.around for view in every} == {None, others[1].path}  # not itself, none missing
    assert not any(view.around for view in every if not view.part)
    assert (
        0
        < sum(view.around is not None for view in some)
        < sum(view.around is not None for view in every)
    )
    assert 0.2 < sum(view.around is not None for view in every) / 200 < 0.5  # one of three is left


def test_a_view_within_another_picture_covers_a_fifth_to_a_half_of_it() -> None:
    from captionapp.training.batches import shown

    around = Image.new("RGB", (90, 50), "blue")
    for number in range(20):
        view = View(Path("1.png"), number % 2 == 1, f"{number}", Path("2.png"))
        picture = Image.new("RGB", (40, 60), "red")
        together, again = (shown(picture, view, replace(CONFIG, colour=0.0), around) for _ in "12")
        assert same(together, again) and together.size == around.size
        red = ImageChops.difference(together, around).getbbox()
        assert red is not None
        assert 0.44**2 < (red[2] - red[0]) * (red[3] - red[1]) / (90 * 50) < 0.76**2
    assert around.getcolors() == [(90 * 50, (0, 0, 255))]  # it is as it was


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and not ImageChops.difference(one, other).getbbox()
