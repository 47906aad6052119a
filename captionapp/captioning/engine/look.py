"""Where in the picture the text decoder looks: its cross-attention, made into shares of fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from captionapp.captioning.captioner import Looks
from captionapp.captioning.engine.torch_backend import TorchBackend


def looks(
    backend: TorchBackend, pixels: torch.Tensor, given: Sequence[int], words: Sequence[range]
) -> Looks:
    """Of the caption whose tokens, but for the last one, are ``given``, [DEC] first: the token at
    place i is written while the decoder reads the one before it. ``words`` are ranges of places.

    ``pixels`` are those of one picture, (1, 3, height, width).
    """
    decoding = backend.begin(backend.encode(pixels))
    attention = decoding.look(torch.tensor([list(given)]))[0, :, 1:]  # the class token is no place
    size = backend.vision.patch_size
    rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
    shares = [attention[list(word)].mean(0) for word in words]
    return Looks(columns, rows, tuple(tuple((one / one.sum()).tolist()) for one in shares))
