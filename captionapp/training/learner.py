"""The model that learns: its loss, its optimizer, and the checkpoint it becomes. Imports torch."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from transformers import AutoProcessor, BlipForConditionalGeneration
from transformers.utils import logging as transformers_logging

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import TrainingFailed
from captionapp.training.batches import IGNORED, Batch
from captionapp.training.choices import reading
from captionapp.training.config import FinetuneConfig
from captionapp.training.features import Features

#: BLIP's linear layers, by half; the words themselves are left as they are.
LORA_TEXT_LAYERS = ["query", "key", "value", "dense"]
LORA_VISION_LAYERS = ["self_attn.qkv", "self_attn.projection", "mlp.fc1", "mlp.fc2"]
#: Of the starting version's folder: what is said of that version, and where its weights are.
_NOT_TAKEN = (
    "version.json",
    "evaluation.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


#: Weights that learn, by name.
Weights = dict[str, torch.Tensor]


class Top(torch.nn.Module):
    """The part of a BLIP model that runs in every step: its vision layers from number ``first`` on,
    and its text half. With no ``first``, all of the model.

    What it takes is what ``bottom`` makes of pixels (n, 3, height, width): (n, places, width), or
    with no ``first`` the pixels.
    """

    def __init__(self, model: Any, first: int | None) -> None:
        super().__init__()
        vision = model.vision_model
        self.embeddings = vision.embeddings if first is None else torch.nn.Identity()
        self.layers = vision.encoder.layers[first:]
        self.post_layernorm = vision.post_layernorm
        self.text_decoder = model.text_decoder

    def forward(self, batch: Batch) -> torch.Tensor:
        """(m, words): logits of the m tokens that are no padding, row by row."""
        seen = self.embeddings(batch.pictures)
        for layer in self.layers:
            seen = layer(seen)
        hidden = self.text_decoder.bert(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            encoder_hidden_states=self.post_layernorm(seen),
            is_decoder=True,
            use_cache=False,
        )[0]
        logits: torch.Tensor = self.text_decoder.cls(hidden[batch.labels != IGNORED])
        return logits


def bottom(model: Any, first: int, pixels: torch.Tensor) -> torch.Tensor:
    """(n, places, width): what a BLIP model's vision layers before ``first`` make of pixels."""
    seen: torch.Tensor = model.vision_model.embeddings(pixels)
    for layer in model.vision_model.encoder.layers[:first]:
        seen = layer(seen)
    return seen


