"""Pictures captioned together, of which one that fails takes nothing from the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.errors import CaptionAppError

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)


def caption_together(
    captioner: Captioner, images: Sequence[Image.Image], options: DecodeOptions
) -> list[Caption | str]:
    """A caption for each RGB picture, or the sentence that says why it has none; in order.

    If the batch fails, its pictures go one by one.
    """
    if not images:
        return []
    try:
        return list(captioner.caption(images, options))
    except Exception as error:  # whatever torch raises for one picture must not end the others
        if len(images) > 1:
            return [
                one for image in images for one in caption_together(captioner, [image], options)
            ]
        logger.debug("a picture could not be described", exc_info=error)
        known = isinstance(error, CaptionAppError)
        return [str(error) if known else f"The model failed: {error}"]
