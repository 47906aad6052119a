"""Stage 4: the guide, a captioner that reads the teacher's features instead of the student's.

    python -m starter.guide --data DIR --teacher RUN/teacher --distilled RUN/distill \
        --out RUN/guide

It has the student's decoder and, before it, one linear map from EfficientNet-Lite2's features to
what the student's vision model puts out. It costs little (no pixels are looked at) and describes
pictures far better than the student can; in the next stage the student learns to see whatever
the guide needs. Goes on from ``RUN/guide/checkpoint.pt`` after a kill.
"""

import argparse
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipForConditionalGeneration

from captionapp.training.evaluate import score_texts
from starter import checkpoints
from starter.captions import CaptionData, decode, load_captions, pack
from starter.distill import Material, Student, see
from starter.scst import generate
from starter.student import (
    StudentConfig,
    build_student,
    load_tokenizer,
    load_vision,
    parameter_groups,
)
from starter.teacher import CHANNELS, CLASSES, TeacherConfig

log = logging.getLogger("starter.guide")


@dataclass
class GuideConfig:
    """Hyperparameters."""

    steps: int = 700
    pictures: int = 48  # a step, each with all its captions
    lr: float = 4e-4
    warmup: int = 50  # steps
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    label_smoothing: float = 0.1
    word_dropout: float = 0.05  # share of input words replaced by [PAD]
    feature_dropout: float = 0.1  # share of the eyes' outputs, by cell and channel
    whole: float = 0.4  # share of views seen whole instead of a 7x7-cell crop
    ema: float = 0.995
    held_out: int = 200  # first pictures, never trained on, for the log
    max_tokens: int = 28
    seed: int = 4
    save_every: int = 100
    log_every: int = 20


class Eyes(nn.Module):
    """Linear maps from the teacher's features to outputs like the student's (n, cells² + 1, width).

    The class token is made of the mean features and the class logits.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells = nn.Linear(sum(CHANNELS), width)
        self.whole = nn.Linear(sum(CHANNELS) + CLASSES, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Standardised features (n, cells², 560) and class logits (n, 1000)."""
        return self.norm(
            torch.cat([self.whole(_summary(features, classes))[:, None], self.cells(features)], 1)
        )


