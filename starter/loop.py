"""The loop that all stages share: schedule, average of weights, checkpoints, log.

Every random choice of a step comes from generators seeded with the number of the step, so that a
run that was killed goes on as if it had not been, without their states in the checkpoint.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from starter import checkpoints


@dataclass
class Schedule:
    """How a stage is trained; the hyperparameters that all stages have."""

    steps: int
    lr: float
    warmup: int = 50  # steps
    floor: float = 0.02  # share of the learning rate at the end
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.995  # decay of the average of weights, which is what a stage gives
    seed: int = 1
    save_every: int = 100
    log_every: int = 20


@dataclass
class Chance:
    """The generators of one step."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> "Chance":
        """Those of step ``step`` of the run with this seed."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return cls(np.random.default_rng([seed, step]), generator)


def rows_of(step: int, rows: np.ndarray, size: int, seed: int) -> np.ndarray:
    """``size`` of the rows for a step: each comes once in every pass, in another order."""
    epoch, at = divmod(step, max(1, len(rows) // size))
    order = np.random.default_rng([seed, epoch, 7]).permutation(rows)
    return order[at * size : (at + 1) * size]


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, vision_rate: float = 1.0
) -> list[dict[str, object]]:
    """Parameters for AdamW: the vision model at a share of the rate, no decay of vectors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = lr * vision_rate if "vision_model." in name else lr
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]


def train(
    model: nn.Module,
    schedule: Schedule,
    loss_of: Callable[[int, Chance], tuple[torch.Tensor, dict[str, float]]],
    out: Path,
    judge: Callable[[nn.Module], dict[str, float]],
    vision_rate: float = 1.0,
) -> nn.Module:
    """Train up to ``schedule.steps`` and return the average of the weights.

    ``loss_of`` gives a step's loss and the figures to log, ``judge`` the figures of the average on
    held-out pictures. Goes on from ``out/checkpoint.pt``.
    """
    log, checkpoint = logging.getLogger(f"starter.{out.name}"), out / "checkpoint.pt"
    groups = parameter_groups(model, schedule.lr, schedule.weight_decay, vision_rate)
    optimizer = torch.optim.AdamW(groups, betas=schedule.betas, fused=True)
    average, first = checkpoints.Average(model, schedule.ema), 0
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    begin, recent = time.time(), []
    for step in range(first, schedule.steps):
        factor = checkpoints.cosine(step, schedule.warmup, schedule.steps, schedule.floor)
        checkpoints.set_rate(optimizer, factor)
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # dropout
        loss, figures = loss_of(step, Chance.of(schedule.seed, step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step)
        recent.append(figures)
        if (step + 1) % schedule.log_every == 0:
            means = {name: np.mean([f[name] for f in recent]) for name in figures}
            seconds = (time.time() - begin) / (step + 1 - first)
            log.info("step %d %s, %.2f s a step", step + 1, _shown(means), seconds)
            recent.clear()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            checkpoints.save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
            )
            log.info("step %d held out: %s", step + 1, _shown(judge(average.model)))
    return average.model


def _shown(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in figures.items())
