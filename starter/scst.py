"""Stage 6: self-critical training: captions sampled by the model are rewarded with CIDEr-D.

    python -m starter.scst --data DIR --teacher RUN/teacher --start RUN/captions/model.pt \
        --out RUN/scst

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning", with the mean reward of
a picture's other samples as the baseline (Luo 2020, "A Better Variant of Self-Critical Sequence
Training"). The vision model stays as it is. Cross-entropy on human captions goes along, so that the
captions stay English. Goes on from ``RUN/scst/checkpoint.pt`` after a kill.
"""

import argparse
import copy
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipForConditionalGeneration
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from captionapp.training.evaluate import score_texts
from starter import checkpoints
from starter.captions import CaptionConfig, Captioning, decode, make, pack, save_model
from starter.cider import CiderD
from starter.distill import Material, see
from starter.student import StudentConfig, load_tokenizer, parameter_groups
from starter.teacher import TeacherConfig

log = logging.getLogger("starter.scst")


@dataclass
class ScstConfig:
    """Hyperparameters."""

    steps: int = 450
    pictures: int = 24  # a step
    samples: int = 5  # captions sampled for each picture
    top_k: int = 40  # tokens to sample from; label smoothing left some chance on all the others
    max_tokens: int = 22  # of a sample
    references: int = 2  # human captions a picture for the cross-entropy
    strangers: int = 4  # other pictures of the step that a sample should not describe as well
    distinct: float = 0.0  # weight of the mean CIDEr-D for those, taken off the reward
    cross_entropy: float = 0.05  # its weight; the reward's gradient has weight 1
    lr: float = 1e-4
    warmup: int = 20
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 0.5
    whole: float = 0.7  # share of pictures seen whole instead of a 7x7-cell crop
    ema: float = 0.99
    held_out: int = 200
    seed: int = 3
    save_every: int = 50
    log_every: int = 10


@torch.no_grad()
def generate(
    decoder: BlipTextLMHeadModel,
    seen: torch.Tensor,
    sep: int,
    dec: int,
    pad: int,
    **options: object,
) -> list[list[int]]:
    """Captions without [DEC] and [SEP] for the vision model's outputs (n, cells² + 1, width).

    A caption that did not come to its end keeps no end token, so check with the length.
    """
    outputs = decoder.generate(
        input_ids=torch.full((len(seen), 1), dec),
        eos_token_id=sep,
        pad_token_id=pad,
        bos_token_id=dec,
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        **options,
    )
    captions = []
    for row in outputs[:, 1:].tolist():
        captions.append(row[: row.index(sep)] if sep in row else [t for t in row if t != pad])
    return captions


