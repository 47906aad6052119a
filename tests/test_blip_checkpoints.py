"""Checkpoints: what is kept of their settings, what makes them unavailable, how they compute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from captionapp.captioning.blip import BlipCaptioner, EngineOptions
from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.engine import check
from captionapp.errors import ModelUnavailable
from tests.tiny_blip import PICTURES


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
    wordy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = BlipCaptioner.load(wordy, "tiny-1")
    failed = check.Verdict(False, 40, 0.5, 1.0, 3.0)
    monkeypatch.setattr(check, "compare", lambda *_: failed)
    options = EngineOptions(precision="bf16", folder=tmp_path / "engine")
    for _ in range(2):  # the second time from the verdict that was kept
        loaded = BlipCaptioner.load(wordy, "tiny-1", options)
        assert loaded.engine == "torch fp32"
        (caption,) = loaded.caption(PICTURES[:1], DecodeOptions())
        (expected,) = exact.caption(PICTURES[:1], DecodeOptions())
        assert (caption.text, caption.probability) == (expected.text, expected.probability)


def test_fp32_needs_no_check(wordy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "compare", lambda *_: pytest.fail("fp32 was compared with itself"))
    assert BlipCaptioner.load(wordy, "tiny-1").engine == "torch fp32"