class Learner:
    """``start`` as it learns; ``config`` is ``choices.settled``.

    Raises:
        ModelUnavailable: if ``start`` cannot be loaded.
    """

    def __init__(self, config: FinetuneConfig, start: ModelVersion) -> None:
        self.config = config
        self.model, self.processor = _load(start)
        self._precision = _precision(start.folder)
        self.text_config: Any = self.model.config.text_config
        self._lora: Any = None
        if config.method == "lora":
            self._lora = _with_lora(self.model, config)  # changes self.model in place
        self._first = _first_that_learns(self.model, config)
        self._top = Top(self.model, self._first)
        self._start = None if self._lora else copy.deepcopy(self._top).requires_grad_(False).eval()
        if not self._lora and self._first is not None:
            self._freeze(self._first)
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.best: Weights | None = None  # of the looks at the held-out loss
        self.mean: Weights | None = None  # over the steps, once there is one
        peak = config.lora_learning_rate if self._lora else config.learning_rate
        share = config.vision_rate if config.vision == "trained" else 1.0
        vision = [p for name, p in self.trained.items() if "vision_model." in name]
        text = [p for name, p in self.trained.items() if "vision_model." not in name]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": text, "peak": peak},
                *([{"params": vision, "peak": peak * share}] if vision else []),
            ],
            betas=config.betas,
            weight_decay=0.0,  # towards 0, which is not where this began
        )

    def set_rate(self, done: float) -> None:
        """Warm-up, a cosine, then steady; ``done`` is the share of the training that is over."""
        config = self.config
        if done < config.warmup:
            share = (done + 0.01) / (config.warmup + 0.01)
        else:
            fallen = min(1, (done - config.warmup) / (config.steady_from - config.warmup))
            above = 0.5 * (1 + math.cos(math.pi * fallen))
            share = config.steady_rate + (1 - config.steady_rate) * above
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def learn(self, batch: Batch) -> float:
        """One step; the cross-entropy a token of its corrections, in nats."""
        config = self.config
        real = batch.labels != IGNORED
        rows = torch.arange(len(batch.labels))[:, None].expand_as(batch.labels)[real]
        old = rows >= batch.corrections  # tokens of rehearsed captions
        then = self._starting_logits(batch) if old.any() and config.output_penalty else None
        self._top.train()
        logits = self.logits(batch)
        losses = F.cross_entropy(
            logits, batch.labels[real], reduction="none", label_smoothing=config.label_smoothing
        )
        correction = losses[~old].mean()
        loss = correction
        if old.any():
            loss = loss + config.rehearsal_loss * losses[old].mean()
        if then is not None:
            now = logits[old].log_softmax(-1)
            divergence = F.kl_div(now, then.log_softmax(-1), log_target=True, reduction="batchmean")
            loss = loss + config.output_penalty * divergence
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._pull_back()
        return float(correction.detach())

    @torch.no_grad()
    def loss(self, batches: Iterable[Batch]) -> float:
        """Cross-entropy a token, in nats, without smoothing; NaN if there is no batch."""
        self.model.eval()
        total, tokens = 0.0, 0
        for batch in batches:
            labels = batch.labels[batch.labels != IGNORED]
            logits = self.logits(batch)
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
        return total / tokens if tokens else math.nan

    @torch.no_grad()
    def average(self, steps: int) -> None:
        """Add the weights to their mean, which is over so many ``steps`` then. The mean over the
        steps of a steady rate generalises better than the weights after the last one (Izmailov et
        al. 2018, "Averaging weights leads to wider optima and better generalization"). With LoRA it
        is the mean of the matrices, and not of their products."""
        if self.mean is None:
            self.mean = self._weights()
        for name, mean in self.mean.items():
            mean.lerp_(self.trained[name], 1 / steps)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights are their mean meanwhile, if there is one."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def fitting(self, weights: Weights) -> Weights:
        """What of these belongs to what learns.

        Raises:
            KeyError, RuntimeError: if something is missing, or of another shape.
        """
        return {name: weights[name].view_as(p) for name, p in self.trained.items()}

    def keep_as_best(self) -> None:
        """Remember the weights as they are."""
        self.best = self._weights()

    def take_result(self) -> None:
        """Go to the remembered weights; if there are none, to their mean, if there is one."""
        if result := self.best or self.mean:
            self._take(result)

    def _exchange(self) -> None:
        """The weights for their mean, without a copy of either."""
        for name, mean in (self.mean or {}).items():
            self.trained[name].data, mean.data = mean.data, self.trained[name].data

    def _weights(self) -> Weights:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def _take(self, weights: Weights) -> None:
        for name, value in weights.items():
            self.trained[name].copy_(value)

    @torch.no_grad()
    def step_back(self) -> None:
        """Go ``way_back`` of the way to the starting weights: that brings back more of what was
        known than it takes of what was learnt (Wortsman et al. 2022, "Robust fine-tuning")."""
        share = self.config.way_back
        if self._lora:  # the product of each pair of matrices is all the difference
            for name, parameter in self.trained.items():
                if "lora_B" in name:
                    parameter.mul_(1 - share)
        else:
            self._towards_the_start(share)

    def export(self, folder: Path, start: ModelVersion) -> Path:
        """Write a complete stock checkpoint, of the precision of the starting version's.

        Nothing can be learnt after this.

        Raises:
            TrainingFailed: if it cannot be stored.
        """
        model = self._lora.merge_and_unload() if self._lora else self.model
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            model.to(self._precision).save_pretrained(folder)
            # As they were, tokenizer and processor see and write what the starting version's do.
            for file in (*start.folder.glob("*.json"), *start.folder.glob("*.txt")):
                if not (folder / file.name).exists() and file.name not in _NOT_TAKEN:
                    shutil.copyfile(file, folder / file.name)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)  # half of it only takes room
            raise TrainingFailed(
                f"The version could not be stored: {error}. "
                "`flask model finetune --resume` tries that again."
            ) from error
        return folder

    def features(self, file: Path, on_skip: Callable[[str], None]) -> Features | None:
        """What the layers that do not learn see, kept in ``file``; None if all of them do."""
        first = self._first
        if first is None:
            return None

        @torch.no_grad()
        def see(pixels: torch.Tensor) -> torch.Tensor:
            with self._arithmetic():
                return bottom(self.model, first, pixels)

        vision = self.model.config.vision_config
        places = (vision.image_size // vision.patch_size) ** 2 + 1
        most = int(self.config.seen_gigabytes * 1e9)
        by = f"the layers before {first}"
        return Features(file, (places, vision.hidden_size), see, by, most, on_skip)

    def logits(self, batch: Batch) -> torch.Tensor:
        """(m, words) of the m tokens that are no padding, row by row."""
        return self._logits(self._top, batch)

    def _logits(self, top: Top, batch: Batch) -> torch.Tensor:
        with self._arithmetic():
            logits: torch.Tensor = top(batch)
        return logits.float()

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=bool(self.config.bf16))

    def _starting_logits(self, batch: Batch) -> torch.Tensor:
        """What the starting version says of the rehearsed pictures, like ``logits``."""
        old = batch.part(batch.corrections)
        with torch.no_grad():
            if self._start is not None:
                return self._logits(self._start, old)
            self._top.eval()
            self._lora.disable_adapter_layers()
            logits = self.logits(old)
            self._lora.enable_adapter_layers()
            return logits

    def _freeze(self, first: int) -> None:
        """The vision layers before this one do not learn. If none do, nor does what follows."""
        vision = self.model.vision_model.requires_grad_(False)
        vision.encoder.layers[first:].requires_grad_(True)
        vision.post_layernorm.requires_grad_(first < len(vision.encoder.layers))

    def _pull_back(self) -> None:
        pull = self.config.weight_penalty * self.optimizer.param_groups[0]["lr"]
        if pull and self._start is not None:
            self._towards_the_start(pull)

    @torch.no_grad()
    def _towards_the_start(self, share: float) -> None:
        assert self._start is not None  # there is none with LoRA
        for now, then in zip(self._top.parameters(), self._start.parameters(), strict=True):
            now.lerp_(then, share)


