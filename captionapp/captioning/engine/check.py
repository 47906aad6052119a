"""The self-check: nothing but fp32 serves before it has been compared with fp32.

The reference is stock transformers in float32. Its greedy captions of a few pictures drawn here are
fed to both token by token (teacher forcing), and what each expects at every place is compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from PIL import Image, ImageDraw

from captionapp import atomic
from captionapp.captioning.engine.decode import Decoding
from captionapp.captioning.engine.probe import processor

#: Of the places where the reference prefers its token by at least ``CLEAR`` nats, so many have to
#: get the same token; nearer ones are ties that any rounding decides.
MIN_AGREEMENT = 0.99
CLEAR = 0.1
#: Differences of the log-probability of the reference's tokens, in nats: mean and largest.
MAX_MEAN_DIFFERENCE = 0.015
MAX_DIFFERENCE = 0.25
#: Tokens of a reference caption at most.
TOKENS = 16
#: Raised when the engine's arithmetic changes, so that verdicts on the old one are not believed.
REVISION = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a comparison found. ``agreement`` is a share, the differences are in nats."""

    passed: bool
    tokens: int
    agreement: float
    mean_difference: float
    max_difference: float


def verdict(folder: Path | None, key: str, compare: Callable[[], Verdict]) -> Verdict:
    """The verdict kept in ``folder`` under this key; made by ``compare``, and kept, if none is.

    Workers that start together make it once. A folder that cannot be written costs the memory only.
    """
    if folder is None:
        return compare()
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = folder / f"check-{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "check.lock"):
            known = kept(folder, key)
            if known is None:
                known = compare()
                atomic.write(path, json.dumps({"key": key, **asdict(known)}, indent=2).encode())
            return known
    except OSError as error:
        logger.warning("%s: the self-check's verdict cannot be kept (%s)", folder, error)
        return compare()


def kept(folder: Path | None, key: str) -> Verdict | None:
    """The verdict of an earlier start; None if there is none that can be read."""
    if folder is None:
        return None
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((folder / f"check-{name}.json").read_text())
        if found.pop("key") == key:
            return Verdict(**found)
    return None


def key(checkpoint: Path, model_version: str, engine: str) -> str:
    """All that a verdict depends on: checkpoint, engine, processor, versions of the libraries."""
    # Reports are written beside the checkpoint too, and change nothing.
    patterns = ("config.json", "*processor_config.json", "*.safetensors", "pytorch_model*.bin")
    files = sorted(file for pattern in patterns for file in checkpoint.glob(pattern))
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    return json.dumps([model_version, states, engine, REVISION, processor(), libraries])


def compare(model: Any, pixels: torch.Tensor, begin: Callable[[torch.Tensor], Decoding]) -> Verdict:
    """Compare the engine that ``begin(pixels)`` starts with ``model``, stock and in float32.

    ``pixels`` are those of ``pictures()``, (n, 3, height, width).
    """
    text = model.config.text_config
    with torch.inference_mode():
        states = model.vision_model(pixels)[0]
        tokens = model.text_decoder.generate(
            input_ids=torch.full((len(pixels), 1), text.bos_token_id),
            encoder_hidden_states=states,
            generation_config=transformers.GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=min(TOKENS, text.max_position_embeddings - 1),
                eos_token_id=text.sep_token_id,
                pad_token_id=text.pad_token_id,
            ),
        )
        given = tokens[:, :-1]
        reference = model.text_decoder(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            encoder_hidden_states=states,
        ).logits.log_softmax(-1)
        decoding = begin(pixels)
        steps = [decoding.step(given[:, i : i + 1]) for i in range(given.shape[1])]
        fast = torch.stack(steps, 1).log_softmax(-1)
    ended = (tokens == text.sep_token_id).cumsum(1)[:, :-1] > 0
    return _judge(reference[~ended], fast[~ended])


def _judge(reference: torch.Tensor, fast: torch.Tensor) -> Verdict:
    """Log-probabilities (places, vocabulary) of both."""
    best, chosen = reference.topk(2, -1)
    clear = best[:, 0] - best[:, 1] >= CLEAR
    same = fast.argmax(-1) == chosen[:, 0]
    agreement = float((same | ~clear).float().mean())
    difference = (fast.gather(-1, chosen[:, :1]) - best[:, :1]).abs()
    mean, largest = float(difference.mean()), float(difference.max())
    passed = (
        agreement >= MIN_AGREEMENT and mean <= MAX_MEAN_DIFFERENCE and largest <= MAX_DIFFERENCE
    )  # a NaN fails every comparison
    return Verdict(passed, len(reference), agreement, mean, largest)


def pictures() -> list[Image.Image]:
    """Four drawn pictures, unlike each other: a house, balls, stripes, a face in the dark."""
    house = Image.new("RGB", (320, 240), "#8cf")
    pen = ImageDraw.Draw(house)
    pen.rectangle((0, 160, 320, 240), fill="#4a4")
    pen.rectangle((100, 110, 200, 200), fill="#c84")
    pen.polygon(((90, 110), (150, 50), (210, 110)), fill="#a33")
    balls = Image.new("RGB", (240, 320), "#7a4")
    pen = ImageDraw.Draw(balls)
    for number, colour in enumerate(("#d22", "#22d", "#fd2")):
        pen.ellipse(
            (40 + 50 * number, 40 + 80 * number, 120 + 50 * number, 120 + 80 * number), colour
        )
    stripes = Image.new("RGB", (300, 300), "white")
    pen = ImageDraw.Draw(stripes)
    for left in range(0, 300, 40):
        pen.rectangle((left, 0, left + 19, 300), fill="black")
    face = Image.new("RGB", (200, 260), "#113")
    pen = ImageDraw.Draw(face)
    pen.ellipse((40, 40, 160, 220), fill="#da8")
    pen.ellipse((70, 90, 85, 105), fill="#222")
    pen.ellipse((115, 90, 130, 105), fill="#222")
    pen.arc((75, 130, 125, 180), 20, 160, fill="#722", width=5)
    return [house, balls, stripes, face]
