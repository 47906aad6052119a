"""The parts of the torch engine whose arithmetic is not fp32's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipForConditionalGeneration

from captionapp.captioning.engine import precision
from captionapp.captioning.engine.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def model(wordy: Path) -> Any:
    return BlipForConditionalGeneration.from_pretrained(wordy).eval()


@pytest.mark.parametrize("name", ["bf16", "mixed"])
@torch.inference_mode()
def test_the_likeliest_logits_are_those_of_the_full_weights(
    model: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionapp.captioning.engine.torch_backend._REFINED", 8)
    x = torch.randn(3, model.config.text_config.hidden_size)
    exact = model.text_decoder.cls(x)
    found = TorchBackend(model, precision.named(name)).head(x)
    likely = exact.topk(4)[1]
    assert torch.allclose(found.gather(-1, likely), exact.gather(-1, likely), atol=1e-3)
    assert not torch.allclose(found, exact, atol=1e-3)  # the others are not


@pytest.mark.parametrize("name", ["fp16", "bf16", "mixed", "int8"])
@torch.inference_mode()
def test_every_format_sees_the_picture(model: Any, name: str) -> None:
    exact = TorchBackend(model, precision.FP32)
    rough = TorchBackend(model, precision.named(name))
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=noise)
    first, second = exact.encode(pixels), rough.encode(pixels).float()
    assert (first - second).abs().mean() < 0.1 * (first[0] - first[1]).abs().mean()
