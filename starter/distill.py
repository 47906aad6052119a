"""Stage 2: the vision model learns to see what EfficientNet-Lite2 sees.

    python -m starter.distill --data DIR --teacher RUN/teacher --out RUN/distill \
        --vision DIR/starter/vision_encoder.safetensors

The outputs of student layers 3, 5 and the last are mapped linearly to the teacher's blocks 10, 14
and 20, and the class token to the mean of block 20 and to the class probabilities. Guidance at
several depths is what makes it learn at all (Li et al. 2022, "Locality Guidance for Improving
Vision Transformers on Tiny Datasets"). Goes on from ``RUN/distill/checkpoint.pt`` after a kill.
"""

import argparse
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.blip.modeling_blip import BlipVisionModel

from starter import checkpoints
from starter.pictures import cut_view, jitter, normalise
from starter.student import StudentConfig, Vocabulary, load_vision, make_config, parameter_groups
from starter.teacher import CHANNELS, CLASSES, GRID, TeacherConfig, Views, load_sources

log = logging.getLogger("starter.distill")

LAYERS = (3, 5)  # student layers that learn blocks 10 and 14; the last one learns block 20
CELLS = 7  # of the teacher's grid in a crop, a side
CELL = 32  # pixels


@dataclass
class DistillConfig:
    """Hyperparameters."""

    steps: int = 3000
    batch: int = 64  # views a step
    lr: float = 5e-4
    warmup: int = 150  # steps
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0  # norm of the gradient
    ema: float = 0.998
    # blocks 10, 14, 20 (mean squared error of standardised channels), class token, class KL
    weights: tuple[float, ...] = (1.0, 1.0, 2.0, 1.0, 0.2)
    # how often each source is drawn: flickr, caltech, imagenet, tiny
    shares: tuple[float, ...] = (0.6, 0.22, 0.06, 0.12)
    whole: float = 0.4  # share of views seen whole instead of a 7x7-cell crop
    held_out: int = 200  # first Flickr pictures, never trained on, for the log
    seed: int = 1
    save_every: int = 200
    log_every: int = 50