def _first_that_learns(model: Any, config: FinetuneConfig) -> int | None:
    """Number of the first vision layer that does; as many as there are if none does, and None if
    all of that half does."""
    count = len(model.vision_model.encoder.layers)
    if config.vision == "trained":
        return None
    return max(0, count - config.upper_layers) if config.vision == "upper" else count


def _load(start: ModelVersion) -> tuple[Any, Any]:
    transformers_logging.disable_progress_bar()
    folder = str(start.folder)
    with reading(start):
        processor = AutoProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        model = BlipForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    return model, processor


def _with_lora(model: Any, config: FinetuneConfig) -> Any:
    """Put the matrices into the model, in place; only they are trained then."""
    from peft import LoraConfig, LoraModel

    chosen = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=[
            *LORA_TEXT_LAYERS,
            *_lora_vision_layers(model, config),
        ],
    )
    return LoraModel(model, {"default": chosen}, "default")


def _lora_vision_layers(model: Any, config: FinetuneConfig) -> list[str]:
    """Names, or ends of names."""
    first = _first_that_learns(model, config)
    if first is None:
        return LORA_VISION_LAYERS
    learning = range(first, len(model.vision_model.encoder.layers))
    return [f"layers.{n}.{name}" for n in learning for name in LORA_VISION_LAYERS]


def _precision(folder: Path) -> torch.dtype:
    """float16 if stored so, else float32: bfloat16 would round off what was learnt."""
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return torch.float32
    named = (stored.get("dtype"), stored.get("torch_dtype"))  # the second by older transformers
    return torch.float16 if "float16" in named else torch.float32
