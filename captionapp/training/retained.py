"""Which pictures of a retained folder are rehearsed, and which only judge: none does both.

The folder may be an export of this application, or hold pictures that are uploaded some day, so
its pictures pass through the sides like those with an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from captionapp.errors import InvalidDataset, InvalidImage
from captionapp.training.dataset import Example
from captionapp.training.evaluate import open_picture, read_picture
from captionapp.training.split import Side, Sides

if TYPE_CHECKING:
    from PIL import Image

HELD_OUT_SHARE = 0.2


def split_retained(
    examples: Sequence[Example], held_out_share: float = HELD_OUT_SHARE
) -> tuple[list[Example], list[Example]]:
    """Examples of an imagefolder -> (what may be rehearsed, what is held out), in their order.

    By a hash of the file's name, so that a picture is on the same side whatever else is in the
    folder, and wherever the folder is.
    """
    rehearsed: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        digest = hashlib.sha256(example.path.name.encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        (held_out if share < held_out_share else rehearsed).append(example)
    return rehearsed, held_out


def keep_on_side(
    examples: Sequence[Example], sides: Sides, side: Side, on_skip: Callable[[str], None]
) -> list[Example]:
    """Put the pictures on a side, for good; those that are of the other, near to it, or cannot be
    read, are left out."""
    named = []
    for example in examples:
        try:
            named.append((example, read_picture(example.path).image_id))
        except InvalidDataset as error:
            on_skip(f"{error}; it is left out.")
    pictures = [(image_id, partial(_load, example.path)) for example, image_id in named]
    given = sides.assign(pictures, side)
    return [example for example, image_id in named if given.get(image_id) is side]


def not_trained_on(examples: Sequence[Example], sides: Sides) -> list[Example]:
    """Those that are not of the training side, nor near to what is. What cannot be read stays."""
    image_ids = {}
    for example in examples:
        try:
            image_ids[example.path] = read_picture(example.path).image_id
        except InvalidDataset:
            continue  # whoever opens it says so
    touched = sides.touched([(one, partial(_load, path)) for path, one in image_ids.items()])
    return [
        example
        for example in examples
        if Side.TRAIN not in touched.get(image_ids.get(example.path, ""), set())
    ]


def _load(path: Path) -> Image.Image:
    try:
        return open_picture(path)
    except InvalidDataset as error:
        raise InvalidImage(str(error)) from error
