"""Whether the fast number formats say what fp32 says, on pictures with human captions.

    python benchmarks/agreement.py PICTURES [--count 500] [--checkpoint FOLDER]

``PICTURES`` is an imagefolder (see ``captionapp/training/dataset.py``). For each format: the share
of places where, the caption of fp32 given up to there, the likeliest next token is the same; by
how much the log-probability of its tokens differs; the share of pictures whose caption, with the
default options, is the same word for word; and CIDEr of the captions.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from captionapp.captioning import blip  # noqa: E402
from captionapp.captioning.captioner import DecodeOptions  # noqa: E402
from captionapp.captioning.engine import precision  # noqa: E402
from captionapp.captioning.engine.decode import Decoded, search  # noqa: E402
from captionapp.captioning.engine.torch_backend import TorchBackend  # noqa: E402
from captionapp.settings import ROOT  # noqa: E402
from captionapp.training.dataset import read_imagefolder  # noqa: E402
from captionapp.training.evaluate import open_picture, score_texts  # noqa: E402

BATCH = 16


@dataclass
class Tally:
    """What one format did."""

    texts: list[str] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    same: int = 0
    differences: list[torch.Tensor] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--formats", nargs="+", default=["bf16", "fp16", "mixed", "int8"])
    arguments = parser.parse_args()
    examples = read_imagefolder(arguments.pictures)[: arguments.count]
    model, processor = blip._stock(arguments.checkpoint, "checkpoint")
    captioners = {
        name: blip.BlipCaptioner(
            TorchBackend(model, precision.named(name)), model, processor, "checkpoint", name
        )
        for name in ["fp32", *arguments.formats]
    }
    tallies = {name: Tally() for name in captioners}
    places = 0
    for first in range(0, len(examples), BATCH):
        images = [open_picture(example.path) for example in examples[first : first + BATCH]]
        with torch.inference_mode():
            places += compare(captioners, tallies, blip._pixels(processor, images))
        print(f"\r{first + len(images)}/{len(examples)}", end="", file=sys.stderr)
    report(tallies, places, [example.captions for example in examples])


def compare(
    captioners: dict[str, blip.BlipCaptioner], tallies: dict[str, Tally], pixels: torch.Tensor
) -> int:
    """Caption these pictures in every format; how many places of fp32's captions there are."""
    reference: torch.Tensor | None = None
    for name, one in captioners.items():
        states = one._backend.encode(pixels)
        prefix = one._prefix("")
        config = one._generation_config(len(prefix), DecodeOptions())
        found = search(one._backend.begin(states), prefix, len(pixels), config)
        tallies[name].tokens += [caption.tokens for caption in found]
        tallies[name].texts += one._texts([list(caption.tokens) for caption in found])
        if reference is None:
            given, own = rectangle(prefix, found)
        decoding = one._backend.begin(states)
        steps = [decoding.step(given[:, i : i + 1]) for i in range(own.shape[1])]
        log_p = torch.stack(steps, 1).log_softmax(-1)
        if reference is None:
            reference = log_p
        chosen = given[:, 1:, None]
        difference = (log_p.gather(-1, chosen) - reference.gather(-1, chosen))[..., 0].abs()
        tallies[name].differences.append(difference[own])
        tallies[name].same += int(((log_p.argmax(-1) == reference.argmax(-1)) & own).sum())
    return int(own.sum())


def rectangle(prefix: list[int], captions: list[Decoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefix and captions with zeros behind (n, length), and which places are a caption's own."""
    longest = max(len(caption.tokens) for caption in captions)
    rows = [[*prefix, *x.tokens, *[0] * (longest - len(x.tokens))] for x in captions]
    lengths = torch.tensor([len(caption.tokens) for caption in captions])
    return torch.tensor(rows), torch.arange(longest) < lengths[:, None]


def report(tallies: dict[str, Tally], places: int, references: list[tuple[str, ...]]) -> None:
    expected = tallies["fp32"]
    best = score_texts(expected.texts, references)[0].cider
    print(f"\n{len(references)} pictures, {places} tokens, CIDEr of fp32 {best:.4f}")
    for name, tally in tallies.items():
        if name == "fp32":
            continue
        difference = torch.cat(tally.differences)
        pairs = zip(tally.tokens, expected.tokens, strict=True)
        identical = sum(one == other for one, other in pairs) / len(references)
        cider = score_texts(tally.texts, references)[0].cider
        print(
            f"{name:6} agreement {tally.same / places:.4f}  |log p| mean {difference.mean():.4f} "
            f"max {difference.max():.3f}  identical {identical:.3f}  CIDEr {cider:.4f} "
            f"({cider / best - 1:+.2%})"
        )


if __name__ == "__main__":
    main()
