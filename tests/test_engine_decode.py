"""The search against ``generate()`` of stock transformers, in float32: the same tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipForConditionalGeneration

from captionapp.captioning.engine.decode import search
from captionapp.captioning.engine.precision import FP32
from captionapp.captioning.engine.torch_backend import TorchBackend
from captionapp.settings import ROOT

PICTURES = 4


class Checkpoint:
    """Stock transformers' model, ours of the same weights, and pictures as noise."""

    def __init__(self, folder: Path) -> None:
        self.model = BlipForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.backend = TorchBackend(self.model, FP32)
        size = self.model.config.vision_config.image_size
        noise = torch.Generator().manual_seed(1)
        self.pixels = 3 * torch.randn(PICTURES, 3, size, size, generator=noise)
        self.text = self.model.config.text_config

    def config(self, **options: Any) -> Any:
        config = copy.deepcopy(self.model.generation_config)
        config.update(
            **{"do_sample": False, "max_length": None, "max_new_tokens": 20, "length_penalty": 1.0}
            | {"num_beams": 1, "early_stopping": options.get("num_beams", 1) > 1}
            | {"eos_token_id": self.text.sep_token_id, "pad_token_id": self.text.pad_token_id}
            | options
        )
        return config

    def stock(self, prefix: list[int], config: Any) -> list[list[int]]:
        """The captions of ``generate()``, up to [SEP]."""
        with torch.inference_mode():
            states = self.model.vision_model(self.pixels)[0]
            found = self.model.text_decoder.generate(
                input_ids=torch.tensor([prefix] * PICTURES),
                attention_mask=torch.ones(PICTURES, len(prefix), dtype=torch.long),
                encoder_hidden_states=states,
                generation_config=config,
            )
        end, captions = self.text.sep_token_id, []
        for tokens in found[:, len(prefix) :].tolist():
            captions.append(tokens[: tokens.index(end) + 1] if end in tokens else tokens)
        return [caption[: config.max_new_tokens] for caption in captions]

    def ours(self, prefix: list[int], config: Any) -> Any:
        with torch.inference_mode():
            decoding = self.backend.begin(self.backend.encode(self.pixels))
            return search(decoding, prefix, PICTURES, config)

    def log_p(self, prefix: list[int], captions: list[tuple[int, ...]]) -> list[list[float]]:
        """Of the tokens of each caption, by one pass of the stock model over all of it."""
        found = []
        with torch.inference_mode():
            states = self.model.vision_model(self.pixels)[0]
            several = len(captions) // len(states)  # of each picture, one after the other
            states = states.repeat_interleave(several, 0)
            for state, caption in zip(states, captions, strict=True):
                tokens = torch.tensor([[*prefix, *caption]])
                logits = self.model.text_decoder(tokens, encoder_hidden_states=state[None]).logits
                log_p = logits[0, len(prefix) - 1 : -1].log_softmax(-1)
                found.append(log_p.gather(-1, torch.tensor(caption)[:, None])[:, 0].tolist())
        return found


@pytest.fixture(scope="module")
def tiny(wordy: Path) -> Checkpoint:
    return Checkpoint(wordy)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint(ROOT / "fine-tuned-model")


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, cut off": {"max_new_tokens": 3},
    "greedy, penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 3},
    "beams, one token": {"num_beams": 4, "max_new_tokens": 1},
    "beams, longer": {"num_beams": 4, "length_penalty": 2.0},
    "beams, shorter": {"num_beams": 4, "length_penalty": -1.0},
    "beams, penalties": {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 1},
    "beams, none stops early": {"num_beams": 3, "early_stopping": False},
    "eight beams, none stops early": {
        "num_beams": 8,
        "early_stopping": False,
        "length_penalty": 0.5,
    },
    "few words": {"num_beams": 5, "allowed": 4},
    "no beginning with": {"num_beams": 3, "begin_suppress_tokens": [6, 7, 8, 9, 10]},
    "bad words": {"num_beams": 3, "bad_words_ids": [[5], [6, 7], [20], [21, 22, 23]]},
    "the best five": {"num_beams": 6, "num_return_sequences": 5},
    "not shorter": {"num_beams": 3, "min_new_tokens": 9},
    "greedy, not shorter": {"min_new_tokens": 9},
    "bias": {"num_beams": 2, "sequence_bias": [[[9], 2.0], [[12, 13], -3.0]]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("prompt", [[], [5, 11, 7]], ids=["", "prompt"])
def test_tokens_and_probability_are_stock_s(
    tiny: Checkpoint, options: dict[str, Any], prompt: list[int]
) -> None:
    compare(tiny, options, prompt)


@pytest.mark.model
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_of_the_shipped_model_too(shipped: Checkpoint, options: dict[str, Any]) -> None:
    compare(shipped, options, [])


def compare(checkpoint: Checkpoint, options: dict[str, Any], prompt: list[int]) -> None:
    options = dict(options)
    if "allowed" in options:
        kept = [*range(8, 8 + options.pop("allowed")), checkpoint.text.sep_token_id]
        everything = range(checkpoint.text.vocab_size)
        options["suppress_tokens"] = [token for token in everything if token not in kept]
    prefix = [checkpoint.text.bos_token_id, *prompt]
    config = checkpoint.config(**options)
    ours = checkpoint.ours(prefix, config)
    assert [list(one.tokens) for one in ours] == checkpoint.stock(prefix, config)
    expected = checkpoint.log_p(prefix, [one.tokens for one in ours])
    for one, log_p in zip(ours, expected, strict=True):
        assert one.log_probabilities == pytest.approx(log_p, rel=1e-3, abs=1e-3)


def test_captions_of_one_batch_end_at_different_lengths(tiny: Checkpoint) -> None:
    """Or the tests above would not see a picture leave the batch before the others."""
    lengths = {len(one.tokens) for one in tiny.ours([tiny.text.bos_token_id], tiny.config())}
    assert len(lengths) > 1


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_load_in_another_thread_changes_no_caption(
    tiny: Checkpoint, options: dict[str, Any]
) -> None:
    """While transformers loads a file of float16, that is the default of the whole process."""
    prefix, config = [tiny.text.bos_token_id], tiny.config(**options)
    expected = tiny.ours(prefix, config)
    torch.set_default_dtype(torch.float16)
    try:
        assert tiny.ours(prefix, config) == expected
    finally:
        torch.set_default_dtype(torch.float32)
