"""What the files of a checkpoint say about it, without loading the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from captionapp.errors import ModelUnavailable


def facts(folder: Path) -> dict[str, Any]:
    """``parameters`` (a tensor that is stored once counts once), ``precision`` of the stored
    weights, and ``size_bytes`` of the folder.

    The first two are None if the weights are not stored as safetensors.

    Raises:
        ModelUnavailable: if the weights cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    parameters = 0
    precisions = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                for name in weights.keys():
                    tensor = weights.get_slice(name)
                    parameters += math.prod(tensor.get_shape())
                    precisions.add(tensor.get_dtype())
        except SafetensorError as error:
            raise ModelUnavailable(f"{file} cannot be read: {error}") from error
    return {
        "parameters": parameters or None,
        "precision": ", ".join(sorted(precisions)) or None,
        "size_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }
