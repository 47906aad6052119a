"""How fast the engine captions, beside plain ``generate()`` of the same weights.

    python benchmarks/engine.py                          # the shipped checkpoint
    python benchmarks/engine.py --shape base             # BLIP-base's, with random weights
    python benchmarks/engine.py --shape large --rounds 3

Every engine decodes the same noise with the same options to the same number of tokens ([SEP] is
forbidden, since random weights never or always end). Rounds are interleaved, so that a machine that
slows down slows all of them; figures are medians, ratios are of medians of one run. ``bound`` is
the time that the arithmetic of the encoder would take at the matrix-multiply rate measured in the
run, plus that of reading the decoder's weights once a token at the memory bandwidth measured; the
share is bound / time. A format that the self-check refuses would not serve this checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, GenerationConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from captionapp.captioning.engine import check, precision  # noqa: E402
from captionapp.captioning.engine.decode import search  # noqa: E402
from captionapp.captioning.engine.linear import activations, available, linear  # noqa: E402
from captionapp.captioning.engine.probe import processor  # noqa: E402
from captionapp.captioning.engine.torch_backend import TorchBackend  # noqa: E402
from captionapp.settings import ROOT  # noqa: E402

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
FORMATS = ("fp32", *precision.NAMES)
BYTES = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2, torch.int8: 1}


def main() -> None:
    arguments = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    model = make_model(arguments)
    arguments.clock = time.process_time if arguments.cpu_time else time.perf_counter
    machine = Machine(arguments.clock)
    print(f"{processor()}, {arguments.threads} threads, torch {torch.__version__}")
    rates = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in machine.rates.items())
    print(f"matrix multiply, 10^9 operations/s: {rates}; memory {machine.bandwidth / 1e9:.1f} GB/s")
    plain = {"plain fp32": model, "plain bf16": copy.deepcopy(model).bfloat16()}
    engines = {}
    for name in arguments.formats:
        engines[name] = TorchBackend(model, precision.named(name))
        if name != "fp32":
            print(f"self-check of {name}: {verdict(model, engines[name])}")
    for beams, batch in itertools.product(arguments.beams, arguments.batch):
        pixels = noise(model, batch)
        how = (pixels, beams, arguments.tokens)
        runs = {name: partial(stock, one, *how) for name, one in plain.items()}
        runs |= {name: partial(ours, model, one, *how) for name, one in engines.items()}
        seconds = measure(runs, arguments.rounds, arguments.clock)
        report(model, machine, seconds, beams, batch, arguments.tokens)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--shape", choices=["base", "large"], help="random weights of this shape")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of the processor instead of the wall clock: for one thread on a busy machine",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def make_model(arguments: argparse.Namespace) -> Any:
    if arguments.shape is None:
        return BlipForConditionalGeneration.from_pretrained(
            arguments.checkpoint, dtype=torch.float32
        ).eval()
    torch.manual_seed(0)
    vision: dict[str, Any] = {"initializer_range": 0.02}
    text: dict[str, Any] = {"initializer_range": 0.02}
    if arguments.shape == "large":
        vision |= LARGE | {"num_attention_heads": 16}
        text |= {"encoder_hidden_size": LARGE["hidden_size"]}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).eval()


def noise(model: Any, pictures: int) -> torch.Tensor:
    size = model.config.vision_config.image_size
    return torch.randn(pictures, 3, size, size, generator=torch.Generator().manual_seed(pictures))


def options(model: Any, beams: int, tokens: int) -> dict[str, Any]:
    text = model.config.text_config
    return {
        "num_beams": beams,
        "early_stopping": beams > 1,
        "length_penalty": 1.0,
        "max_new_tokens": tokens,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [text.sep_token_id],
        "do_sample": False,
    }


def stock(model: Any, pixels: torch.Tensor, beams: int, tokens: int) -> None:
    model.generate(pixels.to(model.dtype), **options(model, beams, tokens))


def ours(model: Any, backend: TorchBackend, pixels: torch.Tensor, beams: int, tokens: int) -> None:
    text = model.config.text_config
    config = GenerationConfig(**options(model, beams, tokens))
    config.update(eos_token_id=text.sep_token_id, pad_token_id=text.pad_token_id)
    with torch.inference_mode():
        decoding = backend.begin(backend.encode(pixels))
        search(decoding, [text.bos_token_id], len(pixels), config)


def verdict(model: Any, backend: TorchBackend) -> check.Verdict:
    return check.compare(model, noise(model, 4), lambda x: backend.begin(backend.encode(x)))


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each, the first round of all left out."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number:
                seconds[name].append(clock() - started)
    return {name: statistics.median(all_of_it) for name, all_of_it in seconds.items()}


class Machine:
    """What the processor does at most, as measured now: operations a second, bytes a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.rates = {kind: self._rate(kind) for kind in available()}
        block = torch.zeros(64_000_000)  # larger than any cache
        self.bandwidth = 4 * len(block) / self._best(lambda: block.sum())

    def _rate(self, weights: torch.dtype) -> float:
        layer = linear(torch.nn.Linear(2048, 2048), weights=weights, many=True)
        x = torch.randn(1024, 2048).to(activations(weights))
        return 2 * 1024 * 2048 * 2048 / self._best(lambda: layer(x))

    def _best(self, run: Callable[[], Any]) -> float:
        seconds = []
        with torch.inference_mode():
            for _ in range(6):
                started = self._clock()
                run()
                seconds.append(self._clock() - started)
        return min(seconds)


def report(
    model: Any, machine: Machine, seconds: dict[str, float], beams: int, batch: int, tokens: int
) -> None:
    print(f"\nbeams {beams}, batch {batch}, {tokens} tokens")
    print(f"{'':12}{'s a caption':>12}{'x fp32':>8}{'x bf16':>8}{'bound s':>9}{'share':>7}")
    for name, value in seconds.items():
        form = precision.named(name.removeprefix("plain "))
        bound = lower_bound(model, machine, form, batch, tokens)
        print(
            f"{name:12}{value / batch:12.3f}{seconds['plain fp32'] / value:8.2f}"
            f"{seconds['plain bf16'] / value:8.2f}{bound / batch:9.3f}{bound / value:7.0%}"
        )


def lower_bound(
    model: Any, machine: Machine, form: precision.Format, batch: int, tokens: int
) -> float:
    """Seconds: the encoder's products (its weights and its attention, and the keys and values that
    the decoder makes of its states), and the decoder's weights once for each token."""
    vision, text = model.config.vision_config, model.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    weights = 12 * vision.hidden_size**2 * vision.num_hidden_layers  # with 4 x width in the MLP
    weights += 2 * text.num_hidden_layers * vision.hidden_size * text.hidden_size
    attention = 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers
    products = 2 * weights * patches / machine.rates[form.vision]
    products += attention / machine.rates[form.attention]
    width = text.hidden_size
    layer = 6 * width**2 + 2 * width * text.intermediate_size
    read = layer * text.num_hidden_layers * BYTES[form.text]
    read += text.vocab_size * width * BYTES[form.head]
    return batch * products + tokens * read / machine.bandwidth


if __name__ == "__main__":
    main()
