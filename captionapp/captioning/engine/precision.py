"""Which number format this processor computes fast, and what identifies the processor."""

from __future__ import annotations

import platform

import torch

#: Any but fp32 serves only after ``check`` has compared it with fp32.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fastest() -> str:
    """``bf16`` where the processor has instructions for it (avx512_bf16, amx), else ``fp32``:
    without them bf16 is converted back and forth, and slower."""
    found = torch.cpu.get_capabilities()
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def processor() -> str:
    """Its name and what torch makes use of, for the key of a verdict."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
