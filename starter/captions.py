"""Stage 3: caption training with cross-entropy, the decoder alone or together with the eyes.

    python -m starter.captions --data DIR --teacher RUN/teacher --distilled RUN/distill \
        --out RUN/captions

Each picture is encoded once and its five captions are decoded against it in one packed sequence
(a block-diagonal mask keeps them apart), which halves the cost of a caption. Every step also goes
on with the distillation, on the same pictures and on some others: it keeps the vision model from
fitting the 6,000 pictures. Goes on from ``RUN/captions/checkpoint.pt`` after a kill.
"""

import argparse
import logging
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import BlipForConditionalGeneration

from captionapp.training.dataset import normalise_caption, read_imagefolder
from starter import checkpoints
from starter.distill import Heads, Material, draw_rows, see
from starter.student import (
    StudentConfig,
    Vocabulary,
    build_student,
    load_tokenizer,
    load_vision,
    parameter_groups,
)
from starter.teacher import TeacherConfig

log = logging.getLogger("starter.captions")

SIDES = re.compile(r"\b(left|right)\b")


@dataclass
class CaptionConfig:
    """Hyperparameters."""

    steps: int = 2400
    pictures: int = 32  # a step, each with all its captions
    extra_views: int = 0  # views of any source a step, for the distillation only
    lr: float = 3e-4
    vision_lr: float = 1.5e-4  # 0 freezes the vision model and leaves the distillation out
    warmup: int = 100  # steps
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    label_smoothing: float = 0.1
    word_dropout: float = 0.05  # share of input words replaced by [PAD]
    ema: float = 0.998
    distill: float = 0.5  # weight of the distillation beside the captions' loss
    distill_weights: tuple[float, ...] = (0.5, 0.5, 2.0, 1.0, 0.2)
    shares: tuple[float, ...] = (0.5, 0.3, 0.1, 0.1)  # sources of the extra views
    whole: float = 0.5  # share of pictures seen whole instead of a 7x7-cell crop
    held_out: int = 200  # first pictures, never trained on, for the log
    max_tokens: int = 28  # of a caption in training; longer ones are cut
    seed: int = 2
    save_every: int = 100
    log_every: int = 20


@dataclass
class CaptionData:
    """Captions as compact token numbers, one list a picture, in the order of the pictures."""

    texts: list[list[str]]  # normalised captions
    tokens: list[list[list[int]]]  # without [DEC] and [SEP]
    mirrorable: torch.Tensor  # bool (n,): no caption speaks of left or right
    vocabulary: Vocabulary
    counts: np.ndarray  # occurrences of each compact token, captions' ends included


def load_captions(folder: Path, names: list[str], max_tokens: int) -> CaptionData:
    """Captions of an imagefolder for pictures given by name."""
    examples = {example.path.name: example for example in read_imagefolder(folder)}
    texts = [[normalise_caption(c) for c in examples[name].captions] for name in names]
    tokenizer = load_tokenizer()
    flat = [text for group in texts for text in group]
    encoded = [ids[:max_tokens] for ids in tokenizer(flat, add_special_tokens=False)["input_ids"]]
    vocabulary = Vocabulary.of(encoded)
    compact = iter([vocabulary.compact(ids) for ids in encoded])
    tokens = [[next(compact) for _ in group] for group in texts]
    counts = np.bincount(
        [t for group in tokens for ids in group for t in ids], minlength=len(vocabulary)
    )
    counts[vocabulary.sep] = len(flat)
    mirrorable = torch.tensor([not any(SIDES.search(t) for t in group) for group in texts])
    return CaptionData(texts, tokens, mirrorable, vocabulary, counts)


@dataclass
class Packed:
    """Captions of n pictures, one row a picture; all tensors (n, length) but the mask."""

    inputs: torch.Tensor  # [DEC] and the words of each caption, one caption after the other
    labels: torch.Tensor  # the word that follows, [SEP] at a caption's end, -100 in the padding
    positions: torch.Tensor  # counted from each caption's [DEC]
    caption: torch.Tensor  # which caption of the row a token belongs to, -1 in the padding
    mask: torch.Tensor  # float (n, 1, length, length), 0 where a token may look, else very negative


