"""Number formats of a whole model, and which of them this processor computes fastest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from captionapp.captioning.engine.linear import available
from captionapp.captioning.engine.probe import PATCHES, Rates, rates

#: The fast ones.
NAMES = ("int8", "mixed", "fp16", "bf16")


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


def named(name: str, folder: Path | None = None) -> Format:
    """The format of this name: ``fp32``, ``fp16``, ``bf16``, ``mixed`` (a picture in int8, its text
    in 16 bits, those that are faster) or ``int8``. What was measured for it is in ``folder``."""
    full, half, byte = torch.float32, torch.bfloat16, torch.int8
    attention = half if _has_bf16() else full
    if name == "fp32":
        return FP32
    if name == "fp16":
        return Format("fp16", torch.float16, torch.float16, torch.float16, full)
    if name == "bf16":
        return Format("bf16", half, half, half, half)
    if name == "mixed":
        token = rates(folder).token
        text = min(torch.float16, half, key=lambda kind: token.get(str(kind), float("inf")))
        return Format("mixed", byte, text, byte, attention)
    if name == "int8":
        return Format("int8", byte, byte, byte, attention)
    raise ValueError(f"{name} is no number format")


def fastest(folder: Path | None = None) -> list[str]:
    """The formats in which this processor captions faster than in fp32, the fastest first; fp32 is
    always the last."""
    known = rates(folder)
    forms = [form for form in (named(name, folder) for name in NAMES) if is_there(form)]
    faster = [form for form in forms if _cost(form, known) < _cost(FP32, known)]
    return [form.name for form in sorted(faster, key=lambda form: _cost(form, known))] + ["fp32"]


def is_there(form: Format) -> bool:
    """Whether this build of torch has what the format needs."""
    return {form.vision, form.text, form.head} <= set(available())


def _cost(form: Format, known: Rates) -> float:
    """Of a caption of twenty tokens with the weights of BLIP-base: 85 million for each of the 577
    patches of the picture, 99 million a token and 23 million for its word."""
    picture, token = known.picture[str(form.vision)], known.token
    one_token = 99 * token[str(form.text)] + 23 * token[str(form.head)]
    return 85 * picture * 577 / PATCHES + 20 * one_token


def _has_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