class Material:
    """All views with the teacher's features, drawn at random as the student sees them.

    ``student`` says how many pixels and patches a side its pictures have; the teacher's maps are
    resampled to its patches.
    """

    def __init__(
        self, data: Path, folder: Path, config: TeacherConfig, student: StudentConfig
    ) -> None:
        self.image_size, self.cells = student.image_size, student.cells
        self.sources = load_sources(config, data, folder)
        with np.load(folder / "views.npz") as stored:
            self.views = Views(stored["source"], stored["picture"], stored["box"])
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self.classes = np.load(folder / "classes.npy", mmap_mode="r")
        with np.load(folder / "statistics.npz") as stored:
            self.mean = torch.from_numpy(stored["mean"])
            self.std = torch.from_numpy(stored["std"])

    def rows_of(self, source: int, held_out: int = 0) -> np.ndarray:
        """Views of a source without those of its first ``held_out`` pictures."""
        return np.nonzero((self.views.source == source) & (self.views.picture >= held_out))[0]

    def draw(
        self,
        rows: np.ndarray,
        rng: torch.Generator,
        whole: float,
        flip: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random crops of 7x7 cells (or the whole view shrunk), mirrored and recoloured at random.

        Returns pixels (n, 3, image_size, image_size) as BLIP's processor gives them, standardised
        features (n, cells², 560) and class logits (n, 1000). ``flip`` (n,) says which ones may be
        mirrored.
        """
        pixels = torch.stack(
            [
                cut_view(
                    self.sources[self.views.source[i]].pixels[self.views.picture[i]],
                    self.views.box[i],
                )
                for i in rows
            ]
        )
        seen, target, classes = self.crop(rows, pixels, rng, whole, flip)
        if seen.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            seen = F.interpolate(seen, size, mode="bilinear", antialias=True)
        return normalise(jitter(seen, rng)), target, classes

    def draw_features(
        self, rows: np.ndarray, rng: torch.Generator, whole: float, flip: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and class logits as from `draw`, without the pixels, which cost the most."""
        _, target, classes = self.crop(rows, None, rng, whole, flip)
        return target, classes

    def crop(
        self,
        rows: np.ndarray,
        pixels: torch.Tensor | None,
        rng: torch.Generator,
        whole: float,
        flip: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cut the same random part from views (n, 3, 256, 256) (or None) and the maps."""
        n = len(rows)
        grid = torch.from_numpy(np.asarray(self.features[rows], np.float32))
        grid = ((grid - self.mean) / self.std).transpose(1, 2).reshape(n, -1, GRID, GRID)
        side, slack = CELLS * CELL, GRID - CELLS
        offsets = torch.randint(0, slack + 1, (n, 2), generator=rng)
        is_whole = torch.rand(n, generator=rng) < whole
        mirrored = torch.rand(n, generator=rng) < 0.5
        if flip is not None:
            mirrored &= flip
        seen = torch.empty(n, 3, side, side) if pixels is not None else torch.empty(n, 3, 0, 0)
        target = torch.empty(n, grid.shape[1], CELLS, CELLS)
        for k in range(n):
            y, x = offsets[k].tolist()
            if is_whole[k]:
                # The teacher's map of the whole view, resampled: close to what it would see there.
                target[k] = F.interpolate(grid[k : k + 1], (CELLS, CELLS), mode="bilinear")[0]
                if pixels is not None:
                    seen[k] = F.interpolate(
                        pixels[k : k + 1], (side, side), mode="bilinear", antialias=True
                    )[0]
            else:
                target[k] = grid[k, :, y : y + CELLS, x : x + CELLS]
                if pixels is not None:
                    top, left = y * CELL, x * CELL
                    seen[k] = pixels[k, :, top : top + side, left : left + side]
            if mirrored[k]:
                # Convolutions see mirrored pictures almost as mirrored maps.
                seen[k], target[k] = seen[k].flip(-1), target[k].flip(-1)
        if self.cells != CELLS:
            target = F.interpolate(target, (self.cells, self.cells), mode="bilinear")
        classes = torch.from_numpy(np.asarray(self.classes[rows], np.float32))
        return seen, target.flatten(2).transpose(1, 2), classes


class Heads(nn.Module):
    """Linear maps from the student's layers to the teacher's channels; not part of the result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, channels) for channels in CHANNELS)
        self.mean = nn.Linear(width, CHANNELS[-1])
        self.classes = nn.Linear(width, CLASSES)

    def losses(
        self,
        hidden: tuple[torch.Tensor, ...],
        last: torch.Tensor,
        target: torch.Tensor,
        classes: torch.Tensor,
    ) -> torch.Tensor:
        """The five losses: three maps, the mean, and KL of the class probabilities.

        ``hidden`` are the embeddings and every layer's output, ``last`` the normalised output
        (n, cells² + 1, width); ``target`` and ``classes`` as from `Material.draw`.
        """
        targets = target.split(CHANNELS, dim=-1)
        outputs = [*(hidden[i] for i in LAYERS), last]
        losses = [
            F.mse_loss(head(out[:, 1:]).float(), wanted)
            for head, out, wanted in zip(self.maps, outputs, targets, strict=True)
        ]
        losses.append(F.mse_loss(self.mean(last[:, 0]).float(), targets[-1].mean(dim=1)))
        losses.append(
            F.kl_div(
                self.classes(last[:, 0]).float().log_softmax(-1),
                classes.log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        )
        return torch.stack(losses)


def see(
    vision: BlipVisionModel, pixels: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Every layer's output (embeddings first), and the last normalised: (n, cells² + 1, width)."""
    output = vision(pixel_values=pixels, output_hidden_states=True)
    return output.hidden_states, output.last_hidden_state


@torch.no_grad()
def fit_heads(
    heads: Heads,
    vision: BlipVisionModel,
    material: Material,
    rows: np.ndarray,
    rng: torch.Generator,
) -> None:
    """Start the heads from ridge regression on some views instead of from noise."""
    pixels, target, _ = material.draw(rows, rng, whole=0.5)
    inputs: list[list[torch.Tensor]] = [[], [], [], []]
    for part in pixels.split(64):
        with torch.autocast("cpu", torch.bfloat16):
            hidden, last = see(vision, part)
        for store, out in zip(inputs, [*(hidden[i] for i in LAYERS), last], strict=False):
            store.append(out[:, 1:].float().flatten(0, 1))
        inputs[3].append(last[:, 0].float())
    targets = [
        *(t.flatten(0, 1) for t in target.split(CHANNELS, dim=-1)),
        target[..., -CHANNELS[-1] :].mean(dim=1),
    ]
    for head, parts, wanted in zip([*heads.maps, heads.mean], inputs, targets, strict=True):
        x = torch.cat(parts)
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        gram = x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1])
        solution = torch.linalg.solve(gram, x.T @ wanted)
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])


