"""Stage 5: the vision model learns to see what the guide needs to describe a picture.

    python -m starter.imitate --data DIR --teacher RUN/teacher --distilled RUN/distill \
        --guide RUN/guide/guide.pt --out RUN/imitate --workers 2

The guide's decoder reads the student's outputs instead of the teacher's features, and the words it
then finds likely shall be those it found likely before (Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network"): of all that the teacher sees, the small vision model learns first
what changes a description. Pictures without human captions take part with the guide's own. The
distillation of `starter.distill` goes on beside it. Only the vision model changes.

With ``--workers 2`` two processes of one thread each change the same weights without waiting for
each other (Recht et al. 2011, "Hogwild!"): a quarter faster on two cores than one process of two
threads. Goes on from ``RUN/imitate/checkpoint.pt`` after a kill.
"""

import argparse
import copy
import logging
import time
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from starter import checkpoints
from starter.captions import (
    CaptionConfig,
    CaptionData,
    decode,
    load_captions,
    pack,
    save_model,
)
from starter.distill import Material, Student, draw_rows, see
from starter.guide import Guide, load_guide, make, whole_views
from starter.live import LiveMaterial
from starter.scst import generate
from starter.student import StudentConfig, load_vision, parameter_groups
from starter.teacher import TeacherConfig

log = logging.getLogger("starter.imitate")


@dataclass
class ImitateConfig:
    """Hyperparameters."""

    steps: int = 4000  # of all workers together
    batch: int = 64  # views a step
    worded: int = 32  # of them, how many are read by the decoder too
    lr: float = 4e-4
    warmup: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.998
    # blocks 10, 14, 20, class token, class KL, as in `starter.distill`; outputs; words
    weights: tuple[float, ...] = (0.4, 0.4, 1.0, 0.5, 0.15, 1.0, 1.0)
    # how often each source is drawn: flickr, caltech, imagenet, tiny
    shares: tuple[float, ...] = (0.6, 0.1, 0.15, 0.15)
    whole: float = 0.4  # share of views seen whole instead of a 7x7-cell crop
    held_out: int = 200  # first Flickr pictures, never trained on, for the log
    max_tokens: int = 24
    seed: int = 5
    save_every: int = 100  # steps of the first worker
    log_every: int = 25


@dataclass
class Setup:
    """What every worker makes its own copy of the data from."""

    config: ImitateConfig
    student: StudentConfig
    teacher: TeacherConfig
    paths: dict[str, Path]  # data, teacher, distilled, guide, out: as the command's options
    live: bool = False  # new views all the time instead of those on the disk


