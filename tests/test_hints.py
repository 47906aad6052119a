from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from captionapp.hints import Hint, hint
from tests.browser.scenes import landscape
from tests.conftest import draw


def noise(deviation: float, size: tuple[int, int] = (300, 200)) -> Image.Image:
    random = np.random.default_rng(0)
    grey = 128 + random.normal(0, deviation, (size[1], size[0], 3))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def page_with_a_smudge() -> Image.Image:
    page = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(page).ellipse((200, 150, 210, 160), fill="black")
    return page


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("RGB", (300, 200), "white"), Hint.BLANK),
        (Image.new("RGB", (10, 10), "black"), Hint.BLANK),
        (noise(2), Hint.BLANK),
        (page_with_a_smudge(), Hint.BLANK),
        (
            Image.linear_gradient("L").convert("RGB").point(lambda v: 100 + v // 10),
            "nearly-uniform",
        ),
        (draw(size=(40, 31)), Hint.SMALL),
        (draw(size=(300, 8)), Hint.SMALL),
        (draw(size=(64, 48)), None),
        (landscape(), None),
        (Image.linear_gradient("L").convert("RGB"), None),
    ],
)
def test_of_which_pictures_little_can_be_said(picture: Image.Image, expected: Hint | None) -> None:
    assert hint(picture) == expected


def test_red_and_green_of_equal_brightness_are_not_uniform() -> None:
    picture = Image.new("RGB", (100, 100), (200, 0, 0))
    picture.paste((0, 102, 0), (0, 0, 50, 100))
    assert hint(picture) is None
