"""Which number formats this processor multiplies fast: measured, as instruction sets do not tell.

AVX2 has no instruction for int8, and int8 is fast there all the same. Takes half a second, once for
each processor and version of torch.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from captionapp import atomic
from captionapp.captioning.engine.linear import activations, available, best_seconds, linear

#: Raised when what is measured changes.
REVISION = 1
PATCHES = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """Seconds for 10^6 weights, by their type: with ``PATCHES`` rows, and with one token."""

    picture: dict[str, float]
    token: dict[str, float]


@functools.cache
def rates(folder: Path | None = None) -> Rates:
    """Those kept in ``folder``, so that all workers decide alike; measured, and kept, if none are.

    A folder that cannot be written costs the memory only.
    """
    if folder is None:
        return _measured()
    key = f"{processor()}, torch {torch.__version__}, {REVISION}"
    path = folder / "probe.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "probe.lock"):
            known = _kept(path, key)
            if known is None:
                known = _measured()
                atomic.write(path, json.dumps({"key": key, **asdict(known)}, indent=2).encode())
            return known
    except OSError as error:
        logger.warning("%s: what the processor is fast at cannot be kept (%s)", folder, error)
        return _measured()


def processor() -> str:
    """Its name and what torch makes use of, for the keys of what is kept."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _kept(path: Path, key: str) -> Rates | None:
    try:
        found = json.loads(path.read_text())
        return Rates(**found) if found.pop("key") == key else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _measured() -> Rates:
    # A token's weights come from memory: more of them than caches hold.
    picture = _seconds(nn.Linear(512, 2048), rows=PATCHES)
    return Rates(picture, token=_seconds(nn.Linear(1024, 8192), rows=1))


def _seconds(layer: nn.Linear, rows: int) -> dict[str, float]:
    x = torch.randn(1, rows, layer.in_features)
    runs = {
        str(kind): functools.partial(
            linear(layer, weights=kind, many=rows > 1), x.to(activations(kind))
        )
        for kind in available()
    }
    millions = layer.weight.numel() / 1e6
    return {kind: seconds / millions for kind, seconds in best_seconds(runs).items()}
