"""The figures of the model card: captions of held-out pictures by stock transformers.

    python -m starter.score --data DIR --model fine-tuned-model

Prints the figures of the model and of two trivial baselines on ``flickr8k/dev``, the share of
raccoon pictures in whose caption an animal is named, and the time that loading and a caption take;
``--json FILE`` keeps them with every caption.
"""

import argparse
import copy
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.training.dataset import Example, normalise_caption, read_imagefolder
from captionapp.training.evaluate import Figures, evaluate, normalise_text, score_texts

# Singular and plural forms are listed; a word in the caption has to equal one of these.
ANIMALS = frozenset(
    """animal animals badger badgers bear bears beaver beavers bird birds calf camel camels cat cats
    cow cows creature creatures cub cubs deer dog dogs duck ducks elephant elephants ferret ferrets
    fox foxes goat goats greyhound greyhounds hamster hedgehog horse horses husky kitten kittens
    lemur lemurs lion lions lynx mammal mammals monkey monkeys mouse opossum otter otters owl owls
    panda pandas pig pigs pony poodle possum pup pups puppies puppy rabbit rabbits raccoon
    raccoons rat rats retriever rodent rodents sheep sheepdog skunk squirrel squirrels terrier tiger
    tigers weasel weasels wolf wolves zebra""".split()
)


class StockCaptioner:
    """The checkpoint through transformers' own classes and nothing of the application's engine."""

    def __init__(self, folder: Path) -> None:
        self.model_version = folder.name
        self.processor = AutoProcessor.from_pretrained(folder, backend="pil")
        self.model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n, 3, image_size, image_size) for the model."""
        values: torch.Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return values

    def prepare(self, image: Image.Image) -> Image.Image:
        """As it is: the processor makes it small."""
        return image

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        """Captions with the options' beams; prompts and bad words are not needed here."""
        if not images:
            return []
        begin = time.perf_counter()
        pixels = self.pixels(images)
        # BLIP's generate() hands the file's settings to its decoder only if it is given them.
        config = copy.deepcopy(self.model.generation_config)
        config.update(
            num_beams=options.num_beams,
            max_new_tokens=options.max_new_tokens,
            length_penalty=options.length_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
        )
        ids = self.model.generate(pixels, generation_config=config)
        pad = self.model.config.text_config.pad_token_id
        logits = self.model(pixel_values=pixels, input_ids=ids[:, :-1]).logits
        chosen = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        real = ids[:, 1:] != pad
        probabilities = ((chosen * real).sum(1) / real.sum(1)).exp().tolist()
        seconds = time.perf_counter() - begin
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [
            Caption(text, probability, self.model_version, options, seconds)
            for text, probability in zip(texts, probabilities, strict=True)
        ]

    @torch.inference_mode()
    def features(self, examples: Sequence[Example], batch: int = 64) -> torch.Tensor:
        """Unit vectors (n, width): the mean of the vision model's patches."""
        parts = []
        for first in range(0, len(examples), batch):
            images = [_open(e.path) for e in examples[first : first + batch]]
            seen = self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state
            parts.append(seen[:, 1:].mean(dim=1))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def most_frequent(train: Sequence[Example], dev: Sequence[Example]) -> Figures:
    """Figures of the commonest training caption for every picture."""
    counts = Counter(normalise_caption(c) for example in train for c in example.captions)
    text = counts.most_common(1)[0][0]
    return score_texts([text] * len(dev), [e.captions for e in dev])[0]


def nearest(captioner: StockCaptioner, train: Sequence[Example], dev: Sequence[Example]) -> Figures:
    """Figures of the first caption of the nearest training picture, in the model's own features."""
    similarity = captioner.features(dev) @ captioner.features(train).T
    texts = [normalise_caption(train[i].captions[0]) for i in similarity.argmax(dim=1).tolist()]
    return score_texts(texts, [e.captions for e in dev])[0]


def animal_share(captions: Sequence[str]) -> float:
    """Share of captions with a word of `ANIMALS`."""
    named = [bool(ANIMALS & set(normalise_text(text).split())) for text in captions]
    return sum(named) / len(named)


def time_one(captioner: StockCaptioner, examples: Sequence[Example]) -> float:
    """Median milliseconds from picture to words, one picture at a time, defaults of the folder."""
    times = []
    for example in examples:
        image = _open(example.path)
        begin = time.perf_counter()
        with torch.inference_mode():
            ids = captioner.model.generate(
                captioner.pixels([image]), generation_config=captioner.model.generation_config
            )
        captioner.processor.batch_decode(ids, skip_special_tokens=True)
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def table(rows: dict[str, Figures]) -> str:
    """Figures as a Markdown table."""
    names = (
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "cider",
        "rouge_l",
        "distinct",
        "empty",
        "repeating",
        "mean_words",
    )
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for title, figures in rows.items():
        values = figures.as_dict()
        cells = (
            f"{values[n]:.3f}" if isinstance(values[n], float) else str(values[n]) for n in names
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    data: Path, model: Path, limit: int | None = None, baselines: bool = True, **decoding: Any
) -> dict[str, Any]:
    """All figures; ``limit`` takes the first pictures only, ``decoding`` changes DecodeOptions."""
    begin = time.perf_counter()
    captioner = StockCaptioner(model)
    load_seconds = time.perf_counter() - begin
    dev = read_imagefolder(data / "flickr8k" / "dev")[:limit]
    raccoons = read_imagefolder(data / "raccoon")[:limit]
    options = DecodeOptions(**{"max_new_tokens": 24, **decoding})
    evaluation = evaluate(captioner, dev, options, batch=32)
    rows = {model.name: evaluation.figures}
    if baselines:
        train = read_imagefolder(data / "flickr8k" / "train")[:limit]
        rows["most frequent caption"] = most_frequent(train, dev)
        rows["nearest training picture"] = nearest(captioner, train, dev)
    seen = evaluate(captioner, raccoons, options, batch=32)
    result = {
        "figures": {title: figures.as_dict() for title, figures in rows.items()},
        "raccoon": {
            "pictures": len(raccoons),
            "animal_share": animal_share([c.text for c in seen.captions]),
            "distinct": seen.figures.distinct,
        },
        "milliseconds_per_caption": time_one(captioner, dev[:30]),
        "load_seconds": load_seconds,
        "threads": torch.get_num_threads(),
        "captions": {
            f"{e.path.parent.name}/{e.path.name}": c.text
            for e, c in zip([*dev, *raccoons], [*evaluation.captions, *seen.captions], strict=True)
        },
    }
    print(table(rows))
    print(json.dumps({k: v for k, v in result.items() if k not in {"figures", "captions"}}))
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Reproduce the figures of the model card.")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with flickr8k/train, flickr8k/dev and raccoon",
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--json", type=Path, help="file for the figures and all captions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-baselines", action="store_true", help="the model's figures only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(args.data, args.model, baselines=not args.no_baselines)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
