"""Stage 6: self-critical training: captions sampled by the model are rewarded with CIDEr-D.

    python -m starter.scst --data DIR --teacher RUN/teacher --start RUN/captions/model.pt \
        --out RUN/scst

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning", with the mean reward of
a picture's other samples as the baseline (Luo 2020, "A Better Variant of Self-Critical Sequence
Training"). The vision model stays as it is. Cross-entropy on human captions goes along, so that the
captions stay English. Goes on from ``RUN/scst/checkpoint.pt`` after a kill.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from starter import checkpoints
from starter.captions import (
    CaptionConfig,
    Captioning,
    decode,
    generate,
    make,
    pack,
    save_model,
)
from starter.cider import CiderD
from starter.loop import Chance, Schedule, rows_of, train
from starter.student import SEP, StudentConfig
from starter.teacher import TeacherConfig
from starter.views import Material, ViewConfig


@dataclass
class ScstConfig:
    """Hyperparameters."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            steps=160, lr=1e-4, warmup=10, betas=(0.9, 0.99), clip=0.5, ema=0.98, save_every=40
        )
    )
    pictures: int = 24  # a step
    samples: int = 5  # captions sampled for each picture
    top_k: int = 40  # tokens to sample from; label smoothing left some chance on all the others
    max_tokens: int = 22  # of a sample
    references: int = 2  # human captions a picture for the cross-entropy
    strangers: int = 4  # other pictures of the step that a sample should not describe as well
    distinct: float = 0.5  # weight of the mean CIDEr-D for those, taken off the reward
    cross_entropy: float = 0.1  # its weight; the reward's gradient has weight 1


class SelfCritical:
    """Model, references and the loss of one step."""

    def __init__(self, config: ScstConfig, captioning: Captioning) -> None:
        self.config, self.captioning = config, captioning
        self.reward = CiderD([[[*ids, SEP] for ids in g] for g in captioning.captions.tokens])

    def rewards(self, pictures: np.ndarray, samples: list[list[int]]) -> torch.Tensor:
        """Reward (n, samples): CIDEr-D less what the caption would earn for other pictures.

        A caption that was cut by the limit has no end token to score. What is taken off makes
        captions that fit any picture dear: with CIDEr-D alone fewer and fewer are distinct.
        """
        config, n = self.config, len(pictures)
        strangers, values = min(config.strangers, n - 1), []
        for i, ids in enumerate(samples):
            said, own = ids if len(ids) >= config.max_tokens else [*ids, SEP], i // config.samples
            others = [int(pictures[(own + k) % n]) for k in range(1, strangers + 1)]
            value = self.reward.score(int(pictures[own]), said)
            if others and config.distinct:
                elsewhere = sum(self.reward.score(other, said) for other in others) / len(others)
                value -= config.distinct * elsewhere
            values.append(value)
        return torch.tensor(values).view(n, config.samples)

    def loss(self, step: int, chance: Chance) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a step; figures: reward, its spread within a picture, cross-entropy, length."""
        config, captioning = self.config, self.captioning
        model = captioning.model
        rows = rows_of(step, captioning.rows, config.pictures, config.schedule.seed)
        model.eval()  # no dropout in what is sampled and judged
        with torch.no_grad():
            seen, _ = captioning.look(model, rows, chance)
            samples = generate(
                model,
                seen.repeat_interleave(config.samples, dim=0),
                do_sample=True,
                top_k=config.top_k,
                num_beams=1,
                max_new_tokens=config.max_tokens,
            )
        rewards = self.rewards(rows, samples)
        others = (rewards.sum(1, keepdim=True) - rewards) / (config.samples - 1)
        advantage = rewards - others
        groups = []
        for i, row in enumerate(rows):
            own = samples[i * config.samples : (i + 1) * config.samples]
            groups.append([*own, *captioning.some_captions(int(row), chance)[: config.references]])
        packed = pack(groups)
        logits, labels = decode(model.text_decoder, packed, seen)
        nll = F.cross_entropy(logits, labels, reduction="none")
        real = packed.labels >= 0
        which, picture_of = packed.caption[real], real.nonzero()[:, 0]
        sampled = which < config.samples
        weight = advantage[picture_of[sampled], which[sampled]]
        policy = (nll[sampled] * weight).sum() / sampled.sum()
        human = nll[~sampled].mean()
        return policy + config.cross_entropy * human, {
            "reward": float(rewards.mean()),
            "spread": float(rewards.std(dim=1).mean()),
            "words": human.item(),
            "tokens": float(sampled.sum()) / len(samples),
        }


def run(config: ScstConfig, captioning: Captioning, start: Path, out: Path) -> None:
    """Train from ``start`` and write ``out/model.pt``."""
    captioning.model.load_state_dict(checkpoints.load(start)["model"])
    captioning.model.vision_model.requires_grad_(False)
    stage = SelfCritical(config, captioning)
    average = train(captioning.model, config.schedule, stage.loss, out, captioning.judge)
    save_model(out / "model.pt", captioning, average)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Self-critical training with CIDEr-D.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--start", type=Path, required=True, help="model.pt of starter.captions")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config = ScstConfig()
    config.schedule.steps = args.steps or config.schedule.steps
    checkpoints.seed_everything(config.schedule.seed)
    student, teacher = StudentConfig(), TeacherConfig()
    material = Material(args.data, args.teacher, teacher, ViewConfig(), student.cells)
    folder = args.data / teacher.sources[0][1]
    captioning = make(CaptionConfig(), folder, material, student, sees=True)
    run(config, captioning, args.start, args.out)


if __name__ == "__main__":
    main()
