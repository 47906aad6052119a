"""The parts of the torch engine whose arithmetic is not fp32's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipForConditionalGeneration

from captionapp.captioning.engine import precision
from captionapp.captioning.engine.torch_backend import TorchBackend, _linear
from tests.tiny_blip import make_wordy_blip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = make_wordy_blip(tmp_path_factory.mktemp("wordy"))
    return BlipForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 48)


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("activation", ["", "gelu"])
@torch.inference_mode()
def test_int8_is_near_fp32(layer: torch.nn.Linear, many: bool, activation: str) -> None:
    x = torch.randn(5, 64)
    exact = torch.nn.functional.gelu(layer(x)) if activation else layer(x)
    rounded = _linear(layer, weights=torch.int8, many=many, activation=activation)(x)
    assert 0 < (rounded - exact).abs().max() < 0.03 * exact.abs().max()


@torch.inference_mode()
def test_a_row_in_int8_is_not_lost_beside_a_large_one(layer: torch.nn.Linear) -> None:
    """torch's own rounding takes one scale for all rows: the small one would vanish."""
    x = torch.randn(2, 64)
    x[1] *= 1000
    rounded = _linear(layer, weights=torch.int8)
    assert (rounded(x)[0] - layer(x)[0]).abs().max() < 0.03


@torch.inference_mode()
def test_a_row_of_zeros_gives_the_bias(layer: torch.nn.Linear) -> None:
    rounded = _linear(layer, weights=torch.int8)(torch.zeros(1, 64))
    assert torch.allclose(rounded[0], layer.bias, atol=1e-6)


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


@pytest.mark.parametrize("name", ["bf16", "mixed", "int8"])
@torch.inference_mode()
def test_every_format_sees_the_picture(model: Any, name: str) -> None:
    exact = TorchBackend(model, precision.FP32)
    rough = TorchBackend(model, precision.named(name))
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=noise)
    first, second = exact.encode(pixels), rough.encode(pixels).float()
    assert (first - second).abs().mean() < 0.1 * (first[0] - first[1]).abs().mean()


def test_the_fastest_formats_end_in_fp32() -> None:
    names = precision.fastest()
    assert names[-1] == "fp32"
    assert [precision.named(name).name for name in names] == names


def test_packing_for_many_rows_leaves_torch_s_choice_as_it_was() -> None:
    before = torch.backends.quantized.engine
    with precision.quantized_engine(many=True):
        pass
    assert torch.backends.quantized.engine == before
