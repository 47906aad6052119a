"""A complete BLIP captioning checkpoint of a few hundred kilobytes, with random weights."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

from tests.conftest import draw

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "a an the of on in with and is are dog cat ball man woman child red blue green small large "
    "runs sits plays jumps grass water snow street beach park near photo picture"
).split()
#: Likely enough that captions end, and not at once.
END_BIAS = 3.0
#: To be described.
PICTURES = [draw("red"), draw("blue", (30, 80)), draw("white", (200, 20))]


def make_tiny_blip(folder: Path) -> Path:
    """Write the checkpoint into ``folder``, as stock transformers would save it, and return that.

    Its captions make no sense but are the same every time, and never empty.
    """
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    letters = list(string.ascii_lowercase + string.digits + ".,!?'-")
    vocabulary = [*SPECIAL, *WORDS, *(x for x in letters if x not in WORDS)]
    vocabulary += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
    number = tokenizer.convert_tokens_to_ids

    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 160,
        "bos_token_id": number("[DEC]"),
        "pad_token_id": number("[PAD]"),
        "eos_token_id": number("[SEP]"),
        "sep_token_id": number("[SEP]"),
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # words are likelier than what would leave the caption empty
        bias = model.text_decoder.cls.predictions.bias
        bias[: len(SPECIAL)] = -10
        bias[number("[SEP]")] = -1
        bias[number(["[DEC]", "[ENC]"])] = -10
    model.save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    return folder


def make_wordy_blip(folder: Path) -> Path:
    """One that tells its words apart, writes whole words only, so that its texts can be taken
    apart into tokens again, and ends its captions by itself, not all at the same length."""
    import torch
    from transformers import AutoProcessor, BlipForConditionalGeneration

    make_tiny_blip(folder)
    torch.manual_seed(1)
    model = BlipForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoProcessor.from_pretrained(folder, backend="pil").tokenizer
    words = tokenizer(WORDS, is_split_into_words=True, add_special_tokens=False).input_ids
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # As they are drawn, all but the last token counts for little, pictures for nothing.
            if weight.ndim > 1:
                weight.normal_(0, 0.8 if "word_embeddings" in name else 0.2)
        bias = model.text_decoder.cls.predictions.bias
        bias.fill_(-100)
        bias[words] = 0
        bias[model.config.text_config.sep_token_id] = END_BIAS
    model.save_pretrained(folder)
    return folder


def end_token(checkpoint: Path) -> int:
    config = json.loads((checkpoint / "config.json").read_text())
    return int(config["text_config"]["sep_token_id"])


def changed_config(checkpoint: Path, folder: Path, part: str, name: str, value: object) -> Path:
    copied = Path(shutil.copytree(checkpoint, folder / "changed"))
    config = json.loads((copied / "config.json").read_text())
    config[part][name] = value
    (copied / "config.json").write_text(json.dumps(config))
    return copied
