"""The self-check: what passes, what does not, and when its verdict is made anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, BlipForConditionalGeneration

from captionapp.captioning.engine import check
from captionapp.captioning.engine.precision import named
from captionapp.captioning.engine.torch_backend import TorchBackend, TorchDecoding

GOOD = check.Verdict(True, 40, 1.0, 0.001, 0.01)


@pytest.fixture(scope="module")
def model(wordy: Path) -> Any:
    return BlipForConditionalGeneration.from_pretrained(wordy).eval()


@pytest.fixture(scope="module")
def pixels(wordy: Path) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(wordy, backend="pil")
    pixels: torch.Tensor = processor.image_processor(check.pictures(), return_tensors="pt")[
        "pixel_values"
    ]
    return pixels


def begin(backend: TorchBackend, pixels: torch.Tensor) -> TorchDecoding:
    return backend.begin(backend.encode(pixels))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_an_engine_that_says_the_same_passes(model: Any, pixels: torch.Tensor, name: str) -> None:
    backend = TorchBackend(model, named(name))
    verdict = check.compare(model, pixels, lambda x: begin(backend, x))
    assert verdict.passed
    assert verdict.tokens >= len(pixels)
    assert (verdict.max_difference < 1e-4) == (name == "fp32")


@pytest.mark.parametrize(
    "harm",
    [
        lambda backend: backend.layers.pop(),
        lambda backend: backend.layers.reverse(),
        lambda backend: setattr(backend.embeddings, "_positions", -backend.embeddings._positions),
    ],
    ids=["a layer missing", "layers in another order", "wrong positions"],
)
def test_an_engine_that_says_something_else_fails(
    model: Any, pixels: torch.Tensor, harm: Any
) -> None:
    backend = TorchBackend(model, named("fp32"))
    harm(backend)
    assert not check.compare(model, pixels, lambda x: begin(backend, x)).passed


def test_an_engine_that_does_not_look_at_the_picture_fails(
    model: Any, pixels: torch.Tensor
) -> None:
    backend = TorchBackend(model, named("fp32"))
    verdict = check.compare(model, pixels, lambda x: begin(backend, x.flip(0)))
    assert not verdict.passed


def test_an_engine_that_gives_no_numbers_fails(model: Any, pixels: torch.Tensor) -> None:
    backend = TorchBackend(model, named("fp32"))
    verdict = check.compare(model, pixels, lambda x: begin(backend, x * torch.nan))
    assert not verdict.passed


def test_a_verdict_is_made_once_for_each_key(tmp_path: Path) -> None:
    made: list[str] = []

    def ask(key: str) -> check.Verdict:
        return check.verdict(tmp_path / "engine", key, lambda: (made.append(key), GOOD)[1])

    assert ask("one") == ask("one") == ask("two") == GOOD
    assert made == ["one", "two"]


def test_a_damaged_verdict_is_made_anew(tmp_path: Path) -> None:
    check.verdict(tmp_path, "one", lambda: GOOD)
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    assert check.verdict(tmp_path, "one", lambda: GOOD) == GOOD
    assert check.kept(tmp_path, "one") == GOOD


def test_without_a_folder_to_write_the_check_is_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check.verdict(tmp_path / "file" / "engine", "one", lambda: GOOD) == GOOD


def test_another_checkpoint_engine_or_library_is_another_key(
    wordy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(wordy, tmp_path / "copy"))
    keys = [check.key(folder, "tiny-1", "torch bf16")]
    assert check.key(folder, "tiny-1", "torch bf16") == keys[0]
    report = folder / "evaluation.json"  # of the version, not of its model
    report.write_text("{}")
    assert check.key(folder, "tiny-1", "torch bf16") == keys[0]
    report.unlink()
    keys += [check.key(folder, "tiny-2", "torch bf16"), check.key(folder, "tiny-1", "other")]
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    keys.append(check.key(folder, "tiny-1", "torch bf16"))
    monkeypatch.setattr(check, "processor", lambda: "another")
    keys.append(check.key(folder, "tiny-1", "torch bf16"))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    keys.append(check.key(folder, "tiny-1", "torch bf16"))
    assert len(set(keys)) == len(keys)
