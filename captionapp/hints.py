"""Pictures of which a captioner can say little: a confident sentence about them would mislead.

Models were trained on photographs that show something; of a white page or of a dozen pixels they
write a sentence all the same, often a strange one (salesforce/LAVIS#768).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from PIL import Image

#: The spread of a picture is what lies between the darkest and the brightest hundredth of its
#: pixels, in the channel where that is most, of 255. The flattest of 2,500 photographs of Flickr8k
#: has 70; grey with the noise of a camera (standard deviation 2) has 5.
BLANK = 8
NEARLY_UNIFORM = 40
#: Pixels of the shorter side. The shipped model cuts a picture into patches of 32 pixels: one with
#: fewer of its own is enlarged until nothing in it has an edge.
SMALL = 32
#: Pixels of the longest side that the spread is looked for in.
_SIDE = 128


class Hint(StrEnum):
    """Why a description of the picture is to be read with care."""

    BLANK = "blank"
    NEARLY_UNIFORM = "nearly-uniform"
    SMALL = "small"


def hint(image: Image.Image) -> Hint | None:
    """What is to be said of this RGB picture beside its description; None of most pictures."""
    spread = _spread(image)
    if spread <= BLANK:
        return Hint.BLANK
    if spread <= NEARLY_UNIFORM:
        return Hint.NEARLY_UNIFORM
    return Hint.SMALL if min(image.size) < SMALL else None


def _spread(image: Image.Image) -> float:
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))  # the noise of single pixels is evened out
    pixels = np.asarray(small.convert("RGB")).reshape(-1, 3)
    darkest, brightest = np.percentile(pixels, [1, 99], axis=0)
    return float((brightest - darkest).max())
