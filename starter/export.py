"""Stage 7: a folder that stock transformers loads, from a checkpoint of the training stages.

    python -m starter.export --model RUN/captions/model.pt RUN/scst/model.pt --out DIR

Several checkpoints are averaged, weight by weight (Wortsman et al. 2022, "Model soups"): halfway
between cross-entropy and self-critical training, captions are as good and more of them distinct.

The trained tokens return to their places in BLIP's vocabulary of 30,524. The others keep MiniLM's
embeddings, moved by what the rarest trained tokens moved on average, and get the output bias of
words seen about once: they are not written now, but fine-tuning brings them back in a few steps
("raccoon" is ra ##cco ##on). Weights are float16.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    GenerationConfig,
)

from starter import checkpoints
from starter.student import (
    CLS,
    DEC,
    ENC,
    FULL_VOCABULARY,
    PAD,
    SEP,
    StudentConfig,
    Vocabulary,
    full_embeddings,
    load_tokenizer,
    make_config,
    minilm_folder,
)


@dataclass
class ExportConfig:
    """How captions are decoded by default, and how unseen words are treated."""

    num_beams: int = 3
    max_new_tokens: int = 24
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    rare: int = 3  # tokens seen at most so often stand for the unseen ones
    margin: float = 1.0  # nats that unseen tokens' bias lies below that of the rare ones
    held_down: float = 12.0  # nats below that for tokens that are no words
    dtype: torch.dtype = torch.float16


# Tokens that no caption contains: BERT's [PAD], [UNK], [CLS], [MASK] and BLIP's two own
SUPPRESSED = [PAD, 100, CLS, 103, DEC, ENC]


def no_words() -> list[int]:
    """The suppressed tokens and BERT's [unused…] ones: all below "!" (999) but [SEP]."""
    return [*(i for i in range(999) if i != SEP), DEC, ENC]


def expand(
    state: dict[str, torch.Tensor], vocabulary: Vocabulary, counts: np.ndarray, config: ExportConfig
) -> dict[str, torch.Tensor]:
    """State with the full vocabulary from one with the compact one."""
    source = load_file(minilm_folder() / "model.safetensors")
    source = {key.removeprefix("bert."): value.float() for key, value in source.items()}
    words, ids = full_embeddings(source), torch.from_numpy(vocabulary.ids)
    trained = state["text_decoder.bert.embeddings.word_embeddings.weight"].float()
    bias = state["text_decoder.cls.predictions.decoder.bias"].float()
    fewest = counts[counts > 0].min()
    rare = torch.from_numpy((counts > 0) & (counts <= max(config.rare, fewest)))
    embeddings = words + (trained[rare] - words[ids[rare]]).mean(dim=0)
    embeddings[ids] = trained
    # A stock fine-tuning loop begins captions with [CLS], generate() with [DEC]: make them one.
    embeddings[CLS] = embeddings[DEC]
    unseen = float(bias[rare].mean()) - config.margin
    full_bias = torch.full((FULL_VOCABULARY,), unseen)
    full_bias[ids] = bias
    full_bias[no_words()] = unseen - config.held_down
    result = dict(state)
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"):
        result[f"text_decoder.{name}"] = embeddings
    for name in ("cls.predictions.decoder.bias", "cls.predictions.bias"):
        result[f"text_decoder.{name}"] = full_bias
    return result


def average(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of checkpoints that share a vocabulary."""
    mean = {
        name: sum(state["model"][name].float() for state in states) / len(states)
        for name in states[0]["model"]
    }
    return {**states[0], "model": mean}


def export(state: dict[str, Any], student: StudentConfig, config: ExportConfig, out: Path) -> None:
    """Write model, processor, tokenizer and generation settings to ``out``."""
    vocabulary = Vocabulary(state["vocabulary"])
    model = BlipForConditionalGeneration(make_config(student, None))
    full = expand(state["model"], vocabulary, state["counts"], config)
    model.load_state_dict(full)
    model.tie_weights()
    model.eval().to(config.dtype)
    generation = GenerationConfig(
        num_beams=config.num_beams,
        max_new_tokens=config.max_new_tokens,
        length_penalty=config.length_penalty,
        early_stopping=True,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        suppress_tokens=SUPPRESSED,
        bos_token_id=DEC,
        eos_token_id=SEP,
        pad_token_id=PAD,
    )
    model.generation_config = generation
    model.save_pretrained(out)
    size = {"height": student.image_size, "width": student.image_size}
    BlipProcessor(BlipImageProcessorPil(size=size), load_tokenizer()).save_pretrained(out)
    set_text_defaults(out / "config.json", config.max_new_tokens)
    total = sum(path.stat().st_size for path in out.iterdir())
    print(json.dumps({"folder": str(out), "bytes": total}))


def set_text_defaults(path: Path, max_new_tokens: int) -> None:
    """Put the greatest length into ``text_config`` of config.json.

    `BlipForConditionalGeneration.generate` calls the decoder's own `generate`, which takes its
    defaults from the text configuration and never looks at generation_config.json. Of the settings
    there transformers 5 reads only this one from a configuration; beams have to be asked for, as in
    ``model.generate(pixel_values, generation_config=model.generation_config)``.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"]["max_new_tokens"] = max_new_tokens
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a folder that stock transformers loads.")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        nargs="+",
        help="model.pt of one or more training stages, averaged",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    state = average([checkpoints.load(path) for path in args.model])
    export(state, StudentConfig(), ExportConfig(), args.out)


if __name__ == "__main__":
    main()