def pack(groups: list[list[list[int]]], vocabulary: Vocabulary) -> Packed:
    """Put each picture's captions into one row."""
    length = max(sum(len(ids) + 1 for ids in group) for group in groups)
    shape = (len(groups), length)
    inputs = torch.full(shape, vocabulary.pad)
    labels, caption = torch.full(shape, -100), torch.full(shape, -1)
    positions = torch.zeros(shape, dtype=torch.long)
    for row, group in enumerate(groups):
        at = 0
        for index, ids in enumerate(group):
            end = at + len(ids) + 1
            inputs[row, at:end] = torch.tensor([vocabulary.dec, *ids])
            labels[row, at:end] = torch.tensor([*ids, vocabulary.sep])
            positions[row, at:end] = torch.arange(len(ids) + 1)
            caption[row, at:end] = index
            at = end
    order = torch.arange(length)
    allowed = (caption[:, :, None] == caption[:, None, :]) & (order[:, None] >= order[None, :])
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    return Packed(inputs, labels, positions, caption, mask[:, None])


def decode(
    model: BlipForConditionalGeneration,
    packed: Packed,
    seen: torch.Tensor,
    word_dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (m, vocabulary) of the m real tokens of a packed batch, row by row, and their labels.

    ``seen`` is the vision model's output (n, cells² + 1, width).
    """
    inputs = packed.inputs
    if word_dropout:
        drop = (torch.rand(inputs.shape) < word_dropout) & (packed.positions > 0)
        inputs = inputs.masked_fill(drop, model.config.text_config.pad_token_id)
    hidden = model.text_decoder.bert(
        input_ids=inputs,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        encoder_hidden_states=seen,
        is_decoder=True,
        use_cache=False,
    ).last_hidden_state
    real = packed.labels >= 0
    return model.text_decoder.cls(hidden[real]), packed.labels[real]


class Captioning:
    """Model, heads, data and the loss of one step."""

    def __init__(
        self,
        config: CaptionConfig,
        model: BlipForConditionalGeneration,
        heads: Heads,
        material: Material,
        captions: CaptionData,
    ) -> None:
        self.config, self.model, self.heads = config, model, heads
        self.material, self.captions = material, captions
        self.weights = torch.tensor(config.distill_weights)
        whole_views = np.all(material.views.box == np.array([0, 0, 1, 1]), axis=1)
        first = np.nonzero((material.views.source == 0) & whole_views)[0]
        self.view_of = {int(material.views.picture[row]): int(row) for row in first}

    def loss(
        self, pictures: np.ndarray, rng: torch.Generator, draw_rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a training step and the figures to log: cross-entropy and the distillation's."""
        config, material = self.config, self.material
        rows = np.array([self.view_of[int(p)] for p in pictures])
        batch = material.draw(rows, rng, config.whole, self.captions.mirrorable[pictures])
        packed = pack([self.captions.tokens[p] for p in pictures], self.captions.vocabulary)
        with torch.autocast("cpu", torch.bfloat16):
            if config.vision_lr:
                if config.extra_views:
                    extra = draw_rows(
                        material, config.shares, config.extra_views, config.held_out, draw_rng
                    )
                    more = material.draw(extra, rng, config.whole)
                    batch = tuple(torch.cat(pair) for pair in zip(batch, more, strict=True))
                hidden, last = see(self.model.vision_model, batch[0])
                distill = self.heads.losses(hidden, last, batch[1], batch[2])
            else:
                with torch.no_grad():
                    _, last = see(self.model.vision_model, batch[0])
                distill = torch.zeros(len(self.weights))
            logits, labels = decode(self.model, packed, last[: len(pictures)], config.word_dropout)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        figures = torch.cat([loss.detach()[None], distill.detach()])
        return loss + config.distill * (distill * self.weights).sum(), figures

    @torch.no_grad()
    def held_out(self, model: BlipForConditionalGeneration) -> float:
        """Cross-entropy a token, without smoothing, on the held-out pictures."""
        pictures = np.arange(self.config.held_out)
        rng = torch.Generator().manual_seed(0)
        total, tokens = 0.0, 0
        for part in np.array_split(pictures, max(1, len(pictures) // 50)):
            rows = np.array([self.view_of[int(p)] for p in part])
            no_flip = torch.zeros(len(part), dtype=torch.bool)
            pixels, _, _ = self.material.draw(rows, rng, 1.0, no_flip)
            packed = pack([self.captions.tokens[p] for p in part], self.captions.vocabulary)
            with torch.autocast("cpu", torch.bfloat16):
                _, last = see(model.vision_model, pixels)
                logits, labels = decode(model, packed, last)
            total += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            tokens += len(labels)
        return total / tokens


def make(
    config: CaptionConfig,
    student: StudentConfig,
    material: Material,
    data: Path,
    distilled: Path | None,
) -> Captioning:
    """A model to start from: MiniLM's layers, and the vision model and heads of a folder."""
    captions = load_captions(data, material.sources[0].names, config.max_tokens)
    model = build_student(student, captions.vocabulary, captions.counts)
    heads = Heads(student.vision_width)
    if distilled is not None:
        load_vision(model.vision_model, distilled / "vision.safetensors")
        if (distilled / "heads.safetensors").exists():
            heads.load_state_dict(load_file(distilled / "heads.safetensors"))
    return Captioning(config, model, heads, material, captions)


def train(config: CaptionConfig, captioning: Captioning, out: Path) -> None:
    """Train up to ``config.steps``; ``out/model.pt`` is the average of weights at the end."""
    model = captioning.model
    model.vision_model.requires_grad_(config.vision_lr > 0)
    both = nn.ModuleDict({"model": model, "heads": captioning.heads})
    average = checkpoints.Average(both, config.ema)
    groups = parameter_groups(model, config.lr, config.vision_lr, config.weight_decay)
    if config.vision_lr:
        groups += parameter_groups(captioning.heads, config.lr, config.lr, 0.0)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    draw_rng, crop_rng = np.random.default_rng(config.seed), torch.Generator()
    crop_rng.manual_seed(config.seed)
    order, first, checkpoint = np.array([], np.int64), 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        both.load_state_dict(state["both"])
        average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        draw_rng.bit_generator.state = state["draw_rng"]
        crop_rng.set_state(state["crop_rng"])
        order, first = state["order"], state["step"]
    both.train()
    begin, recent = time.time(), torch.zeros(1 + len(config.distill_weights))
    for step in range(first, config.steps):
        checkpoints.set_rate(optimizer, checkpoints.cosine(step, config.warmup, config.steps, 0.02))
        if len(order) < config.pictures:
            order = np.arange(config.held_out, len(captioning.captions.tokens))
            draw_rng.shuffle(order)
        pictures, order = order[: config.pictures], order[config.pictures :]
        loss, figures = captioning.loss(pictures, crop_rng, draw_rng)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(both, step)
        recent += figures / config.log_every
        if (step + 1) % config.log_every == 0:
            log.info(
                "step %d losses %s, %.0f pictures/s",
                step + 1,
                " ".join(f"{v:.3f}" for v in recent),
                (step + 1 - first) * config.pictures / (time.time() - begin),
            )
            recent.zero_()
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            if config.held_out:
                log.info(
                    "step %d held-out cross-entropy %.3f",
                    step + 1,
                    captioning.held_out(average.model["model"]),
                )
            checkpoints.save(
                checkpoint,
                {
                    "both": both.state_dict(),
                    "average": average.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "order": order,
                    "draw_rng": draw_rng.bit_generator.state,
                    "crop_rng": crop_rng.get_state(),
                    "config": asdict(config),
                    "vocabulary": captioning.captions.vocabulary.ids,
                },
            )
            save_model(out / "model.pt", average.model, captioning.captions)


def save_model(path: Path, both: nn.ModuleDict, captions: CaptionData) -> None:
    """What later stages start from: model, heads, and the vocabulary with its counts."""
    checkpoints.save(
        path,
        {
            "model": both["model"].state_dict(),
            "heads": both["heads"].state_dict(),
            "vocabulary": captions.vocabulary.ids,
            "counts": captions.counts,
        },
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the captioner with cross-entropy.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--distilled", type=Path, required=True, help="output of starter.distill")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--start", type=Path, help="model.pt to take the decoder of")
    parser.add_argument("--frozen", action="store_true", help="train the decoder only")
    parser.add_argument("--steps", type=int, default=CaptionConfig.steps)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config = CaptionConfig(steps=args.steps)
    if args.frozen:
        config.vision_lr = 0.0
    checkpoints.seed_everything(config.seed)
    student, teacher = StudentConfig(), TeacherConfig()
    material = Material(args.data, args.teacher, teacher, student)
    folder = args.data / teacher.sources[0][1]
    captioning = make(config, student, material, folder, args.distilled)
    if args.start:
        state = checkpoints.load(args.start)["model"]
        own = captioning.model.vision_model.state_dict()
        captioning.model.load_state_dict(
            state | {f"vision_model.{key}": value for key, value in own.items()}
        )
    train(config, captioning, args.out)


if __name__ == "__main__":
    main()
