"""Stage 7: a folder that stock transformers loads, from a checkpoint of the training stages.

    python -m starter.export --model RUN/captions/model.pt RUN/scst/model.pt --out DIR

Several checkpoints are averaged, weight by weight (Wortsman et al. 2022, "Model soups"): halfway
between cross-entropy and self-critical training, captions are as good and more of them distinct.
Weights are float16.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
    MASK,
    PAD,
    SEP,
    UNK,
    StudentConfig,
    Vocabulary,
    make_config,
)
from starter.vision import MEAN, STD


@dataclass
class ExportConfig:
    """How captions are decoded by default."""

    num_beams: int = 3
    max_new_tokens: int = 24
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    dtype: torch.dtype = torch.float16


# Tokens that no caption contains
SUPPRESSED = [PAD, UNK, CLS, MASK, DEC, ENC]


def average(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of checkpoints that share a vocabulary."""
    mean = {
        name: sum(state["model"][name].float() for state in states) / len(states)
        for name in states[0]["model"]
    }
    return {**states[0], "model": mean}


def export(state: dict[str, Any], student: StudentConfig, config: ExportConfig, out: Path) -> None:
    """Write model, processor, tokenizer and generation settings to ``out``."""
    vocabulary = Vocabulary(state["captions"], student.vocabulary)
    model = BlipForConditionalGeneration(make_config(student, vocabulary))
    weights = dict(state["model"])
    with torch.no_grad():
        words = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
        # A stock fine-tuning loop begins captions with [CLS], generate() with [DEC]: make them one.
        words[CLS] = words[DEC]
    model.load_state_dict(weights)
    model.tie_weights()
    model.config.text_config.hidden_dropout_prob = 0.0  # fine-tuning chooses its own
    model.eval().to(config.dtype)
    model.generation_config = GenerationConfig(
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
    model.save_pretrained(out)
    size = {"height": student.image_size, "width": student.image_size}
    images = BlipImageProcessorPil(size=size, image_mean=list(MEAN), image_std=list(STD))
    BlipProcessor(images, vocabulary.tokenizer).save_pretrained(out)
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
