"""Trainings of a tiny BLIP."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.versions import ModelVersion
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.dataset import Example
from tests.conftest import draw

CONFIG = FinetuneConfig(
    epochs=20,
    learning_rate=3e-3,
    lora_learning_rate=1e-2,
    batch_size=4,
    bf16=False,
    method="full",
    vision="frozen",
    way_back=0.0,
)
COLOURS = ("red", "blue", "green", "white", "black", "yellow")


def tiny_version(checkpoint: Path) -> ModelVersion:
    return ModelVersion("tiny-1", checkpoint, "local", "2026-01-01T00:00:00Z")


def seeing_version(checkpoint: Path, folder: Path, dropout: float = 0.0) -> ModelVersion:
    """A tiny version whose vision half tells pictures apart: BLIP begins with weights of 1e-10."""
    import torch
    from transformers import BlipForConditionalGeneration

    shutil.copytree(checkpoint, folder)
    model = BlipForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.config.text_config.hidden_dropout_prob = dropout
    model.save_pretrained(folder)
    return tiny_version(folder)


def drawn(folder: Path, caption: str, count: int) -> list[Example]:
    """So many different pictures, all with this caption."""
    examples = []
    for number in range(count):
        path = folder / f"{caption}-{number}.png"
        draw(COLOURS[number % len(COLOURS)], (40 + number, 40)).save(path)
        examples.append(Example(path, (caption,)))
    return examples


class Training:
    """A training and what was said while it went on; ``stop_at`` is a step."""

    def __init__(self, start: ModelVersion, folder: Path, stop_at: int = 10**9) -> None:
        self.start, self.folder, self.stop_at = start, folder, stop_at
        self.progress: list[Progress] = []
        self.skipped: list[str] = []
        self.asked = 0

    def run(
        self,
        config: FinetuneConfig,
        train: Sequence[Example],
        held_out: Sequence[Example] = (),
        rehearsal: Sequence[Example] = (),
    ) -> Any:
        from captionapp.training.finetune import finetune

        self.folder.mkdir(exist_ok=True)
        return finetune(
            config,
            self.start,
            train,
            held_out,
            rehearsal,
            self.folder,
            self.progress.append,
            self._should_stop,
            self.skipped.append,
        )

    def _should_stop(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_at


def captions(folder: Path, examples: Sequence[Example]) -> set[str]:
    from PIL import Image

    from captionapp.captioning.blip import BlipCaptioner

    captioner = BlipCaptioner.load(folder, "made")
    opened = [Image.open(example.path).convert("RGB") for example in examples]
    return {made.text for made in captioner.caption(opened, DecodeOptions(num_beams=1))}


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
