"""The part of a retained folder that no training may see, since the gate judges by it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from captionapp.training.dataset import Example

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
