"""Views that nobody has seen before: random crops and mixtures, shown to teacher and student alike.

The teacher looks at every view at the moment it is made, which costs a quarter of a step, and the
student has to agree with it on what it sees, however odd: with views that never come back there is
nothing to remember, and few pictures teach for long (Beyer et al. 2022, "Knowledge distillation: A
good teacher is patient and consistent").
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from starter.distill import Material
from starter.pictures import cut_view, jitter, normalise
from starter.student import StudentConfig
from starter.teacher import GRID, TeacherConfig, load_teacher, teacher_features

SMALLEST = 0.4  # share of a picture's side that a crop has at least
STRETCH = 4 / 3  # of a crop's sides against each other, at most
MIXED = 0.4  # share of the views that are mixtures of two


class LiveMaterial(Material):
    """Material whose `draw` makes new views; whole ones (``whole=1``) still come from the disk."""

    def __init__(
        self, data: Path, folder: Path, config: TeacherConfig, student: StudentConfig
    ) -> None:
        super().__init__(data, folder, config, student)
        self.teacher: nn.Module = load_teacher()

    def draw(
        self,
        rows: np.ndarray,
        rng: torch.Generator,
        whole: float,
        flip: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Material.draw`. A mixture shows at least as much of its own picture as of another."""
        if whole == 1:
            return super().draw(rows, rng, whole, flip)
        views = jitter(self._crops(rows, rng, whole), rng)
        mirrored = torch.rand(len(rows), generator=rng) < 0.5
        if flip is not None:
            mirrored &= flip
        views[mirrored] = views[mirrored].flip(-1)
        own = 1 - 0.5 * torch.rand(len(rows), 1, 1, 1, generator=rng)
        own[torch.rand(len(rows), generator=rng) >= MIXED] = 1
        other = views[torch.randperm(len(rows), generator=rng)]
        views = own * views + (1 - own) * other
        features, classes = teacher_features(self.teacher, views)
        grid = ((features - self.mean) / self.std).transpose(1, 2).unflatten(2, (GRID, GRID))
        cells, size = (self.cells, self.cells), (self.image_size, self.image_size)
        target = F.interpolate(grid, cells, mode="bilinear").flatten(2).transpose(1, 2)
        seen = F.interpolate(views, size, mode="bilinear", antialias=True)
        return normalise(seen), target, classes

    def _crops(self, rows: np.ndarray, rng: torch.Generator, whole: float) -> torch.Tensor:
        """Pixels 0..255 (n, 3, 256, 256); a share of ``whole`` shows all of its picture."""
        crops = []
        for row in rows:
            a, b, c, d, e = torch.rand(5, generator=rng).tolist()
            width = height = 1.0
            if a >= whole:
                side = SMALLEST + (1 - SMALLEST) * b
                stretch = STRETCH ** (c - 0.5)
                width, height = min(1.0, side * stretch), min(1.0, side / stretch)
            left, top = d * (1 - width), e * (1 - height)
            box = np.array([left, top, left + width, top + height])
            source, picture = self.views.source[row], self.views.picture[row]
            crops.append(cut_view(self.sources[source].pixels[picture], box))
        return torch.stack(crops)
