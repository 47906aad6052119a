"""The engine, on a tiny checkpoint with random weights; the shipped one has its own tests."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration

from captionapp.captioning.blip import BlipCaptioner, EngineOptions, _tidy
from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.engine import check
from captionapp.errors import CaptionFailed, InvalidOptions, ModelUnavailable
from tests.conftest import draw
from tests.tiny_blip import WORDS, make_tiny_blip, make_wordy_blip

PICTURES = [draw("red"), draw("blue", (30, 80)), draw("white", (200, 20))]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="session")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wordy_blip(tmp_path_factory.mktemp("wordy"))


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


def end_token(checkpoint: Path) -> int:
    config = json.loads((checkpoint / "config.json").read_text())
    return int(config["text_config"]["sep_token_id"])


def with_generation_config(checkpoint: Path, folder: Path, **settings: Any) -> Path:
    copied = Path(shutil.copytree(checkpoint, folder / "configured"))
    path = copied / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return copied


def test_a_checkpoint_keeps_the_settings_that_are_not_ours(
    checkpoint: Path, tmp_path: Path
) -> None:
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    kept = [vocabulary[word] for word in ("dog", "cat", "ball", "[SEP]")]
    folder = with_generation_config(
        checkpoint,
        tmp_path,
        suppress_tokens=[number for number in range(len(vocabulary)) if number not in kept],
        bad_words_ids=[[vocabulary["cat"]]],
    )
    (caption,) = BlipCaptioner.load(folder, "own").caption(PICTURES[:1], DecodeOptions())
    assert set(caption.text.split()) <= {"dog", "ball"}


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.5, "top_p": 0.9},
        {"num_beams": 5, "num_beam_groups": 5, "diversity_penalty": 0.5},
        {"return_dict_in_generate": True, "output_scores": True},
        {"min_length": 60, "min_new_tokens": 50, "max_length": 3},
    ],
    ids=["sampling", "group beams", "other output", "lengths"],
)
def test_our_options_go_over_those_of_a_checkpoint(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    options = DecodeOptions(max_new_tokens=8)
    folder = with_generation_config(checkpoint, tmp_path, **settings)
    plain = BlipCaptioner.load(checkpoint, "plain").caption(PICTURES[:1], options)
    configured = BlipCaptioner.load(folder, "configured").caption(PICTURES[:1], options)
    assert configured[0].text == plain[0].text


def test_many_threads_can_ask_at_once(captioner: BlipCaptioner) -> None:
    """The fast tokenizer would say "Already borrowed"."""
    options = [DecodeOptions(max_new_tokens=4, bad_words=(word,)) for word in WORDS[:8]] * 2
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda one: captioner.caption(PICTURES[:1], one)[0].text, options))
    assert texts[:8] == texts[8:]


def changed_config(checkpoint: Path, folder: Path, part: str, name: str, value: object) -> Path:
    copied = Path(shutil.copytree(checkpoint, folder / "changed"))
    config = json.loads((copied / "config.json").read_text())
    config[part][name] = value
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def without_file(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without_a_weight(folder: Path) -> None:
    """transformers would fill it with random numbers, and say so in a log line only."""
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["vision_model.encoder.layers.0.mlp.fc1.weight"]
    save_file(state, file, {"format": "pt"})


def of_another_size(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    save_file(state | {name: state[name][:-1].clone()}, file, {"format": "pt"})


def for_questions(folder: Path) -> None:
    """The other BLIP with a text decoder; its weights would load."""
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BlipForQuestionAnswering"]
    (folder / "config.json").write_text(json.dumps(config))


def without_tokenizer(folder: Path) -> None:
    """transformers would make one that knows no words."""
    (folder / "tokenizer.json").unlink()


class Program:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was run",))


def with_a_program_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Program()}, folder / "pytorch_model.bin")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "harm",
    [
        without_file("config.json"),
        without_file("model.safetensors"),
        without_file("processor_config.json"),
        truncated,
        without_a_weight,
        of_another_size,
        for_questions,
        without_tokenizer,
        with_a_program_as_weights,
        lambda folder: shutil.rmtree(folder),
    ],
    ids=[
        "no config",
        "no weights",
        "no processor",
        "truncated",
        "a weight missing",
        "another size",
        "another architecture",
        "no tokenizer",
        "a program as weights",
        "no folder",
    ],
)
def test_a_broken_checkpoint_is_unavailable_and_never_random(
    checkpoint: Path,
    tmp_path: Path,
    harm: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    harm(folder)
    with pytest.raises(ModelUnavailable, match="broken-1") as caught:
        BlipCaptioner.load(folder, "broken-1")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""  # the sentence is all there is to say


def test_half_precision_weights_are_computed_in_single(checkpoint: Path, tmp_path: Path) -> None:
    """The same weights written in single say exactly the same."""
    said = []
    rounded = {k: v.half() for k, v in load_file(checkpoint / "model.safetensors").items()}
    for dtype in (torch.float16, torch.float32):
        folder = Path(shutil.copytree(checkpoint, tmp_path / str(dtype)))
        state = {k: v.to(dtype) for k, v in rounded.items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        said += BlipCaptioner.load(folder, "half").caption(PICTURES[:1], DecodeOptions())
    assert (said[0].text, said[0].probability) == (said[1].text, said[1].probability)


def test_the_layout_of_old_checkpoints_on_the_hub_is_read(checkpoint: Path, tmp_path: Path) -> None:
    """Pickled weights with positions among them, tied ones once, vocab.txt, a processor of old."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    state = load_file(folder / "model.safetensors")
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(160)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(state, folder / "pytorch_model.bin")
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processor["image_processor"] | {"processor_class": "BlipProcessor"})
    )
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n")
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json"):
        (folder / name).unlink()
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"max_length": 20, "num_beams": 1, "do_sample": False, "top_k": 50}
    config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))

    options = DecodeOptions(max_new_tokens=8)
    new = BlipCaptioner.load(checkpoint, "new").caption(PICTURES[:1], options)
    old = BlipCaptioner.load(folder, "old").caption(PICTURES[:1], options)
    assert old[0].text == new[0].text
    assert old[0].probability == pytest.approx(new[0].probability)


