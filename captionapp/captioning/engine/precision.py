"""Number formats: which of them this processor computes fast, and what identifies the processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Format:
    """The types of the weights: of the vision encoder (and of what the text decoder makes of its
    states), of the text decoder, and of the output layer. ``attention`` is the type of the
    products with a picture's keys and values."""

    name: str
    vision: torch.dtype
    text: torch.dtype
    head: torch.dtype
    attention: torch.dtype


FP32 = Format("fp32", torch.float32, torch.float32, torch.float32, torch.float32)


def named(name: str) -> Format:
    """The format of this name: ``fp32``, ``bf16``, ``mixed`` (a picture in int8, its text in bf16)
    or ``int8``."""
    full, half, byte = torch.float32, torch.bfloat16, torch.int8
    formats = (
        FP32,
        Format("bf16", half, half, half, half),
        Format("mixed", byte, half, byte, half),
        Format("int8", byte, byte, byte, half if _has_bf16() else full),
    )
    return {form.name: form for form in formats}[name]


def fastest() -> list[str]:
    """The formats that this processor has instructions for, the fastest first; without them int8
    and bf16 are computed in a roundabout way. fp32 is always the last."""
    found = torch.cpu.get_capabilities()
    has_int8 = found.get("avx512_vnni") or found.get("avx_vnni") or found.get("amx_int8")
    has_int8 = has_int8 and "fbgemm" in torch.backends.quantized.supported_engines
    formats = ["int8"] if has_int8 else []
    if _has_bf16():
        formats += ["mixed", "bf16"] if has_int8 else ["bf16"]
    return [*formats, "fp32"]


def activations(weights: torch.dtype) -> torch.dtype:
    """The type of what goes through layers with such weights."""
    return torch.float32 if weights is torch.int8 else weights


def _has_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@contextmanager
def quantized_engine(many: bool) -> Iterator[None]:
    """Weights packed within are for the library that is fast for them: oneDNN for many rows
    (1.3 times as fast as FBGEMM with 577), FBGEMM for few (1.4 times as fast as oneDNN with 1)."""
    before = torch.backends.quantized.engine
    wanted = "onednn" if many else "fbgemm"
    if wanted in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = wanted
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def processor() -> str:
    """Its name and what torch makes use of, for the key of a verdict."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
