"""Checkpoints that survive a kill at any moment, and the small parts that all loops share."""

import copy
import logging
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that at every moment either the old or the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        torch.save(
            {
                **state,
                "torch_rng": torch.get_rng_state(),
                "python_rng": random.getstate(),
                "numpy_rng": np.random.get_state(),
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this module (not of strangers: it is pickled) and restore the seeds."""
    state: dict[str, Any] = torch.load(path, weights_only=False)
    torch.set_rng_state(state["torch_rng"])
    random.setstate(state["python_rng"])
    np.random.set_state(state["numpy_rng"])
    return state


def cosine(step: int, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate from its initial one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Average:
    """Exponential moving average of a model's weights (Polyak), with a short memory at first."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards ``model``; ``step`` counts from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)


def log_to(path: Path) -> None:
    """Log to the terminal and, appending, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        force=True,
        handlers=[logging.StreamHandler(), logging.FileHandler(path)],
    )


def use_free_cores() -> None:
    """One thread for each core that this process may run on; `taskset` keeps it to some of them."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)