def _summary(features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(n, 1560); logits are some units wide, log-probabilities more so: bring them near 1."""
    logits = (classes - classes.mean(-1, keepdim=True)) / 2
    return torch.cat([features.mean(1), logits], dim=-1)


@torch.no_grad()
def fit_eyes(eyes: Eyes, student: Student, material: Material, rows: np.ndarray) -> None:
    """Start the maps from ridge regression on what the student's vision model puts out."""
    rng = torch.Generator().manual_seed(0)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    summaries: list[torch.Tensor] = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        pixels, features, classes = material.draw(part, rng, 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            _, last = see(student.vision_model, pixels)
        inputs.append(features)
        summaries.append(_summary(features, classes))
        outputs.append(last.float())
    seen = torch.cat(outputs)
    for layer, x, wanted in (
        (eyes.cells, torch.cat(inputs).flatten(0, 1), seen[:, 1:].flatten(0, 1)),
        (eyes.whole, torch.cat(summaries), seen[:, 0]),
    ):
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        gram = x.T @ x + 1e-2 * len(x) * torch.eye(x.shape[1])
        solution = torch.linalg.solve(gram, x.T @ wanted)
        layer.weight.copy_(solution[:-1].T)
        layer.bias.copy_(solution[-1])


class Guide(nn.Module):
    """Eyes and the model whose decoder reads what they say; its vision model is not used."""

    def __init__(self, model: BlipForConditionalGeneration, width: int) -> None:
        super().__init__()
        self.model, self.eyes = model, Eyes(width)


def load_guide(guide: Guide, path: Path) -> None:
    """Weights of a ``guide.pt``; the vision model, which the guide does not use, stays as it is."""
    unused = {
        f"model.vision_model.{k}": v for k, v in guide.model.vision_model.state_dict().items()
    }
    guide.load_state_dict(checkpoints.load(path)["guide"] | unused)


def whole_views(material: Material) -> np.ndarray:
    """For each picture of the first source, the row of the view that shows it whole."""
    views = material.views
    first = (views.source == 0) & np.all(views.box == np.array([0, 0, 1, 1]), axis=1)
    rows = np.nonzero(first)[0]
    return rows[np.argsort(views.picture[rows])]


@torch.no_grad()
def held_out_figures(guide: Guide, material: Material, captions: CaptionData, held_out: int) -> str:
    """Cross-entropy a token and the figures of beam-3 captions of the held-out pictures."""
    tokenizer, vocabulary = load_tokenizer(), captions.vocabulary
    rng, rows = torch.Generator().manual_seed(0), whole_views(material)
    texts: list[str] = []
    total, tokens = 0.0, 0
    for part in np.array_split(np.arange(held_out), max(1, held_out // 50)):
        never = torch.zeros(len(part), dtype=torch.bool)
        features, classes = material.draw_features(rows[part], rng, 1.0, never)
        packed = pack([captions.tokens[p] for p in part], vocabulary)
        with torch.autocast("cpu", torch.bfloat16):
            seen = guide.eyes(features, classes)
            logits, labels = decode(guide.model, packed, seen)
            said = generate(
                guide.model.text_decoder,
                seen,
                vocabulary.sep,
                vocabulary.dec,
                vocabulary.pad,
                num_beams=3,
                do_sample=False,
                max_new_tokens=24,
                no_repeat_ngram_size=3,
                early_stopping=True,
            )
        total += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        tokens += len(labels)
        texts += tokenizer.batch_decode([vocabulary.full(ids) for ids in said])
    figures, _ = score_texts(texts, captions.texts[:held_out])
    return (
        f"cross-entropy {total / tokens:.3f} BLEU-1 {figures.bleu_1:.3f} "
        f"BLEU-4 {figures.bleu_4:.3f} CIDEr {figures.cider:.3f} distinct {figures.distinct:.2f} | "
        + " | ".join(texts[:3])
    )


def train(
    config: GuideConfig, guide: Guide, material: Material, captions: CaptionData, out: Path
) -> None:
    """Train up to ``config.steps``; ``out/guide.pt`` is the average of weights at the end."""
    guide.model.vision_model.requires_grad_(False)
    average = checkpoints.Average(guide, config.ema)
    groups = parameter_groups(guide, config.lr, 0.0, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    draw_rng, crop_rng = np.random.default_rng(config.seed), torch.Generator()
    crop_rng.manual_seed(config.seed)
    first, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        guide.load_state_dict(state["guide"])
        average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        draw_rng.bit_generator.state = state["draw_rng"]
        crop_rng.set_state(state["crop_rng"])
        first = state["step"]
    guide.train()
    rows_of = material.rows_of(0, config.held_out)  # crops of a picture share its captions
    begin, recent = time.time(), 0.0
    for step in range(first, config.steps):
        checkpoints.set_rate(optimizer, checkpoints.cosine(step, config.warmup, config.steps, 0.02))
        rows = draw_rng.choice(rows_of, config.pictures, replace=False)
        pictures = material.views.picture[rows]
        features, classes = material.draw_features(
            rows, crop_rng, config.whole, captions.mirrorable[pictures]
        )
        packed = pack([captions.tokens[p] for p in pictures], captions.vocabulary)
        with torch.autocast("cpu", torch.bfloat16):
            seen = F.dropout(guide.eyes(features, classes), config.feature_dropout)
            logits, labels = decode(guide.model, packed, seen, config.word_dropout)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(guide.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(guide, step)
        recent += float(loss.detach()) / config.log_every
        if (step + 1) % config.log_every == 0:
            speed = (step + 1 - first) * config.pictures / (time.time() - begin)
            log.info("step %d loss %.3f, %.0f pictures/s", step + 1, recent, speed)
            recent = 0.0
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            figures = held_out_figures(average.model, material, captions, config.held_out)
            log.info("step %d held out: %s", step + 1, figures)
            checkpoints.save(
                checkpoint,
                {
                    "guide": guide.state_dict(),
                    "average": average.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "config": asdict(config),
                    "draw_rng": draw_rng.bit_generator.state,
                    "crop_rng": crop_rng.get_state(),
                },
            )
            checkpoints.save(out / "guide.pt", {"guide": average.model.state_dict()})


def make(
    student: StudentConfig, material: Material, captions: CaptionData, distilled: Path | None
) -> Guide:
    """A guide with MiniLM's decoder, its eyes fitted to a distilled vision model if one is given.

    Fitting lets the student's and the guide's decoder understand each other from the beginning.
    """
    guide = Guide(
        build_student(student, captions.vocabulary, captions.counts), student.vision_width
    )
    if distilled is not None:
        seeing = Student(student)
        load_vision(seeing.vision_model, distilled / "vision.safetensors")
        rows = np.random.default_rng(0).choice(material.rows_of(0), 1024)
        fit_eyes(guide.eyes, seeing.eval(), material, rows)
    return guide


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the guide.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--distilled", type=Path, required=True, help="output of starter.distill")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--start", type=Path, help="model.pt to take the decoder of")
    parser.add_argument("--steps", type=int, default=GuideConfig.steps)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config, teacher = GuideConfig(steps=args.steps), TeacherConfig()
    checkpoints.seed_everything(config.seed)
    # The decoder sees few pictures often: some dropout.
    student = StudentConfig(dropout=0.1)
    material = Material(args.data, args.teacher, teacher, student)
    names = material.sources[0].names
    captions = load_captions(args.data / teacher.sources[0][1], names, config.max_tokens)
    guide = make(student, material, captions, args.distilled)
    if args.start:
        state = checkpoints.load(args.start)["model"]
        own = guide.model.vision_model.state_dict()
        guide.model.load_state_dict(
            state | {f"vision_model.{key}": value for key, value in own.items()}
        )
    train(config, guide, material, captions, args.out)


if __name__ == "__main__":
    main()