class Student(nn.Module):
    """Vision model and heads under names that `parameter_groups` knows."""

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        config = make_config(student, Vocabulary.of([])).vision_config
        self.vision_model = BlipVisionModel(config)
        self.heads = Heads(student.vision_width)

    def losses(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The five losses of a batch from `Material.draw`."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden, last = see(self.vision_model, batch[0])
            return self.heads.losses(hidden, last, batch[1], batch[2])


def draw_rows(
    material: Material, shares: tuple[float, ...], n: int, held_out: int, rng: np.random.Generator
) -> np.ndarray:
    """``n`` random views, the sources in the given shares."""
    pools = [material.rows_of(s, held_out if s == 0 else 0) for s in range(len(shares))]
    picks = rng.choice(len(shares), n, p=np.array(shares) / sum(shares))
    return np.array([rng.choice(pools[s]) for s in picks])


def run(
    config: DistillConfig,
    student: StudentConfig,
    material: Material,
    out: Path,
    vision: Path | None,
) -> None:
    """Train up to ``config.steps`` and write ``vision.safetensors`` and ``heads.safetensors``."""
    checkpoints.seed_everything(config.seed)
    model = Student(student)
    draw_rng, crop_rng = np.random.default_rng(config.seed), torch.Generator()
    crop_rng.manual_seed(config.seed)
    if vision is not None:
        load_vision(model.vision_model, vision)
        if (known := vision.with_name("heads.safetensors")).exists():
            model.heads.load_state_dict(load_file(known))
        else:
            rows = draw_rows(material, config.shares, 640, config.held_out, draw_rng)
            fit_heads(model.heads, model.vision_model, material, rows, crop_rng)
    average = checkpoints.Average(model, config.ema)
    groups = parameter_groups(model, config.lr, config.lr, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    weights, first = torch.tensor(config.weights), 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        draw_rng.bit_generator.state = state["draw_rng"]
        crop_rng.set_state(state["crop_rng"])
        first = state["step"]
    held = material.rows_of(0)[: config.held_out]
    begin, recent = time.time(), torch.zeros(len(config.weights))
    for step in range(first, config.steps):
        checkpoints.set_rate(optimizer, checkpoints.cosine(step, config.warmup, config.steps, 0.02))
        rows = draw_rows(material, config.shares, config.batch, config.held_out, draw_rng)
        losses = model.losses(material.draw(rows, crop_rng, config.whole))
        (losses * weights).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step)
        recent += losses.detach() / config.log_every
        if (step + 1) % config.log_every == 0:
            log.info(
                "step %d losses %s, %.0f views/s",
                step + 1,
                " ".join(f"{v:.3f}" for v in recent),
                (step + 1 - first) * config.batch / (time.time() - begin),
            )
            recent.zero_()
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            with torch.no_grad():
                rng = torch.Generator().manual_seed(0)
                held_losses = average.model.losses(material.draw(held, rng, 1.0))
            log.info(
                "step %d held out (average of weights) %s",
                step + 1,
                " ".join(f"{v:.3f}" for v in held_losses),
            )
            checkpoints.save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "config": asdict(config),
                    "draw_rng": draw_rng.bit_generator.state,
                    "crop_rng": crop_rng.get_state(),
                },
            )
    save_file(average.model.vision_model.state_dict(), out / "vision.safetensors")
    save_file(average.model.heads.state_dict(), out / "heads.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Distil the vision model.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--vision", type=Path, help="safetensors of a vision model to start from")
    parser.add_argument("--steps", type=int, default=DistillConfig.steps)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    material = Material(args.data, args.teacher, TeacherConfig(), StudentConfig())
    run(DistillConfig(steps=args.steps), StudentConfig(), material, args.out, args.vision)


if __name__ == "__main__":
    main()
