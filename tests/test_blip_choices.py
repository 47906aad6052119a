"""What a person may ask of the engine beside a prompt, on a tiny checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipForConditionalGeneration

from captionapp.captioning.blip import BlipCaptioner, EngineOptions
from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.engine import check
from captionapp.errors import CaptionFailed
from captionapp.settings import ROOT
from tests.tiny_blip import PICTURES


@pytest.fixture(scope="module")
def captioner(wordy: Path) -> BlipCaptioner:
    return BlipCaptioner.load(wordy, "tiny-1")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "mixed", "int8"])
def test_alternatives_differ_and_each_is_a_caption_of_its_own(
    wordy: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionapp.captioning.engine.check.MIN_AGREEMENT", 0)
    monkeypatch.setattr("captionapp.captioning.engine.check.MAX_MEAN_DIFFERENCE", 100)
    monkeypatch.setattr("captionapp.captioning.engine.check.MAX_DIFFERENCE", 100)
    captioner = BlipCaptioner.load(wordy, "tiny-1", EngineOptions(precision=precision))
    assert captioner.engine == f"torch {precision}"
    options = DecodeOptions(alternatives=5)
    for caption in captioner.caption(PICTURES, options):
        made = [caption, *caption.others]
        assert len({one.text for one in made}) == len(made) == 5
        assert all(one.options == options and not one.others for one in caption.others)
        for one in made:
            assert 0 < one.probability <= 1
            assert " ".join(word.text for word in one.words) == one.text
        rest = [one.probability for one in caption.others]
        assert rest == sorted(rest, reverse=True)
        looks = captioner.look(PICTURES[0], caption.others[0].text)
        assert len(looks.words) == len(caption.others[0].text.split())


def test_a_batch_with_alternatives_gives_what_single_pictures_give(
    captioner: BlipCaptioner,
) -> None:
    options = DecodeOptions(alternatives=3)
    together = captioner.caption(PICTURES, options)
    for one, picture in zip(together, PICTURES, strict=True):
        (alone,) = captioner.caption([picture], options)
        assert [x.text for x in (one, *one.others)] == [x.text for x in (alone, *alone.others)]


def test_without_being_asked_there_are_no_others(captioner: BlipCaptioner) -> None:
    assert captioner.caption(PICTURES[:1], DecodeOptions())[0].others == ()


def test_avoided_words_are_in_none_of_the_alternatives(captioner: BlipCaptioner) -> None:
    (before,) = captioner.caption(PICTURES[:1], DecodeOptions(alternatives=3))
    avoid = tuple(before.text.split()[:3])
    (after,) = captioner.caption(PICTURES[:1], DecodeOptions(alternatives=3, avoid=avoid))
    for one in (after, *after.others):
        assert not set(avoid) & set(one.text.split())


def test_a_medium_caption_has_a_dozen_words(captioner: BlipCaptioner) -> None:
    made = captioner.caption(PICTURES, DecodeOptions(length="medium"))
    assert min(len(one.text.split()) for one in made) >= 12


@pytest.mark.model
def test_the_shipped_model_is_short_when_asked() -> None:
    shipped = BlipCaptioner.load(ROOT / "fine-tuned-model", "shipped")
    length = {}
    for wanted in ("short", "", "medium"):
        made = shipped.caption(check.pictures(), DecodeOptions(length=wanted))
        length[wanted] = sum(len(one.text.split()) for one in made)
        assert all(one.text.split()[-1] not in {"a", "the", "in", "of", "and"} for one in made)
    assert length["short"] <= length[""] <= length["medium"]
    assert length["short"] < length["medium"]


def test_words_are_those_of_the_text_with_the_probabilities_of_their_tokens(
    captioner: BlipCaptioner,
) -> None:
    options = DecodeOptions(prompt="a photo of")
    (caption,) = captioner.caption(PICTURES[:1], options)
    assert [word.text for word in caption.words] == caption.text.split()
    assert [word.probability for word in caption.words[:3]] == [None] * 3
    own = [word.probability for word in caption.words[3:]]
    assert all(p is not None and 0 < p < 1 for p in own)
    # Each word of the tiny checkpoint is a token; behind the last one comes [SEP], or the limit.
    tokens = min(len(own) + 1, options.max_new_tokens)
    end = caption.probability**tokens / math.prod(p for p in own if p)
    assert 0 < end < 1 if tokens > len(own) else end == pytest.approx(1, rel=1e-3)


def stock_looks(captioner: BlipCaptioner, folder: Path, text: str) -> Any:
    """Of stock transformers in float32: (words, fields), each token of this text a word."""
    model = BlipForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = captioner.processor.tokenizer(text, add_special_tokens=False).input_ids
    given = torch.tensor([[model.config.text_config.bos_token_id, *tokens[:-1]]])
    pixels = captioner.processor.image_processor(images=PICTURES[0], return_tensors="pt")
    with torch.inference_mode():
        attention = model.text_decoder(
            given,
            encoder_hidden_states=model.vision_model(pixels.pixel_values)[0],
            output_attentions=True,
        ).cross_attentions
    mean = torch.stack(attention).mean((0, 2))[0, :, 1:]
    return mean / mean.sum(-1, keepdim=True)


def test_it_looks_where_stock_transformers_looks(captioner: BlipCaptioner, wordy: Path) -> None:
    text = "a dog runs in the snow"
    looks = captioner.look(PICTURES[0], text)
    assert (looks.columns, looks.rows, len(looks.words)) == (2, 2, 6)
    expected = stock_looks(captioner, wordy, text)
    for ours, theirs in zip(looks.words, expected.tolist(), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert sum(ours) == pytest.approx(1)
    assert looks.words[1] != pytest.approx(looks.words[4], rel=1e-3)


def test_words_of_several_tokens_are_looked_at_once(captioner: BlipCaptioner) -> None:
    """The tiny vocabulary has letters, and "cats" is two of its tokens."""
    assert len(captioner.look(PICTURES[0], "two cats").words) == 2


@pytest.mark.parametrize("text", ["", "\u732b", "a [SEP] dog", "a dog " * 90])
def test_what_the_model_would_not_write_it_does_not_look_at(
    captioner: BlipCaptioner, text: str
) -> None:
    with pytest.raises(CaptionFailed):
        captioner.look(PICTURES[0], text)
