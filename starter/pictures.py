"""Pictures of the training material as arrays, and the views (crops) that the stages look at.

Every picture is squeezed to a square, as BLIP's image processor does, and kept in the size it has
anyway (64, 144 or 224 pixels), so that all material fits into memory. Views are made on the fly.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

# CLIP's mean and standard deviation, in units of 0..1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Pictures:
    """Square pictures of one size: ``pixels`` is uint8 (n, 3, side, side), ``names`` has n."""

    pixels: torch.Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def _square(data: bytes | Path, side: int) -> np.ndarray:
    """Decode one picture to uint8 (3, side, side)."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
        image = opened.convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def _read_source(source: Path) -> Iterator[tuple[str, bytes | Path]]:
    """Names and contents of the pictures in a tar archive or a folder, sorted by name."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.suffix.lower() in {".jpg", ".jpeg", ".png"}:
                yield path.name, path
        return
    with tarfile.open(source) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        for member in sorted(members, key=lambda m: m.name):
            file = archive.extractfile(member)
            if file is not None and member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                yield member.name, file.read()


def load_pictures(source: Path, side: int, cache: Path, limit: int | None = None) -> Pictures:
    """All pictures of a folder or tar archive, squeezed to ``side`` pixels.

    They are decoded once and kept as one array under ``cache``. With ``limit``, that many pictures
    are taken, evenly spread over the names (classes are neighbours).
    """
    file = cache / f"{source.stem}-{source.parent.name}-{side}-{limit or 'all'}.npz"
    if not file.exists():
        entries = list(_read_source(source))
        if limit is not None and limit < len(entries):
            entries = [entries[i * len(entries) // limit] for i in range(limit)]
        with ThreadPoolExecutor(2) as pool:
            arrays = list(pool.map(lambda entry: _square(entry[1], side), entries))
        cache.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".tmp.npz")
        np.savez(partial, pixels=np.stack(arrays), names=np.array([name for name, _ in entries]))
        os.replace(partial, file)
    with np.load(file) as stored:
        return Pictures(torch.from_numpy(stored["pixels"]), [str(n) for n in stored["names"]])


def cut_view(picture: torch.Tensor, box: np.ndarray, size: int) -> torch.Tensor:
    """The part of a uint8 (3, s, s) picture in ``box``, as float 0..255 (3, size, size).

    ``box`` is left, top, right, bottom in units of the side, so (0, 0, 1, 1) is the whole picture.
    """
    side = picture.shape[-1]
    left, top, right, bottom = (int(round(float(v) * side)) for v in box)
    part = picture[:, top : max(bottom, top + 1), left : max(right, left + 1)].float()[None]
    antialias = part.shape[-1] > size
    resized = F.interpolate(
        part, (size, size), mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized[0]


def jitter(pixels: torch.Tensor, rng: torch.Generator, strength: float = 0.25) -> torch.Tensor:
    """Random brightness, contrast and colour balance of 0..255 pictures (n, 3, h, w)."""
    n = len(pixels)

    def factor(channels: int, spread: float) -> torch.Tensor:
        return 1 + (torch.rand(n, channels, 1, 1, generator=rng) * 2 - 1) * spread

    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    out = (pixels - mean) * factor(1, strength) + mean * factor(1, strength)
    return (out * factor(3, strength / 4)).clamp_(0, 255)