def test_loading_and_captioning_ask_no_network(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    BlipCaptioner.load(checkpoint, "offline").caption(PICTURES[:1], DecodeOptions())


def test_a_prepared_picture_has_the_pixels_of_the_whole_one(captioner: BlipCaptioner) -> None:
    whole = [draw("red", (300, 200)), draw("blue", (30, 80)), draw("white", (32, 32))]
    small = [captioner.prepare(image) for image in whole]
    assert {image.size for image in small} == {(32, 32)}
    pixels = [captioner.processor.image_processor(x).pixel_values for x in (whole, small)]
    assert (np.asarray(pixels[0]) == np.asarray(pixels[1])).all()


def test_fp16_serves_after_a_check_that_is_made_once(
    wordy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(precision="fp16", folder=tmp_path / "engine")
    first = BlipCaptioner.load(wordy, "tiny-1", options)
    monkeypatch.setattr(check, "compare", lambda *_: pytest.fail("the check was made again"))
    second = BlipCaptioner.load(wordy, "tiny-1", options)
    assert first.engine == second.engine == "torch fp16"
    one, other = (x.caption(PICTURES[:1], DecodeOptions())[0] for x in (first, second))
    assert (one.text, one.probability) == (other.text, other.probability)


def test_bf16_that_says_something_else_does_not_serve(
    wordy: Path, captioner: BlipCaptioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = check.Verdict(False, 40, 0.5, 1.0, 3.0)
    monkeypatch.setattr(check, "compare", lambda *_: failed)
    options = EngineOptions(precision="bf16", folder=tmp_path / "engine")
    for _ in range(2):  # the second time from the verdict that was kept
        loaded = BlipCaptioner.load(wordy, "tiny-1", options)
        assert loaded.engine == "torch fp32"
        (caption,) = loaded.caption(PICTURES[:1], DecodeOptions())
        (expected,) = captioner.caption(PICTURES[:1], DecodeOptions())
        assert (caption.text, caption.probability) == (expected.text, expected.probability)


def test_fp32_needs_no_check(wordy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "compare", lambda *_: pytest.fail("fp32 was compared with itself"))
    assert BlipCaptioner.load(wordy, "tiny-1").engine == "torch fp32"
