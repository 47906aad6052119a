"""Stages 4 and 5: cross-entropy on the captions, on the teacher's tokens and then on the student's.

    python -m starter.captions --data DIR --teacher RUN/teacher --out RUN/guide
    python -m starter.captions --data DIR --teacher RUN/teacher --out RUN/captions \
        --start RUN/guide/model.pt --vision RUN/distill/vision.safetensors

Without ``--vision`` the decoder learns to describe what the teacher sees, which costs no vision
model; its figures are the ceiling of a student that sees as much. With it vision model and decoder
are trained together. What keeps them from fitting the 6,000 pictures is that both have a teacher
beside the captions: the distillation goes on, and the decoder that reads the teacher's tokens says
how likely it finds every word for the same view (Hinton et al. 2015, "Distilling the Knowledge in
a Neural Network"). Captions of a picture are decoded in one packed sequence (a
block-diagonal mask keeps them apart). Goes on from its checkpoint after a kill.
"""

import argparse
import copy
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import BlipForConditionalGeneration
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from captionapp.training.dataset import normalise_caption, read_imagefolder
from captionapp.training.evaluate import score_texts
from starter import checkpoints
from starter.distill import Distance, Seeing, freeze
from starter.loop import Chance, Schedule, rows_of, train
from starter.student import DEC, PAD, SEP, StudentConfig, Vocabulary, build_student
from starter.teacher import TeacherConfig
from starter.views import Material, ViewConfig

SIDES = re.compile(r"\b(left|right)\b")


@dataclass
class CaptionConfig:
    """Hyperparameters."""

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1500, lr=4e-4))
    pictures: int = 32  # a step
    references: int = 3  # human captions a picture and step
    vision_rate: float = 0.5  # the vision model's share of the learning rate
    frozen: int = 4  # first layers of the vision model that stay as they are
    label_smoothing: float = 0.1
    guided: float = 0.5  # share of the guide's likelihoods in the words' loss, beside human words
    word_dropout: float = 0.05  # share of input words replaced by [PAD]
    distill: float = 1.0  # weight of the distillation beside the captions' loss
    class_weight: float = 8.0
    max_tokens: int = 28  # of a caption in training; longer ones are cut


@dataclass
class CaptionData:
    """Captions as token numbers, one list a picture, in the order of the first source."""

    texts: list[list[str]]  # normalised captions
    tokens: list[list[list[int]]]  # without [DEC] and [SEP]
    mirrorable: np.ndarray  # bool (n,): no caption speaks of left or right
    vocabulary: Vocabulary
    counts: np.ndarray  # occurrences of each token, captions' ends included


def load_captions(folder: Path, names: list[str], max_tokens: int, size: int) -> CaptionData:
    """Captions of an imagefolder for pictures given by name."""
    examples = {example.path.name: example for example in read_imagefolder(folder)}
    texts = [[normalise_caption(c) for c in examples[name].captions] for name in names]
    vocabulary = Vocabulary([text for group in texts for text in group], size)
    tokens = [
        [
            ids[:max_tokens]
            for ids in vocabulary.tokenizer(group, add_special_tokens=False).input_ids
        ]
        for group in texts
    ]
    every = [t for group in tokens for ids in group for t in [*ids, SEP]]
    counts = np.bincount(every, minlength=len(vocabulary))
    mirrorable = np.array([not any(SIDES.search(t) for t in group) for group in texts])
    return CaptionData(texts, tokens, mirrorable, vocabulary, counts)


@dataclass
class Packed:
    """Captions of n pictures, one row a picture; all tensors (n, length) but the mask."""

    inputs: torch.Tensor  # [DEC] and the words of each caption, one caption after the other
    labels: torch.Tensor  # the word that follows, [SEP] at a caption's end, -100 in the padding
    positions: torch.Tensor  # counted from each caption's [DEC]
    caption: torch.Tensor  # which caption of the row a token belongs to, -1 in the padding
    mask: torch.Tensor  # float (n, 1, length, length), 0 where a token may look, else very negative