class SelfCritical:
    """Model, references and the loss of one step."""

    def __init__(self, config: ScstConfig, captioning: Captioning) -> None:
        self.config, self.captioning = config, captioning
        self.captions, self.model = captioning.captions, captioning.model
        # Autocast would convert all weights anew for every token of a sample.
        self.speaker = copy.deepcopy(self.model.text_decoder).eval().bfloat16()
        sep = self.captions.vocabulary.sep
        self.reward = CiderD([[[*ids, sep] for ids in group] for group in self.captions.tokens])

    def sample(self, seen: torch.Tensor) -> list[list[int]]:
        """``samples`` captions for each picture, those of a picture one after the other."""
        vocabulary = self.captions.vocabulary
        with torch.no_grad():
            torch._foreach_copy_(
                list(self.speaker.parameters()), list(self.model.text_decoder.parameters())
            )
        return generate(
            self.speaker,
            seen.bfloat16().repeat_interleave(self.config.samples, dim=0),
            vocabulary.sep,
            vocabulary.dec,
            vocabulary.pad,
            do_sample=True,
            top_k=self.config.top_k,
            num_beams=1,
            max_new_tokens=self.config.max_tokens,
        )

    def rewards(self, pictures: np.ndarray, samples: list[list[int]]) -> torch.Tensor:
        """Reward (n, samples): CIDEr-D less what the caption would earn for other pictures.

        A caption that was cut by the limit has no end token to score. What is taken off makes
        captions that fit any picture dear: with CIDEr-D alone fewer and fewer are distinct.
        """
        config, sep, n = self.config, self.captions.vocabulary.sep, len(pictures)
        strangers, values = min(config.strangers, n - 1), []
        for i, ids in enumerate(samples):
            said, own = ids if len(ids) >= config.max_tokens else [*ids, sep], i // config.samples
            others = [int(pictures[(own + k) % n]) for k in range(1, strangers + 1)]
            value = self.reward.score(int(pictures[own]), said)
            if others and config.distinct:
                elsewhere = sum(self.reward.score(other, said) for other in others) / len(others)
                value -= config.distinct * elsewhere
            values.append(value)
        return torch.tensor(values).view(n, config.samples)

    def loss(
        self, pictures: np.ndarray, rng: torch.Generator, draw_rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a step; figures: reward, its spread within a picture, cross-entropy, length."""
        config, captioning = self.config, self.captioning
        rows = np.array([captioning.view_of[int(p)] for p in pictures])
        pixels, _, _ = captioning.material.draw(
            rows, rng, config.whole, self.captions.mirrorable[pictures]
        )
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            _, seen = see(self.model.vision_model, pixels)
        samples = self.sample(seen)
        rewards = self.rewards(pictures, samples)
        others = (rewards.sum(1, keepdim=True) - rewards) / (config.samples - 1)
        advantage = rewards - others
        groups = []
        for i, picture in enumerate(pictures):
            human = self.captions.tokens[picture]
            chosen = draw_rng.permutation(len(human))[: config.references]
            own = samples[i * config.samples : (i + 1) * config.samples]
            groups.append([*own, *(human[k] for k in chosen)])
        packed = pack(groups, self.captions.vocabulary)
        with torch.autocast("cpu", torch.bfloat16):
            logits, labels = decode(self.model, packed, seen)
        nll = F.cross_entropy(logits.float(), labels, reduction="none")
        real = packed.labels >= 0
        which, picture_of = packed.caption[real], real.nonzero()[:, 0]
        sampled = which < config.samples
        weight = advantage[picture_of[sampled], which[sampled]]
        policy = (nll[sampled] * weight).sum() / sampled.sum()
        human_nll = nll[~sampled].mean()
        length = float(sampled.sum()) / len(samples)
        figures = torch.tensor(
            [
                float(rewards.mean()),
                float(rewards.std(dim=1).mean()),
                float(human_nll.detach()),
                length,
            ]
        )
        return policy + config.cross_entropy * human_nll, figures


@torch.no_grad()
def held_out_figures(
    captioning: Captioning, model: BlipForConditionalGeneration, held_out: int
) -> str:
    """Figures of beam-3 captions of the held-out training pictures, and two captions."""
    tokenizer, vocabulary = load_tokenizer(), captioning.captions.vocabulary
    texts: list[str] = []
    rng = torch.Generator().manual_seed(0)
    for part in np.array_split(np.arange(held_out), max(1, held_out // 50)):
        rows = np.array([captioning.view_of[int(p)] for p in part])
        pixels, _, _ = captioning.material.draw(rows, rng, 1.0, torch.zeros(len(part)).bool())
        with torch.autocast("cpu", torch.bfloat16):
            _, seen = see(model.vision_model, pixels)
            captions = generate(
                model.text_decoder,
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
        texts += tokenizer.batch_decode([vocabulary.full(ids) for ids in captions])
    figures, _ = score_texts(texts, captioning.captions.texts[:held_out])
    return (
        f"BLEU-1 {figures.bleu_1:.3f} BLEU-4 {figures.bleu_4:.3f} CIDEr {figures.cider:.3f} "
        f"ROUGE-L {figures.rouge_l:.3f} distinct {figures.distinct:.3f} empty {figures.empty} "
        f"repeating {figures.repeating} words {figures.mean_words:.1f} | " + " | ".join(texts[:3])
    )


def train(config: ScstConfig, scst: SelfCritical, out: Path) -> None:
    """Train up to ``config.steps``; ``out/model.pt`` is the average of weights at the end."""
    captioning, model = scst.captioning, scst.model
    model.eval().vision_model.requires_grad_(False)  # no dropout: samples and loss agree
    both = nn.ModuleDict({"model": model, "heads": captioning.heads})
    average = checkpoints.Average(both, config.ema)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.lr, 0.0, 0.0), betas=config.betas, fused=True
    )
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
    else:
        log.info("before: %s", held_out_figures(captioning, model, config.held_out))
    begin, recent = time.time(), torch.zeros(4)
    for step in range(first, config.steps):
        checkpoints.set_rate(optimizer, checkpoints.cosine(step, config.warmup, config.steps, 0.05))
        if len(order) < config.pictures:
            order = np.arange(config.held_out, len(captioning.captions.tokens))
            draw_rng.shuffle(order)
        pictures, order = order[: config.pictures], order[config.pictures :]
        loss, figures = scst.loss(pictures, crop_rng, draw_rng)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update(both, step)
        recent += figures / config.log_every
        if (step + 1) % config.log_every == 0:
            log.info(
                "step %d reward %.3f spread %.3f cross-entropy %.3f tokens %.1f, %.1f s/step",
                step + 1,
                *recent.tolist(),
                (time.time() - begin) / (step + 1 - first),
            )
            recent.zero_()
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
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
                },
            )
            save_model(out / "model.pt", average.model, captioning.captions)
            log.info(
                "step %d held out: %s",
                step + 1,
                held_out_figures(captioning, average.model["model"], config.held_out),
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Self-critical training with CIDEr-D.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--start", type=Path, required=True, help="model.pt of starter.captions")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--steps", type=int, default=ScstConfig.steps)
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    checkpoints.use_free_cores()
    config, teacher = ScstConfig(steps=args.steps), TeacherConfig()
    material = Material(args.data, args.teacher, teacher, StudentConfig())
    folder = args.data / teacher.sources[0][1]
    captioning = make(CaptionConfig(), StudentConfig(), material, folder, None)
    state = checkpoints.load(args.start)
    captioning.model.load_state_dict(state["model"])
    captioning.heads.load_state_dict(state["heads"])
    checkpoints.seed_everything(config.seed)
    train(config, SelfCritical(config, captioning), args.out)


if __name__ == "__main__":
    main()