class Imitation:
    """Student, guide, data and the loss of one step."""

    def __init__(
        self,
        config: ImitateConfig,
        student: Student,
        guide: Guide,
        material: Material,
        captions: CaptionData,
    ) -> None:
        self.config, self.student, self.guide = config, student, guide.eval()
        self.guide.requires_grad_(False)
        self.material, self.captions = material, captions
        self.weights = torch.tensor(config.weights)

    def texts(
        self, rows: np.ndarray, seen: torch.Tensor, rng: np.random.Generator
    ) -> list[list[int]]:
        """For each view one text to read: a human caption, or what the guide says."""
        human, vocabulary = self.captions.tokens, self.captions.vocabulary
        views = self.material.views
        own = np.nonzero(views.source[rows] != 0)[0]
        said = iter(
            generate(
                self.guide.model.text_decoder,
                seen[own],
                vocabulary.sep,
                vocabulary.dec,
                vocabulary.pad,
                do_sample=True,
                top_k=5,
                num_beams=1,
                max_new_tokens=16,
            )
            if len(own)
            else []
        )
        texts = []
        for row in rows:
            if views.source[row] != 0:
                texts.append(next(said))
                continue
            group = human[views.picture[row]]
            texts.append(group[rng.integers(len(group))][: self.config.max_tokens])
        return texts

    def losses(
        self, rows: np.ndarray, rng: torch.Generator, draw_rng: np.random.Generator, whole: float
    ) -> torch.Tensor:
        """The distillation's five losses, that of the outputs, and that of the words (7,)."""
        config, guide = self.config, self.guide
        may_flip = torch.ones(len(rows), dtype=torch.bool)
        flickr = self.material.views.source[rows] == 0
        may_flip[flickr] = self.captions.mirrorable[self.material.views.picture[rows[flickr]]]
        pixels, features, classes = self.material.draw(rows, rng, whole, may_flip)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = guide.eyes(features, classes)
                part = slice(0, config.worded)
                packed = pack(
                    [[ids] for ids in self.texts(rows[part], wanted[part], draw_rng)],
                    self.captions.vocabulary,
                )
                target, _ = decode(guide.model, packed, wanted[part])
            hidden, last = see(self.student.vision_model, pixels)
            distill = self.student.heads.losses(hidden, last, features, classes)
            outputs = F.mse_loss(last.float(), wanted.float()) / wanted.float().var()
            logits, _ = decode(guide.model, packed, last[part])
        words = F.kl_div(
            logits.float().log_softmax(-1),
            target.float().log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return torch.cat([distill, outputs[None], words[None]])


def work(worker: int, setup: Setup, student: Student, shared_step: "Synchronized[int]") -> None:
    """One worker's loop; ``student`` is shared by all, the optimiser's state is not.

    The first worker keeps the average of weights, the log and the checkpoints.
    """
    config, out = setup.config, setup.paths["out"]
    checkpoints.seed_everything(config.seed + worker)
    imitation = load(setup, student)
    groups = parameter_groups(student, config.lr, config.lr, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    average = checkpoints.Average(student, config.ema)
    draw_rng, crop_rng = np.random.default_rng(config.seed + 100 * worker), torch.Generator()
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        # Not the same draws again: their state is one worker's, and these few cost nothing.
        draw_rng = np.random.default_rng([config.seed, worker, state["step"]])
    crop_rng.manual_seed(int(draw_rng.integers(2**31)))
    first, own, begin = shared_step.value, 0, time.time()
    recent = torch.zeros(len(config.weights))
    while shared_step.value < config.steps:
        with shared_step.get_lock():
            step = shared_step.value
            shared_step.value += 1
        factor = checkpoints.cosine(step, config.warmup, config.steps, 0.01)
        checkpoints.set_rate(optimizer, factor)
        rows = draw_rows(imitation.material, config.shares, config.batch, config.held_out, draw_rng)
        losses = imitation.losses(rows, crop_rng, draw_rng, config.whole)
        (losses * imitation.weights).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        if worker:
            continue
        own += 1
        average.update(student, step)
        recent += losses.detach() / config.log_every
        if own % config.log_every == 0:
            done = shared_step.value
            speed = (done - first) * config.batch / (time.time() - begin)
            log.info("step %d losses %s, %.0f views/s", done, _shown(recent), speed)
            recent.zero_()
        if own % config.save_every == 0 or shared_step.value >= config.steps:
            log.info("step %d held out %s", step + 1, _shown(held_out(imitation, average.model)))
            save(imitation, average.model, optimizer, step + 1, out)


def _shown(losses: torch.Tensor) -> str:
    return " ".join(f"{value:.3f}" for value in losses)


@torch.no_grad()
def held_out(imitation: Imitation, student: Student) -> torch.Tensor:
    """The losses on the held-out pictures, seen whole."""
    judge = Imitation(
        imitation.config, student, imitation.guide, imitation.material, imitation.captions
    )
    rows = whole_views(imitation.material)[: imitation.config.held_out]
    rng, draw_rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    parts = np.array_split(rows, max(1, len(rows) // 40))
    return torch.stack([judge.losses(part, rng, draw_rng, 1.0) for part in parts]).mean(0)


def save(
    imitation: Imitation, average: Student, optimizer: torch.optim.Optimizer, step: int, out: Path
) -> None:
    """A checkpoint to go on from, and the average with the guide's decoder for the next stage."""
    state = {
        "student": imitation.student.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "config": asdict(imitation.config),
    }
    checkpoints.save(out / "checkpoint.pt", state)
    save_file(average.vision_model.state_dict(), out / "vision.safetensors")
    model = copy.deepcopy(imitation.guide.model)
    model.vision_model.load_state_dict(average.vision_model.state_dict())
    both = nn.ModuleDict({"model": model, "heads": average.heads})
    save_model(out / "model.pt", both, imitation.captions)


def load(setup: Setup, student: Student) -> Imitation:
    """Guide and data from the files of the stages before."""
    paths = setup.paths
    kind = LiveMaterial if setup.live else Material
    material = kind(paths["data"], paths["teacher"], setup.teacher, setup.student)
    folder = paths["data"] / setup.teacher.sources[0][1]
    captions = load_captions(folder, material.sources[0].names, CaptionConfig.max_tokens)
    guide = make(setup.student, material, captions, None)
    load_guide(guide, paths["guide"])
    return Imitation(setup.config, student, guide, material, captions)


def run(setup: Setup, workers: int) -> None:
    """Train up to ``config.steps`` with so many processes."""
    config, paths = setup.config, setup.paths
    checkpoints.seed_everything(config.seed)
    student, first = Student(setup.student), 0
    checkpoint = paths["out"] / "checkpoint.pt"
    if checkpoint.exists():
        state = checkpoints.load(checkpoint)
        student.load_state_dict(state["student"])
        first = state["step"]
    else:
        load_vision(student.vision_model, paths["distilled"] / "vision.safetensors")
        student.heads.load_state_dict(load_file(paths["distilled"] / "heads.safetensors"))
    student.share_memory()
    context = multiprocessing.get_context("spawn")
    shared_step = context.Value("l", first)
    others = [
        context.Process(target=_helper, args=(i, setup, student, shared_step), daemon=True)
        for i in range(1, workers)
    ]
    for process in others:
        process.start()
    work(0, setup, student, shared_step)
    for process in others:
        process.join()


def _helper(worker: int, setup: Setup, student: Student, shared_step: "Synchronized[int]") -> None:
    torch.set_num_threads(1)
    work(worker, setup, student, shared_step)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Teach the vision model what the guide needs.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training material")
    parser.add_argument("--teacher", type=Path, required=True, help="output of starter.teacher")
    parser.add_argument("--distilled", type=Path, required=True, help="output of starter.distill")
    parser.add_argument("--guide", type=Path, required=True, help="guide.pt of starter.guide")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--workers", type=int, default=1, help="processes that train together")
    parser.add_argument("--steps", type=int, default=ImitateConfig.steps)
    parser.add_argument("--live", action="store_true", help="views of `starter.live`")
    args = parser.parse_args()
    checkpoints.log_to(args.out / "log.txt")
    if args.workers > 1:
        torch.set_num_threads(1)
    else:
        checkpoints.use_free_cores()
    paths = {name: getattr(args, name) for name in ("data", "teacher", "distilled", "guide", "out")}
    setup = Setup(
        ImitateConfig(steps=args.steps), StudentConfig(), TeacherConfig(), paths, args.live
    )
    run(setup, args.workers)


if __name__ == "__main__":
    main()
