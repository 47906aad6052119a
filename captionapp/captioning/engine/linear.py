"""Linear layers whose weights are laid out once, in the number formats that torch multiplies.

The weights' type names the format; what goes in and comes out is of type ``activations(weights)``.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from transformers.activations import ACT2FN

Layer = Callable[[torch.Tensor], torch.Tensor]
Name = TypeVar("Name")


def linear(
    *parts: nn.Linear, weights: torch.dtype, activation: str = "", many: bool = False
) -> Layer:
    """``activation(x @ weight.T + bias)``, the ``parts`` side by side; ``many``: for many rows."""
    weight = torch.cat([part.weight.detach() for part in parts])
    bias = torch.cat([part.bias.detach() for part in parts]).to(activations(weights))
    if weights is torch.int8:
        return _Int8Linear(weight.float(), bias, activation, many)
    if weights is torch.float16:
        return _Fp16Linear(weight.float(), bias, activation)
    packed = can_pack(weights) and not (many and weights is torch.float32 and _mkl_is_faster())
    return _Linear(weight.to(weights), bias, activation, packed)


def activations(weights: torch.dtype) -> torch.dtype:
    """The type of what goes through layers with such weights."""
    return torch.bfloat16 if weights is torch.bfloat16 else torch.float32


def available() -> list[torch.dtype]:
    """What this build of torch multiplies, fast or slowly."""
    types = [torch.float32, torch.bfloat16]
    if "fbgemm" in torch.backends.quantized.supported_engines:
        types += [torch.float16, torch.int8]
    return types


class _Linear:
    """Weights laid out for oneDNN where that is built in: a layout made anew in each call costs as
    much as the product of a token."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, activation: str, packed: bool
    ) -> None:
        self._bias = bias
        self._packed = packed
        fused = packed and activation == "gelu"
        self._fused = "gelu" if fused else "none"
        self._activation = ACT2FN[activation] if activation and not fused else None
        self._weight = weight
        if packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._packed:
            y = nn.functional.linear(x, self._weight, self._bias)
        else:
            fused = [self._fused, [], "none"]
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, *fused)
        return self._activation(y) if self._activation else y


class _Fp16Linear:
    """Weights in fp16, inputs, sums and results in float32: half the memory to read for a token, at
    the precision of 11 bits. FBGEMM widens the weights on the way, which every AVX2 processor can.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
        self._activation = ACT2FN[activation] if activation else None
        with quantized_engine("fbgemm"):
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return self._activation(y) if self._activation else y


class _Int8Linear:
    """Weights in int8 with a scale for each output, inputs rounded to 8 bits on the way in, sums
    exact, results in float32.

    torch rounds the whole input on one scale. Each row is brought to the range -1 to 1 first, and
    its result multiplied back: so a large value costs its own row its precision and no other, and
    a caption hardly depends on the pictures that happen to be in its batch.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, activation: str, many: bool
    ) -> None:
        self._bias = bias
        self._activation = ACT2FN[activation] if activation else None
        self._seven_bits = _sums_overflow()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        zero = torch.zeros(len(scale), dtype=torch.long)
        # oneDNN is 1.3 times as fast as FBGEMM with 577 rows, FBGEMM 1.4 times as oneDNN with 1.
        with quantized_engine("onednn" if many else "fbgemm"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such tensors will go some day; torch is pinned
            rounded = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(rounded, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == x.shape[-1]:  # a single row has a scale of its own
            y = self._product(x) + self._bias
        else:
            largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-12)
            y = torch.addcmul(self._bias, self._product(x / largest), largest)
        return self._activation(y) if self._activation else y

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, self._seven_bits)
        return y


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch multiplies with weights that oneDNN has laid out (not on every platform)."""
    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@functools.cache
def _mkl_is_faster() -> bool:
    """With many rows in float32: on some processors MKL is slow, on others oneDNN."""
    layer, x = nn.Linear(512, 1024), torch.randn(256, 512)
    runs: dict[bool, Callable[[], torch.Tensor]] = {}
    for packed in (True, False):
        made = _Linear(layer.weight.detach(), layer.bias.detach(), "", packed)
        runs[packed] = functools.partial(made, x)
    best = best_seconds(runs)
    return best[False] < best[True]


def best_seconds(
    runs: Mapping[Name, Callable[[], torch.Tensor]], rounds: int = 8
) -> dict[Name, float]:
    """Seconds of one thread on the processor, the best of some interleaved rounds: what else the
    machine does must not decide. For the time of the call torch has no more threads."""
    best = dict.fromkeys(runs, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(rounds):
                for name, run in runs.items():
                    started = time.thread_time()
                    run()
                    best[name] = min(best[name], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best


def _sums_overflow() -> bool:
    """Whether two products of 8 bits are summed in 16, as x86 does without VNNI: then inputs have
    to make do with 7."""
    found = torch.cpu.get_capabilities()
    return found.get("architecture") == "x86_64" and not found.get("avx512_vnni")


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Weights packed within are for this library, if torch has it."""
    before = torch.backends.quantized.engine
    if name in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
