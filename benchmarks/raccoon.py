"""The raccoon story: what a model does not know, people teach it, and it forgets nothing for it.

    python benchmarks/raccoon.py --data DIR [--more DIR] [--show PICTURE…] [--json FILE]

``--data`` has the imagefolders ``raccoon``, ``flickr8k/train`` and ``flickr8k/dev``;
``--raccoons``, ``--retain`` and ``--dev`` name others. Of the raccoons 32 are held out; the others
become corrections of the shipped model in a fresh instance (`flask feedback import`), which `flask
model finetune` then learns, with 500 pictures of another folder to retain, and once without.
Measured are, by the application's own captioner and figures, how many of the held-out raccoons are
called a raccoon, and on pictures of other things (``--dev``) how many are, and what CIDEr has
become. ``--more`` are further raccoons, to be measured only; of the pictures ``--show`` each
version's caption is printed. ``--model`` is another checkpoint to begin with.

Near-duplicates are on one side of the split; it is drawn by ``--seed``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from captionapp.captioning.blip import BlipCaptioner  # noqa: E402
from captionapp.captioning.captioner import DecodeOptions  # noqa: E402
from captionapp.captioning.versions import ModelVersion, ModelVersions  # noqa: E402
from captionapp.feedback.interchange import METADATA  # noqa: E402
from captionapp.training.dataset import Example, read_imagefolder  # noqa: E402
from captionapp.training.evaluate import (  # noqa: E402
    caption_examples,
    evaluate,
    normalise_text,
    open_picture,
)
from captionapp.training.split import groups, perceptual_hash  # noqa: E402

WORD = "raccoon"
#: Of the imagefolders, in the folder ``--data``.
PLACES = {"raccoons": "raccoon", "retain": "flickr8k/train", "dev": "flickr8k/dev"}
#: What the learning loop promises.
MIN_RECOGNISED, MAX_MISTAKEN, MAX_LOSS, MAX_MINUTES = 0.90, 0.02, 0.05, 10.0


@dataclass(frozen=True)
class Measured:
    """A version's figures; ``recognised``, ``more`` and ``mistaken`` are shares of captions with
    the word, ``cider_kept`` is CIDEr over that before, ``minutes`` of training."""

    name: str
    minutes: float
    recognised: float
    more: float | None
    mistaken: float
    cider: float
    cider_kept: float
    bleu_4: float
    distinct: float
    repeating: int
    captions: list[str]  # of the held-out raccoons
    shown: list[str]  # captions of the pictures to show

    @property
    def kept_its_promise(self) -> bool:
        return (
            self.minutes <= MAX_MINUTES
            and self.recognised >= MIN_RECOGNISED
            and self.mistaken <= MAX_MISTAKEN
            and self.cider_kept >= 1 - MAX_LOSS
        )


def split(examples: Sequence[Example], held_out: int, seed: int) -> tuple[list[Example], ...]:
    """Examples to teach and held-out ones; groups of near-duplicates are not torn apart."""
    together = groups([perceptual_hash(open_picture(example.path)) for example in examples])
    random.Random(seed).shuffle(together)
    kept: list[int] = []
    for group in together:
        if len(kept) + len(group) <= held_out:
            kept += group
    sides = set(kept)
    return (
        [example for place, example in enumerate(examples) if place not in sides],
        [example for place, example in enumerate(examples) if place in sides],
    )


def write_imagefolder(examples: Sequence[Example], folder: Path) -> Path:
    """Copy pictures with their captions."""
    folder.mkdir()
    columns = max(len(example.captions) for example in examples)
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", *(f"caption_{number}" for number in range(columns))])
        for example in examples:
            shutil.copyfile(example.path, folder / example.path.name)
            missing = [""] * (columns - len(example.captions))
            writer.writerow([example.path.name, *example.captions, *missing])
    return folder


def flask(instance: Path, model: Path | None, *arguments: str) -> float:
    """Run a command of the application; the minutes it took."""
    began = time.monotonic()
    status = status_of(instance, model, *arguments)
    if status:
        raise SystemExit(f"flask {' '.join(arguments)} ended with status {status}.")
    return (time.monotonic() - began) / 60


def status_of(instance: Path, model: Path | None, *arguments: str) -> int:
    """The exit status of a command of the application."""
    print("$ flask", *arguments, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONAPP_")}
    environment |= {"CAPTIONAPP_MODEL": str(model.resolve())} if model else {}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
    environment["CAPTIONAPP_INSTANCE"] = str(instance)
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def measure(
    version: ModelVersion,
    name: str,
    minutes: float,
    held_out: Sequence[Example],
    more: Sequence[Example],
    dev: Sequence[Example],
    show: Sequence[Path],
    cider_before: float | None,
) -> Measured:
    captioner, options = BlipCaptioner.load(version.folder, version.name), DecodeOptions()
    raccoons = [made.text for made in caption_examples(captioner, held_out, options)]
    others = [made.text for made in caption_examples(captioner, more, options)]
    shown = captioner.caption([open_picture(path) for path in show], options)
    result = evaluate(captioner, dev, options)
    figures = result.figures
    return Measured(
        name=name,
        minutes=minutes,
        recognised=share(raccoons),
        more=share(others) if others else None,
        mistaken=share([made.text for made in result.captions]),
        cider=figures.cider,
        cider_kept=figures.cider / (cider_before or figures.cider),
        bleu_4=figures.bleu_4,
        distinct=figures.distinct,
        repeating=figures.repeating,
        captions=raccoons,
        shown=[made.text for made in shown],
    )


def share(captions: Sequence[str]) -> float:
    """Of captions that have the word, in the singular or the plural."""
    words = {WORD, f"{WORD}s"}
    return sum(bool(words & set(normalise_text(text).split())) for text in captions) / len(captions)


def table(rows: Sequence[Measured]) -> str:
    lines = [
        "| version | minutes | raccoons recognised | further ones | others called a raccoon "
        "| CIDEr | of before | BLEU-4 | distinct |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        more = "-" if row.more is None else f"{row.more:.1%}"
        lines.append(
            f"| {row.name} | {row.minutes:.1f} | {row.recognised:.1%} | {more} "
            f"| {row.mistaken:.1%} | {row.cider:.3f} | {row.cider_kept:.1%} | {row.bleu_4:.3f} "
            f"| {row.distinct:.1%} |"
        )
    for row in rows:
        lines += [f"\n{row.name}: {caption}" for caption in row.shown]
    return "\n".join(lines)


def newest(instance: Path) -> ModelVersion:
    versions = ModelVersions(instance / "models", ROOT / "fine-tuned-model")
    return [version for version in versions.list() if version.origin == "trained"][-1]


def tell(args: argparse.Namespace, work: Path) -> list[Measured]:
    """The story, in ``work``, an empty folder."""
    taught, held_out = split(read_imagefolder(args.raccoons), args.held_out, args.seed)
    print(f"{len(taught)} raccoons to teach, {len(held_out)} held out")
    more = read_imagefolder(args.more) if args.more else []
    dev = read_imagefolder(args.dev)[: args.dev_pictures]
    others = read_imagefolder(args.retain)
    others = random.Random(args.seed).sample(others, min(args.retained, len(others)))
    corrections = write_imagefolder(taught, work / "raccoons")
    retained = write_imagefolder(others, work / "retained")
    instance = work / "instance"
    begin = ModelVersions(instance / "models", args.model or ROOT / "fine-tuned-model").shipped()
    before = measure(begin, "before", 0.0, held_out, more, dev, args.show, None)
    rows = [before]
    print(table(rows), flush=True)
    flask(instance, args.model, "feedback", "import", str(corrections))
    runs = {"with --retain": ["--retain", str(retained)], "without --retain": []}
    for name, arguments in runs.items():
        more_arguments = [*arguments, *args.finetune.split()]
        minutes = flask(instance, args.model, "model", "finetune", *more_arguments)
        made = newest(instance)
        rows.append(measure(made, name, minutes, held_out, more, dev, args.show, before.cider))
        print(table(rows), flush=True)
        if args.only_retain:
            break
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="The raccoon story.")
    parser.add_argument("--data", type=Path, help="folder of the three imagefolders")
    parser.add_argument("--raccoons", type=Path, help="imagefolder to teach from")
    parser.add_argument("--retain", type=Path, help="imagefolder to be retained")
    parser.add_argument("--dev", type=Path, help="imagefolder to measure on")
    parser.add_argument("--model", type=Path, help="checkpoint to begin with; the shipped one")
    parser.add_argument("--more", type=Path, help="imagefolder of further raccoons to measure on")
    parser.add_argument(
        "--show", type=Path, nargs="+", default=[], help="pictures to print the captions of"
    )
    parser.add_argument("--held-out", type=int, default=32, help="raccoons not to teach")
    parser.add_argument("--retained", type=int, default=500, help="pictures to be retained")
    parser.add_argument("--dev-pictures", type=int, help="measure on the first so many only")
    parser.add_argument("--seed", type=int, default=1, help="of the split and the sample")
    parser.add_argument("--finetune", default="", help="further arguments of `finetune`")
    parser.add_argument("--only-retain", action="store_true", help="leave the second run out")
    parser.add_argument("--work", type=Path, help="empty folder to work in, kept; else a temporary")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    for name, place in PLACES.items():
        if getattr(args, name) is None:
            if args.data is None:
                parser.error(f"give --data, or --{name}")
            setattr(args, name, args.data / place)
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()  # commands run in another folder
        work.mkdir(parents=True, exist_ok=True)
        rows = tell(args, work)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    kept = rows[1].kept_its_promise
    print(f"\nWith --retain the promise is {'kept' if kept else 'NOT kept'}.")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
