"""What a fine-tuning is told and what it reports. Standard library only; the loop imports torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FinetuneConfig:
    """Every hyperparameter of a fine-tuning; saved with the version that it made.

    The defaults are for some tens to some thousands of corrections and a small or a base BLIP;
    docs/training.md says what was tried.
    """

    # How long
    epochs: float = 18.0  # passes over the corrections, in whole steps, at most
    minutes: float = 0.0  # wall time of the training, at most; 0: no limit
    patience: int = 6  # looks at the watched corrections without a better one, until it stops early
    seed: int = 1  # of the order, the choice of captions, and the augmentation

    # What is learnt
    vision: str = "auto"  # frozen: some views of each picture are looked at once and the text half
    # learns from what was seen; upper: so do the vision half's upper layers; trained: both halves
    # learn; auto: trained from 5,000 corrections on, before that upper if the model is small
    upper_layers: int = 4  # that learn, with vision=upper, at the text half's rate
    method: str = "auto"  # full, lora, or auto: lora where the model is large or memory short
    learning_rate: float = 2e-4  # peak, with full fine-tuning
    lora_learning_rate: float = 1e-3  # peak, with LoRA, whose matrices begin at nothing
    vision_rate: float = 0.1  # of a wholly trained vision half, as a share of the text half's
    lora_rank: int = 16  # of each pair of matrices
    lora_alpha: int = 32  # the pairs' product counts alpha / rank times
    warmup: float = 0.1  # share of the training in which the rate rises; a cosine follows
    # Then the rate is steady, and the mean of the weights over those steps is what is made
    steady_rate: float = 0.5  # share of the peak to which the cosine falls
    steady_from: float = 0.5  # share of the training that is over by then; 1: never
    batch_size: int = 16  # corrections in a step
    betas: tuple[float, float] = (0.9, 0.98)  # of AdamW
    clip: float = 1.0  # longest gradient, as a norm over all weights
    label_smoothing: float = 0.0  # share of probability given to all the other words
    max_tokens: int = 40  # of a caption; longer ones are cut
    bf16: bool | None = None  # bfloat16 where precision allows it; None: where it proves faster

    # Light augmentation, on the training side only
    crop: float = 0.5  # smallest share of a picture's area that is shown
    colour: float = 0.2  # brightness, contrast and saturation change by up to this factor
    flip: bool = True  # mirror half of the pictures whose caption says neither left nor right
    inset: float = 0.5  # share of these parts that are shown small, within a rehearsed picture
    views: int = 8  # of a correction, unless all learns: as it is, mirrored, then parts of it
    rehearsed_views: int = 6  # the same of a rehearsed picture
    seen_gigabytes: float = 4.0  # of the run's file of what was seen; more is looked at again

    # Against forgetting
    rehearsal: float = 3.0  # rehearsed pictures in a step, for each correction
    rehearsal_loss: float = 0.1  # weight of the captions of rehearsed pictures
    output_penalty: float = 15.0  # weight of KL(starting version || this one) on rehearsed pictures
    weight_penalty: float = 0.0  # pull to the starting weights, times the rate, a step; not of LoRA
    way_back: float = 0.0  # share of the way from the learnt weights to the starting ones
    rehearsed_at_most: int = 2000  # pictures of each kind that are rehearsed
    retain_held_out: float = 0.2  # share of the --retain folder that only the gate sees

    # Early stopping and safety
    held_out_share: float = 0.1  # of the training side's corrections, watched for early stopping
    min_corrections: int = 10  # fewer on the training side are not worth a version
    min_held_out: int = 20  # fewer tell too little: then all are trained on, for all the epochs
    checkpoint_seconds: float = 60.0  # what a crash may cost at most

    def __post_init__(self) -> None:
        """ValueError for what could not be trained with."""
        if self.method not in ("auto", "full", "lora"):
            raise ValueError(f"method is {self.method!r}; it is auto, full or lora.")
        if self.vision not in ("auto", "frozen", "upper", "trained"):
            raise ValueError(f"vision is {self.vision!r}; it is auto, frozen, upper or trained.")
        above = ("epochs", "patience", "batch_size", "lora_rank", "max_tokens", "clip", "crop")
        for name in (*above, "views", "rehearsed_views", "upper_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("warmup", "retain_held_out", "held_out_share", "label_smoothing", "way_back"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it is a share, from 0 to below 1."
                )
        for name in ("crop", "inset", "steady_rate", "steady_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1.")
        if self.steady_from <= self.warmup:
            raise ValueError(
                f"steady_from is {self.steady_from}; it must be above warmup, {self.warmup}."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; each is from 0 to below 1.")
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a number from 0 on.")

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers, text, None and lists."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FinetuneConfig:
        """The configuration that ``as_dict`` was made of, perhaps by a release that knew no steady
        rate."""
        before = {"steady_rate": 0.0, "steady_from": 1.0}
        return cls(**{**before, **values, "betas": tuple(values["betas"])})


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    ``loss`` is the mean cross-entropy a token on corrections over the last steps, in nats;
    ``held_out_loss`` the same on corrections not trained on, at the last look, None before it.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    held_out_loss: float | None
    pictures_per_second: float
    seconds_left: float
