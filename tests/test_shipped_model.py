"""The checkpoint in fine-tuned-model/, as it is.

The photographs come with scikit-image: Chelsea the cat (Stéfan van der Walt, CC0), an astronaut
(NASA, public domain), a rocket (SpaceX, CC0).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import skimage
import torch
from PIL import Image

from captionapp.captioning.blip import BlipCaptioner, EngineOptions
from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.engine import precision
from captionapp.captioning.versions import ModelVersions
from captionapp.settings import ROOT

pytestmark = pytest.mark.model

FOLDER = ROOT / "fine-tuned-model"
MAX_BYTES = 64_000_000
#: What it says, word for word: a new version of transformers or Pillow must not change it unseen.
GOLDEN = {
    "chelsea.png": "a brown and white dog is standing in the snow",
    "astronaut.png": "a young boy in a red jacket is playing in the snow",
    "rocket.jpg": "a large group of people are standing in front of a building",
}


def photograph(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


@pytest.fixture(scope="module")
def shipped() -> BlipCaptioner:
    return BlipCaptioner.load(FOLDER, "shipped")


def test_it_says_the_same_in_the_number_format_that_is_fastest_here(shipped: BlipCaptioner) -> None:
    fast = BlipCaptioner.load(FOLDER, "shipped", EngineOptions(precision="auto"))
    photographs = [photograph(name) for name in GOLDEN]
    said = [one.caption(photographs, DecodeOptions()) for one in (fast, shipped)]
    assert [one.text for one in said[0]] == [one.text for one in said[1]]
    for one, other in zip(*said, strict=True):
        assert one.probability == pytest.approx(other.probability, rel=0.05)
    # In sixteen bits this checkpoint passes the check, wherever they are faster.
    assert (fast.engine == "torch fp32") == (precision.fastest() == ["fp32"])


def test_golden_captions(shipped: BlipCaptioner) -> None:
    captions = shipped.caption([photograph(name) for name in GOLDEN], DecodeOptions())
    assert {name: one.text for name, one in zip(GOLDEN, captions, strict=True)} == GOLDEN


def test_a_prompt_is_continued(shipped: BlipCaptioner) -> None:
    (caption,) = shipped.caption([photograph("chelsea.png")], DecodeOptions(prompt="a photo of"))
    assert caption.text.startswith("a photo of ")
    assert len(caption.text.split()) > 4
    assert 0 < caption.probability < 1


def test_it_is_small_and_whole() -> None:
    files = {file.name for file in FOLDER.iterdir()}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= MAX_BYTES
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
    } <= files


def test_stock_transformers_loads_and_runs_it() -> None:
    from transformers import AutoProcessor, BlipForConditionalGeneration

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, report = BlipForConditionalGeneration.from_pretrained(
            FOLDER, local_files_only=True, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(FOLDER, backend="pil", local_files_only=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype in (torch.float16, torch.bfloat16)
    inputs = processor(images=photograph("astronaut.png"), return_tensors="pt")
    tokens = model.float().generate(**inputs)
    assert len(processor.decode(tokens[0], skip_special_tokens=True).split()) > 3


def test_its_card_says_what_it_is_on_the_hub_s_terms() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(FOLDER / "README.md")
    assert card.data.license
    assert card.data.pipeline_tag == "image-to-text"
    assert "Flickr8k" in card.text


def test_it_is_what_a_fresh_application_serves(tmp_path: Path) -> None:
    version = ModelVersions(tmp_path / "models", FOLDER).current()
    assert (version.origin, version.folder) == ("shipped", FOLDER)