def pack(groups: list[list[list[int]]]) -> Packed:
    """Put each picture's captions into one row."""
    length = max(sum(len(ids) + 1 for ids in group) for group in groups)
    shape = (len(groups), length)
    inputs = torch.full(shape, PAD)
    labels, caption = torch.full(shape, -100), torch.full(shape, -1)
    positions = torch.zeros(shape, dtype=torch.long)
    for row, group in enumerate(groups):
        at = 0
        for index, ids in enumerate(group):
            end = at + len(ids) + 1
            inputs[row, at:end] = torch.tensor([DEC, *ids])
            labels[row, at:end] = torch.tensor([*ids, SEP])
            positions[row, at:end] = torch.arange(len(ids) + 1)
            caption[row, at:end] = index
            at = end
    order = torch.arange(length)
    allowed = (caption[:, :, None] == caption[:, None, :]) & (order[:, None] >= order[None, :])
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    return Packed(inputs, labels, positions, caption, mask[:, None])


def decode(
    decoder: BlipTextLMHeadModel,
    packed: Packed,
    seen: torch.Tensor,
    dropped: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (m, vocabulary) of the m real tokens of a packed batch, row by row, and their labels.

    ``seen`` is the vision model's output (n, cells² + 1, width), ``dropped`` bool (n, length) says
    which input words are hidden.
    """
    inputs = packed.inputs
    if dropped is not None:
        inputs = inputs.masked_fill(dropped & (packed.positions > 0), PAD)
    hidden = decoder.bert(
        input_ids=inputs,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        encoder_hidden_states=seen,
        is_decoder=True,
        use_cache=False,
    ).last_hidden_state
    real = packed.labels >= 0
    return decoder.cls(hidden[real]), packed.labels[real]


@torch.no_grad()
def generate(
    model: BlipForConditionalGeneration, seen: torch.Tensor, **options: object
) -> list[list[int]]:
    """Captions without [DEC] and [SEP] for the vision model's outputs (n, cells² + 1, width).

    A caption that did not come to its end keeps no end token, so check with the length.
    """
    outputs = model.text_decoder.generate(
        input_ids=torch.full((len(seen), 1), DEC),
        eos_token_id=SEP,
        pad_token_id=PAD,
        bos_token_id=DEC,
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        **options,
    )
    captions = []
    for row in outputs[:, 1:].tolist():
        captions.append(row[: row.index(SEP)] if SEP in row else [t for t in row if t != PAD])
    return captions


@torch.no_grad()
def fold(model: BlipForConditionalGeneration, head: nn.Linear) -> None:
    """Have a decoder that reads the teacher's tokens read the vision model's instead.

    Keys and values of the cross-attention are linear in what they read; the map between the two
    (`starter.distill.Seeing`) becomes a part of them.
    """
    for layer in model.text_decoder.bert.encoder.layer:
        for reader in (layer.crossattention.self.key, layer.crossattention.self.value):
            reader.bias.add_(reader.weight @ head.bias)
            reader.weight.copy_(reader.weight @ head.weight)


class Captioning:
    """Model, pictures, captions, and the loss of a step."""

    def __init__(
        self,
        config: CaptionConfig,
        model: BlipForConditionalGeneration,
        material: Material,
        captions: CaptionData,
        sees: bool,
    ) -> None:
        self.config, self.model = config, model
        self.material, self.captions, self.sees = material, captions, sees
        self.seeing = Seeing(model.vision_model)  # for the distillation beside the captions
        self.distance = Distance(material.basis.weight, config.class_weight)
        self.guide: BlipTextLMHeadModel | None = None  # reads the teacher's tokens
        # Captions there are of the first source only.
        rows = material.training_rows
        self.rows = rows[rows < len(captions.tokens)]

    def look(
        self, model: BlipForConditionalGeneration, rows: np.ndarray, chance: Chance | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder is given, and what the teacher sees; whole pictures without chance."""
        if chance is None:
            boxes, mirrored = np.tile([0.0, 0.0, 1.0], (len(rows), 1)), np.zeros(len(rows), bool)
        else:
            boxes, mirrored = self.material.draw_boxes(len(rows), chance)
            mirrored &= self.captions.mirrorable[rows]
        wanted = self.material.targets(rows, boxes, mirrored)
        if not self.sees:
            return wanted, wanted
        pixels = self.material.pixels(rows, boxes, mirrored, chance)
        return model.vision_model(pixels).last_hidden_state, wanted

    def loss(self, step: int, chance: Chance) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a training step."""
        config = self.config
        rows = rows_of(step, self.rows, config.pictures, config.schedule.seed)
        seen, wanted = self.look(self.model, rows, chance)
        packed = pack([self.some_captions(row, chance) for row in rows])
        dropped = torch.rand(packed.inputs.shape, generator=chance.torch) < config.word_dropout
        logits, labels = decode(self.model.text_decoder, packed, seen, dropped)
        words = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        if self.guide:
            with torch.no_grad():
                guided, _ = decode(self.guide, packed, wanted)
            likely = F.cross_entropy(logits, guided.softmax(-1))
            words = (1 - config.guided) * words + config.guided * likely
        if not self.sees:
            return words, {"words": words.item()}
        apart = self.distance(self.seeing.head(seen), wanted)
        return words + config.distill * apart, {"words": words.item(), "distance": apart.item()}

    def some_captions(self, row: int, chance: Chance) -> list[list[int]]:
        """Some of a picture's captions as tokens."""
        tokens = self.captions.tokens[row]
        wanted = min(self.config.references, len(tokens))
        return [tokens[i] for i in chance.numpy.permutation(len(tokens))[:wanted]]

    @torch.no_grad()
    def judge(self, model: nn.Module) -> dict[str, float]:
        """Cross-entropy a token and figures of greedy captions on the held-out pictures."""
        rows, total, tokens, texts = self.material.held_out_rows, 0.0, 0, []
        for part in np.array_split(rows, max(1, len(rows) // 50)):
            seen, _ = self.look(model, part, None)
            packed = pack([self.captions.tokens[p] for p in part])
            logits, labels = decode(model.text_decoder, packed, seen)
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
            said = generate(model, seen, max_new_tokens=24, do_sample=False, num_beams=1)
            texts += self.captions.vocabulary.tokenizer.batch_decode(said)
        figures, _ = score_texts(texts, [self.captions.texts[row] for row in rows])
        return {
            "entropy": total / tokens,
            "bleu_1": figures.bleu_1,
            "bleu_4": figures.bleu_4,
            "cider": figures.cider,
            "distinct": figures.distinct,
        }


def make(
    config: CaptionConfig, folder: Path, material: Material, student: StudentConfig, sees: bool
) -> Captioning:
    """A model with MiniLM's layers, the pictures and the captions of an imagefolder."""
    names = material.sources[0].names
    captions = load_captions(folder, names, config.max_tokens, student.vocabulary)
    model = build_student(student, captions.vocabulary, captions.counts)
    return Captioning(config, model, material, captions, sees)


def run(captioning: Captioning, out: Path, start: Path | None, vision: Path | None) -> None:
    """Train from what the stages before gave, and write ``out/model.pt``."""
    config, model = captioning.config, captioning.model
    if start:
        model.load_state_dict(checkpoints.load(start)["model"])
    if vision:
        captioning.seeing.load_state_dict(load_file(vision))
        if start:
            captioning.guide = copy.deepcopy(model.text_decoder).eval().requires_grad_(False)
            fold(model, captioning.seeing.head)
    model.vision_model.requires_grad_(captioning.sees)
    if captioning.sees:
        freeze(model.vision_model, config.frozen)
    average = train(
        model, config.schedule, captioning.loss, out, captioning.judge, config.vision_rate
    )
    save_model(out / "model.pt", captioning, average)


def save_model(path: Path, captioning: Captioning, model: nn.Module) -> None:
    """What later stages start from: the weights, and the captions that made the vocabulary."""
    flat = [text for group in captioning.captions.texts for text in group]
    checkpoints.save(path, {"model": model.state_dict(), "captions": flat})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the captioner with cross-entropy.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--start", type=Path, help="model.pt to go on from")
    parser.add_argument("--vision", type=Path, help="vision.safetensors; default: the teacher sees")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config = CaptionConfig()
    config.schedule.steps = args.steps or config.schedule.steps
    config.schedule.lr = args.lr or config.schedule.lr
    checkpoints.seed_everything(config.schedule.seed)
    student, teacher = StudentConfig(), TeacherConfig()
    material = Material(args.data, args.teacher, teacher, ViewConfig(), student.cells)
    folder = args.data / teacher.sources[0][1]
    captioning = make(config, folder, material, student, sees=args.vision is not None)
    run(captioning, args.out, args.start, args.vision)


if __name__ == "__main__":
    main()
