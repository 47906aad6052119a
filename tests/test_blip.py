"""The engine, on a tiny checkpoint with random weights; the shipped one has its own tests."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration

from captionapp.captioning.blip import BlipCaptioner, _tidy
from captionapp.captioning.captioner import DecodeOptions
from captionapp.errors import CaptionFailed, InvalidOptions
from tests.conftest import draw
from tests.tiny_blip import PICTURES, WORDS, changed_config, end_token


@pytest.fixture(scope="session")
def plain(wordy: Path) -> Any:
    """Stock transformers' model of it."""
    return BlipForConditionalGeneration.from_pretrained(wordy).eval()


@pytest.fixture(scope="session")
def captioner(wordy: Path) -> BlipCaptioner:
    return BlipCaptioner.load(wordy, "tiny-1")


def plain_probability(
    model: Any, captioner: BlipCaptioner, text: str, image: Any, options: DecodeOptions
) -> float:
    """exp(mean log p) computed step by step: one forward pass for every token of the caption."""
    tokens = captioner.processor.tokenizer(text, add_special_tokens=False).input_ids
    given = captioner.processor.tokenizer(options.prompt, add_special_tokens=False).input_ids
    text_config = model.config.text_config
    prefix = [text_config.bos_token_id, *given]
    assert tokens[: len(given)] == given
    own = tokens[len(given) :]
    if len(own) < options.max_new_tokens:  # or it was cut off
        own.append(text_config.sep_token_id)
    pixels = captioner.processor.image_processor(images=image, return_tensors="pt").pixel_values
    log_p = []
    with torch.inference_mode():
        states = model.vision_model(pixels).last_hidden_state
        for token in own:
            logits = model.text_decoder(
                input_ids=torch.tensor([prefix]), encoder_hidden_states=states
            ).logits[0, -1]
            log_p.append(float(logits.double().log_softmax(0)[token]))
            prefix.append(token)
    return math.exp(sum(log_p) / len(log_p))


@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(num_beams=1),
        DecodeOptions(num_beams=4, length_penalty=2.0),
        DecodeOptions(prompt="a photo of"),
        DecodeOptions(num_beams=1, repetition_penalty=2.0, no_repeat_ngram_size=1),
        DecodeOptions(bad_words=("dog", "street", "a")),
    ],
    ids=["greedy", "beams", "prompt", "penalties", "bad words"],
)
def test_probability_is_the_plain_model_s(
    plain: Any, captioner: BlipCaptioner, options: DecodeOptions
) -> None:
    captions = captioner.caption(PICTURES, options)
    for caption, image in zip(captions, PICTURES, strict=True):
        expected = plain_probability(plain, captioner, caption.text, image, options)
        assert caption.probability == pytest.approx(expected, rel=1e-3)


def test_a_caption_says_where_it_came_from_and_is_the_same_every_time(
    captioner: BlipCaptioner,
) -> None:
    (first,) = captioner.caption(PICTURES[:1], DecodeOptions())
    (second,) = captioner.caption(PICTURES[:1], DecodeOptions())
    assert first.text == second.text != ""
    assert first.model_version == "tiny-1"
    assert first.options == DecodeOptions()
    assert 0 < first.probability <= 1
    assert first.seconds > 0


