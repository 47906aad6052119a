"""Layers in the number formats: near float32, each in its way."""

from __future__ import annotations

import pytest
import torch

from captionapp.captioning.engine import linear as module
from captionapp.captioning.engine.linear import linear


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 48)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("activation", ["", "gelu"])
@torch.inference_mode()
def test_int8_is_near_fp32(layer: torch.nn.Linear, many: bool, activation: str, rows: int) -> None:
    x = torch.randn(rows, 64)
    exact = torch.nn.functional.gelu(layer(x)) if activation else layer(x)
    rounded = linear(layer, weights=torch.int8, many=many, activation=activation)(x)
    assert 0 < (rounded - exact).abs().max() < 0.04 * exact.abs().max()


@torch.inference_mode()
def test_sums_of_int8_do_not_overflow(layer: torch.nn.Linear) -> None:
    """Two products of 8 bits in a sum of 16 do, on processors without VNNI."""
    layer.weight.fill_(0.5)
    x = torch.linspace(-0.1, 1, 128).view(2, 64)
    rounded = linear(layer, weights=torch.int8)(x)
    assert torch.allclose(rounded, layer(x), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("activation", ["", "gelu"])
@torch.inference_mode()
def test_fp16_rounds_the_weights_only(layer: torch.nn.Linear, activation: str) -> None:
    x = torch.randn(5, 64) * 1e5  # more than fp16 can hold
    halved = torch.nn.functional.linear(x, layer.weight.half().float(), layer.bias)
    exact = torch.nn.functional.gelu(halved) if activation else halved
    made = linear(layer, weights=torch.float16, activation=activation)(x)
    assert torch.allclose(made, exact, rtol=1e-4, atol=1)


@pytest.mark.parametrize("faster", [True, False])
@torch.inference_mode()
def test_fp32_is_exact_whichever_library_is_faster(
    layer: torch.nn.Linear, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_mkl_is_faster", lambda: faster)
    x = torch.randn(5, 64)
    made = linear(layer, layer, weights=torch.float32, many=True, activation="gelu")(x)
    exact = torch.nn.functional.gelu(layer(x))
    assert torch.allclose(made, torch.cat([exact, exact], 1), atol=1e-5)


@torch.inference_mode()
def test_a_row_in_int8_is_not_lost_beside_a_large_one(layer: torch.nn.Linear) -> None:
    """torch's own rounding takes one scale for all rows: the small one would vanish."""
    x = torch.randn(2, 64)
    x[1] *= 1000
    rounded = linear(layer, weights=torch.int8)
    assert (rounded(x)[0] - layer(x)[0]).abs().max() < 0.05


@torch.inference_mode()
def test_a_row_of_zeros_gives_the_bias(layer: torch.nn.Linear) -> None:
    rounded = linear(layer, weights=torch.int8)
    for rows in (1, 2):
        assert torch.allclose(rounded(torch.zeros(rows, 64))[0], layer.bias, atol=1e-6)


def test_packing_leaves_torch_s_choice_as_it_was() -> None:
    before = torch.backends.quantized.engine
    with module.quantized_engine("onednn"):
        pass
    assert torch.backends.quantized.engine == before


def test_measuring_leaves_torch_its_threads() -> None:
    before = torch.get_num_threads()
    seconds = module.best_seconds({"a": lambda: torch.zeros(1)})
    assert seconds["a"] < 1
    assert torch.get_num_threads() == before
