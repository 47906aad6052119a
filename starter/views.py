"""Views of the pictures for the student, each with what the teacher would see there.

The teacher looked once at every picture as a whole. For a crop its grid is sampled where the
student's patches lie, for a mirrored view it is turned around; so there are as many views as steps.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from starter.loop import Chance
from starter.pictures import cut_view, jitter, load_pictures
from starter.teacher import GRID, TeacherConfig
from starter.vision import MEAN, STD, WIDTH


@dataclass
class ViewConfig:
    """How views are drawn."""

    whole: float = 0.5  # share of views that show the whole picture
    smallest: float = 0.6  # side of the smallest crop, as a share of the picture's
    colour: float = 0.25  # strength of the change of brightness and contrast
    held_out: int = 200  # first pictures of the first source, never trained on


class Basis:
    """The teacher's 768 channels in 384: principal components, large ones damped.

    A token is centred (the class token by its own mean), projected on the first 384 principal
    components, each divided by the square root of its standard deviation (halfway to whitening),
    and normalised to mean 0 and variance 1, which is good for a decoder to read. ``weight`` (384,)
    undoes the whitening in a squared error: half of the variance is in components that no other
    model can predict.
    """

    def __init__(
        self,
        class_mean: torch.Tensor,
        mean: torch.Tensor,
        matrix: torch.Tensor,
        weight: torch.Tensor,
    ) -> None:
        self.class_mean, self.mean, self.matrix = class_mean, mean, matrix
        self.weight = weight

    @classmethod
    def of(cls, tokens: torch.Tensor) -> "Basis":
        """The basis of a sample of the teacher's tokens (n, 1 + cells, 768)."""
        class_mean, mean = tokens[:, 0].mean(0), tokens[:, 1:].mean((0, 1))
        centred = torch.cat([tokens[:, 0] - class_mean, (tokens[:, 1:] - mean).flatten(0, 1)])
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        width = min(WIDTH, len(values))
        scale = values[-width:].clamp(min=1e-6) ** 0.25
        weight = scale.square() / scale.square().mean()
        return cls(class_mean, mean, (vectors[:, -width:] / scale).flip(1), weight.flip(0))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, 1 + cells, 768) to (n, 1 + cells, 384)."""
        centred = torch.cat([tokens[:, :1] - self.class_mean, tokens[:, 1:] - self.mean], dim=1)
        projected = centred @ self.matrix
        return F.layer_norm(projected, projected.shape[-1:])


class Material:
    """Pictures and the teacher's tokens of all sources, numbered through."""

    def __init__(
        self, data: Path, folder: Path, teacher: TeacherConfig, config: ViewConfig, cells: int
    ) -> None:
        self.config, self.cells = config, cells
        self.sources, self.tokens = [], []
        for name, path, side, limit in teacher.sources:
            if (folder / f"{name}.npy").exists():
                self.sources.append(load_pictures(data / path, side, folder / "pictures", limit))
                self.tokens.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
        self.starts = np.cumsum([0, *(len(s) for s in self.sources)])
        step = max(1, len(self.tokens[0]) // 500)
        self.basis = Basis.of(torch.from_numpy(self.tokens[0][::step].astype(np.float32)))
        self._mean = 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(STD).view(1, 3, 1, 1)

    @property
    def training_rows(self) -> np.ndarray:
        """Numbers of all pictures that are not held out."""
        return np.arange(self.config.held_out, self.starts[-1])

    @property
    def held_out_rows(self) -> np.ndarray:
        """Numbers of the pictures that no stage trains on."""
        return np.arange(self.config.held_out)

    def _place(self, row: int) -> tuple[int, int]:
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        return source, int(row - self.starts[source])

    def draw_boxes(self, n: int, chance: Chance) -> tuple[np.ndarray, np.ndarray]:
        """Left, top and side of ``n`` views in units of the picture's side; which are mirrored."""
        rng, config = chance.numpy, self.config
        side = np.where(rng.random(n) < config.whole, 1.0, rng.uniform(config.smallest, 1.0, n))
        left, top = rng.uniform(0, 1, n) * (1 - side), rng.uniform(0, 1, n) * (1 - side)
        return np.stack([left, top, side], axis=1), rng.random(n) < 0.5

    def pixels(
        self, rows: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray, chance: Chance | None
    ) -> torch.Tensor:
        """Normalised views (n, 3, size, size) for the student; colours change with a chance."""
        size, views = self.cells * 14, []
        for row, (left, top, side), turned in zip(rows, boxes, mirrored, strict=True):
            source, index = self._place(row)
            box = np.array([left, top, left + side, top + side])
            view = cut_view(self.sources[source].pixels[index], box, size)
            views.append(view.flip(-1) if turned else view)
        batch = torch.stack(views)
        if chance is not None:
            batch = jitter(batch, chance.torch, self.config.colour)
        return (batch - self._mean) / self._std

    def targets(self, rows: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
        """What the teacher sees of the views, (n, 1 + cells², 384)."""
        places = [self._place(row) for row in rows]
        tokens = torch.from_numpy(
            np.stack([self.tokens[source][index] for source, index in places]).astype(np.float32)
        )
        tokens = self.basis(tokens)
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        centres = (torch.arange(self.cells) + 0.5) / self.cells
        box = torch.from_numpy(boxes).float()
        x = box[:, :1] + box[:, 2:] * centres  # (n, cells), in units of the picture's side
        y = box[:, 1:2] + box[:, 2:] * centres
        x = torch.where(torch.from_numpy(mirrored)[:, None], x.flip(1), x)
        where = torch.stack(
            [x[:, None, :].expand(-1, self.cells, -1), y[:, :, None].expand(-1, -1, self.cells)], -1
        )
        sampled = F.grid_sample(
            grid, 2 * where - 1, mode="bilinear", padding_mode="border", align_corners=False
        )
        return torch.cat([tokens[:, :1], sampled.flatten(2).transpose(1, 2)], dim=1)
