"""Stage 3: the vision model learns to see what the teacher sees.

    python -m starter.distill --data DIR --teacher RUN/teacher --vision RUN/vision.safetensors \
        --out RUN/distill

The teacher's tokens (`starter.views.Basis`) are regressed on the last layer's, patch by patch, in
random crops and mirrored views. Between them stands a linear map, which begins as the least-squares
solution and is later folded into what the decoder reads (`starter.captions.fold`). The patch
embedding and the first layers stay DINOv2's. Goes on from ``RUN/distill/checkpoint.pt`` after a
kill.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.blip.modeling_blip import BlipVisionModel

from starter import checkpoints
from starter.loop import Chance, Schedule, rows_of, train
from starter.student import StudentConfig
from starter.teacher import TeacherConfig
from starter.views import Material, ViewConfig
from starter.vision import WIDTH, vision_config


@dataclass
class DistillConfig:
    """Hyperparameters."""

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1600, lr=3e-4))
    pictures: int = 24  # a step
    frozen: int = 4  # first layers that stay as they are
    class_weight: float = 8.0  # of the class token against a patch
    solved: int = 500  # pictures for the least-squares solution


def freeze(vision: BlipVisionModel, layers: int) -> None:
    """Keep the embeddings and the first layers as they are."""
    for module in (vision.embeddings, *vision.encoder.layers[:layers]):
        module.requires_grad_(layers == 0)


class Seeing(nn.Module):
    """The vision model and the linear map to the teacher's tokens."""

    def __init__(self, vision: BlipVisionModel) -> None:
        super().__init__()
        self.vision_model = vision
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The teacher's tokens as the student sees them, (n, 1 + cells², 384)."""
        mapped: torch.Tensor = self.head(self.vision_model(pixels).last_hidden_state)
        return mapped


@torch.no_grad()
def solve_head(seeing: Seeing, material: Material, pictures: int, ridge: float = 0.02) -> None:
    """Least squares from what the vision model sees now to what the teacher sees.

    The last normalisation loses its scale and offset, which differ between channels by orders of
    magnitude and would be all that training is busy with.
    """
    norm = seeing.vision_model.post_layernorm
    norm.weight.fill_(1)
    norm.bias.fill_(0)
    seen, wanted = [], []
    step = max(1, len(material.training_rows) // pictures)
    for part in np.array_split(material.training_rows[::step], max(1, pictures // 25)):
        boxes, plain = np.tile([0.0, 0.0, 1.0], (len(part), 1)), np.zeros(len(part), bool)
        pixels = material.pixels(part, boxes, plain, None)
        seen.append(seeing.vision_model(pixels).last_hidden_state.flatten(0, 1))
        wanted.append(material.targets(part, boxes, plain).flatten(0, 1))
    x, y = torch.cat(seen), torch.cat(wanted)
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean) / len(x) + ridge * torch.eye(WIDTH)
    matrix = torch.linalg.solve(gram, (x - x_mean).T @ (y - y_mean) / len(x))
    seeing.head.weight.copy_(matrix.T)
    seeing.head.bias.copy_(y_mean - x_mean @ matrix)


class Distance:
    """Mean squared error of tokens (n, 1 + cells², 384), channels and the class token weighted."""

    def __init__(self, channels: torch.Tensor, class_weight: float) -> None:
        self.channels, self.class_weight = channels, class_weight

    def __call__(self, seen: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """A scalar; about 1 for tokens that are all zero."""
        error = ((seen - wanted).square() * self.channels).mean(-1)
        first = self.class_weight
        return (first * error[:, 0] + error[:, 1:].sum(1)).mean() / (first + error.shape[1] - 1)


class Distillation:
    """Losses of the vision model against the teacher."""

    def __init__(self, config: DistillConfig, material: Material, seeing: Seeing) -> None:
        self.config, self.material, self.seeing = config, material, seeing
        self.distance = Distance(material.basis.weight, config.class_weight)

    def loss(self, step: int, chance: Chance) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a training step."""
        material, seed = self.material, self.config.schedule.seed
        rows = rows_of(step, material.training_rows, self.config.pictures, seed)
        boxes, mirrored = material.draw_boxes(len(rows), chance)
        seen = self.seeing(material.pixels(rows, boxes, mirrored, chance))
        wanted = material.targets(rows, boxes, mirrored)
        loss = self.distance(seen, wanted)
        with torch.no_grad():
            cosine = F.cosine_similarity(seen[:, 0], wanted[:, 0]).mean()
        return loss, {"loss": loss.item(), "class": cosine.item()}

    @torch.no_grad()
    def judge(self, seeing: nn.Module) -> dict[str, float]:
        """Loss on held-out pictures seen whole, and the cosines of class token and patches."""
        rows, parts = self.material.held_out_rows, []
        for part in np.array_split(rows, max(1, len(rows) // 50)):
            boxes, plain = np.tile([0.0, 0.0, 1.0], (len(part), 1)), np.zeros(len(part), bool)
            seen = seeing(self.material.pixels(part, boxes, plain, None))
            wanted = self.material.targets(part, boxes, plain)
            loss = self.distance(seen, wanted)
            cosine = F.cosine_similarity(seen, wanted, dim=-1)
            parts.append(torch.stack([loss, cosine[:, 0].mean(), cosine[:, 1:].mean()]))
        loss, first, rest = torch.stack(parts).mean(0).tolist()
        return {"loss": loss, "class": first, "patches": rest}


def run(config: DistillConfig, material: Material, seeing: Seeing, out: Path) -> None:
    """Train, and write ``out/vision.safetensors`` (with the linear map)."""
    stage = Distillation(config, material, seeing)
    freeze(seeing.vision_model, config.frozen)
    if not (out / "checkpoint.pt").exists():
        solve_head(seeing, material, config.solved)
    average = train(seeing, config.schedule, stage.loss, out, stage.judge)
    save_file(average.state_dict(), out / "vision.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Teach the vision model what CLIP sees.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--vision", type=Path, required=True, help="output of starter.vision")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config, student = DistillConfig(), StudentConfig()
    config.schedule.steps = args.steps or config.schedule.steps
    material = Material(args.data, args.teacher, TeacherConfig(), ViewConfig(), student.cells)
    checkpoints.seed_everything(config.schedule.seed)
    vision = BlipVisionModel(vision_config(student.image_size))
    vision.load_state_dict(load_file(args.vision))
    run(config, material, Seeing(vision), args.out)


if __name__ == "__main__":
    main()