def test_a_batch_gives_what_single_pictures_give(captioner: BlipCaptioner) -> None:
    together = captioner.caption(PICTURES, DecodeOptions())
    alone = [captioner.caption([picture], DecodeOptions())[0] for picture in PICTURES]
    assert [one.text for one in together] == [one.text for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.probability == pytest.approx(other.probability, rel=1e-4)


def test_no_pictures_no_captions(captioner: BlipCaptioner) -> None:
    assert captioner.caption([], DecodeOptions()) == []


def test_a_prompt_is_kept_to_its_last_word(captioner: BlipCaptioner) -> None:
    (caption,) = captioner.caption(PICTURES[:1], DecodeOptions(prompt="A photo of the"))
    assert caption.text.startswith("a photo of the ")
    assert len(caption.text.split()) > 4


def test_bad_words_are_not_written(captioner: BlipCaptioner) -> None:
    (caption,) = captioner.caption(PICTURES[:1], DecodeOptions())
    word = caption.text.split()[0]
    (other,) = captioner.caption(PICTURES[:1], DecodeOptions(bad_words=(word,)))
    assert word not in other.text.split()


def test_length_and_repetition_are_bounded(captioner: BlipCaptioner) -> None:
    options = DecodeOptions(num_beams=1, max_new_tokens=12, no_repeat_ngram_size=2)
    (caption,) = captioner.caption(PICTURES[:1], options)
    tokens = captioner.processor.tokenizer(caption.text, add_special_tokens=False).input_ids
    assert len(tokens) <= 12
    pairs = list(zip(tokens, tokens[1:], strict=False))
    assert len(pairs) == len(set(pairs))


def test_a_prompt_that_leaves_no_room_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = changed_config(checkpoint, tmp_path, "text_config", "max_position_embeddings", 8)
    state = load_file(folder / "model.safetensors")
    name = "text_decoder.bert.embeddings.position_embeddings.weight"
    save_file(
        state | {name: state[name][:8].clone()}, folder / "model.safetensors", {"format": "pt"}
    )
    short = BlipCaptioner.load(folder, "short")
    (caption,) = short.caption(PICTURES[:1], DecodeOptions(prompt="a dog"))
    assert caption.text.startswith("a dog ")
    with pytest.raises(InvalidOptions, match="too long"):
        short.caption(PICTURES[:1], DecodeOptions(prompt="a dog and a cat and a man"))


@pytest.mark.parametrize("prompt", ["\u732b dog", "a [SEP] dog"])
def test_a_prompt_the_model_cannot_read_is_refused_and_not_shortened(
    captioner: BlipCaptioner, prompt: str
) -> None:
    """The tiny vocabulary knows neither the character nor brackets."""
    with pytest.raises(InvalidOptions, match="does not know"):
        captioner.caption(PICTURES[:1], DecodeOptions(prompt=prompt))


def test_a_prompt_without_a_word_of_the_model_is_no_caption(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "mute"))
    state = load_file(folder / "model.safetensors")
    state["text_decoder.cls.predictions.bias"][end_token(checkpoint)] = 100
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    mute = BlipCaptioner.load(folder, "mute")
    for prompt in ("", "a dog"):
        with pytest.raises(CaptionFailed):
            mute.caption(PICTURES[:1], DecodeOptions(prompt=prompt))


def test_a_bad_word_cannot_forbid_the_end_of_a_caption(captioner: BlipCaptioner) -> None:
    options = [DecodeOptions(bad_words=()), DecodeOptions(bad_words=("[SEP]", "\u732b", ""))]
    first, second = [captioner.caption(PICTURES[:1], one)[0].text for one in options]
    assert first == second


@pytest.mark.parametrize(
    "decoded, tidy",
    [
        ("a man ' s dog,  and it ' s red", "a man's dog, and it's red"),
        ("a t - shirt", "a t-shirt"),
        ("the word ' stop ' is red", "the word ' stop ' is red"),
    ],
)
def test_words_that_the_tokenizer_took_apart_are_joined(decoded: str, tidy: str) -> None:
    assert _tidy(decoded) == tidy


def test_many_threads_can_ask_at_once(captioner: BlipCaptioner) -> None:
    """The fast tokenizer would say "Already borrowed"."""
    options = [DecodeOptions(max_new_tokens=4, bad_words=(word,)) for word in WORDS[:8]] * 2
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda one: captioner.caption(PICTURES[:1], one)[0].text, options))
    assert texts[:8] == texts[8:]


def test_a_prepared_picture_has_the_pixels_of_the_whole_one(captioner: BlipCaptioner) -> None:
    whole = [draw("red", (300, 200)), draw("blue", (30, 80)), draw("white", (32, 32))]
    small = [captioner.prepare(image) for image in whole]
    assert {image.size for image in small} == {(32, 32)}
    pixels = [captioner.processor.image_processor(x).pixel_values for x in (whole, small)]
    assert (np.asarray(pixels[0]) == np.asarray(pixels[1])).all()
