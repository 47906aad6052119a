"""What a configuration leaves open: chosen for a model and a machine. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable
from captionapp.training.config import FinetuneConfig

#: From this many parameters on LoRA is chosen: a step of all weights costs a laptop too much.
LORA_PARAMETERS = 150_000_000
#: Full fine-tuning keeps weights, gradients, two moments, the starting, best, and mean weights.
COPIES = 7
#: Share of the free memory that these may take; pictures and activations want some too.
MEMORY_SHARE = 0.5
#: From this many corrections on there is enough to teach a vision model without it unlearning.
TRAIN_VISION_FROM = 5_000
#: Before that the upper layers learn if they cost a picture at most so many operations a step, some
#: tenths of a second of one core: those of the shipped model take 3e9, of BLIP-base's 1e11.
UPPER_OPERATIONS = 2e10


def settled(config: FinetuneConfig, start: ModelVersion, corrections: int) -> FinetuneConfig:
    """The configuration with nothing left to be chosen, so that a training that goes on, with other
    memory free or on another processor, is the same training.

    Raises:
        ModelUnavailable: if ``start`` has no configuration of a model.
    """
    vision, method, bf16 = config.vision, config.method, config.bf16
    with reading(start):
        described = BlipConfig.from_pretrained(str(start.folder), local_files_only=True)
        parameters = _parameters(described)
    if vision == "auto" and corrections >= TRAIN_VISION_FROM:
        vision = "trained"
    elif vision == "auto":
        cheap = _operations(described, config.upper_layers) <= UPPER_OPERATIONS
        vision = "upper" if cheap else "frozen"
    if method == "auto":
        method = _affordable(parameters, _free_memory())
    return replace(
        config, vision=vision, method=method, bf16=bf16_is_faster() if bf16 is None else bf16
    )


def _affordable(parameters: int, free_bytes: int) -> str:
    """The method that fits the model and the memory: ``full`` if it can be, else ``lora``."""
    small = parameters < LORA_PARAMETERS
    return "full" if small and 4 * COPIES * parameters <= MEMORY_SHARE * free_bytes else "lora"


def bf16_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in bfloat16, by trying."""

    def seconds(precision: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=precision)
        tries = []
        for _ in range(5):
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            tries.append(time.perf_counter() - began)
        return min(tries)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


@contextmanager
def reading(start: ModelVersion) -> Iterator[None]:
    """Of a broken file almost anything can be raised."""
    try:
        yield
    except Exception as error:
        raise ModelUnavailable(f"The version {start.name} cannot be loaded: {error}") from error


def _parameters(described: BlipConfig) -> int:
    with torch.device("meta"):  # counted, and not made
        model = BlipForConditionalGeneration(described)
    return sum(parameter.numel() for parameter in model.parameters())


def _operations(described: BlipConfig, layers: int) -> float:
    """Of a picture in a step, in so many vision layers that learn: each weight is multiplied and
    added at each place, forward once and backward twice."""
    vision: Any = described.vision_config
    places = (vision.image_size // vision.patch_size) ** 2 + 1
    weights = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    return float(6 * weights * places * min(layers, vision.num_hidden_layers))


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
