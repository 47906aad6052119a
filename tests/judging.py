"""Versions that only pretend, and pictures with answers to judge them by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.captioning.versions import ModelVersion, ModelVersions
from captionapp.errors import CaptionFailed, ModelUnavailable, PromotionRefused
from captionapp.feedback.rows import Verdict
from captionapp.promotion import Promotion
from captionapp.settings import Settings
from captionapp.training.caption_cache import CaptionCache
from captionapp.training.dataset import FeedbackDataset, FeedbackExample
from captionapp.training.proof import Prover
from captionapp.training.split import Side
from captionapp.votes import Tally

#: What people say of the picture of this number.
SAID = [
    f"a {colour} {thing} {place}"
    for colour in ("red", "green", "blue", "small", "old", "white", "black", "wet")
    for thing in ("raccoon", "bird", "house")
    for place in ("on a tree", "in the snow")
]


class Reader:
    """A captioner that reads the number that ``numbered`` drew, and says what it was given."""

    def __init__(self, model_version: str, say: Callable[[int], str]) -> None:
        self.model_version = model_version
        self.say = say
        self.made = 0

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def caption(self, images: Sequence[Image.Image], options: DecodeOptions) -> list[Caption]:
        texts = [self.say(image.getpixel((4, 4))[0] // 5) for image in images]
        if not all(texts):
            raise CaptionFailed("The model found no words for this picture.")
        self.made += len(texts)
        return [Caption(text, 0.5, self.model_version, options, 0.01) for text in texts]


def numbered(folder: Path, number: int) -> Path:
    """A picture that carries its number in the red of its left half."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (16, 16), (5 * number, 0, 0))
    picture.paste((5 * number, 250, 250), (8, 0, 16, 16))
    picture.save(folder / f"{number}.png")
    return folder / f"{number}.png"


def dataset(folder: Path, corrected: int = 24, accepted: int = 0) -> FeedbackDataset:
    """Held-out answers: corrections first, then acceptances, as ``SAID`` has them."""
    held_out = [
        FeedbackExample(
            image_id=f"{number:032x}",
            path=numbered(folder, number),
            caption=SAID[number],
            verdict=Verdict.CORRECTED if number < corrected else Verdict.ACCEPTED,
            said="a dog",
            model_version="shipped-1",
            side=Side.HELD_OUT,
        )
        for number in range(corrected + accepted)
    ]
    return FeedbackDataset((), tuple(held_out), (), "f" * 64, 0)


def imagefolder(folder: Path, numbers: Sequence[int]) -> Path:
    """A folder of such pictures with ``metadata.csv``, each with two captions."""
    lines = ["file_name,caption_0,caption_1"]
    for number in numbers:
        path = numbered(folder, number)
        lines.append(f"{path.name},{SAID[number]},a picture of {SAID[number]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def add_version(
    versions: ModelVersions,
    name: str,
    origin: str = "trained",
    details: Mapping[str, Any] | None = None,
    created_at: str = "2026-01-01T00:00:00Z",
) -> ModelVersion:
    """A version's folder with everything but weights that could be loaded."""
    folder = versions.models_folder / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(name.encode())
    described = {"origin": origin, "created_at": created_at, "details": dict(details or {})}
    (folder / "version.json").write_text(json.dumps(described))
    return versions.get(name)


def loader(captioners: Mapping[str, Any]) -> Callable[[ModelVersion], Any]:
    """Loads what is given for a version's name; another version has no weights."""

    def load(version: ModelVersion) -> Any:
        if version.name not in captioners:
            raise ModelUnavailable(f"The checkpoint {version.name} cannot be loaded: no weights")
        return captioners[version.name]

    return load


class Scene:
    """A shipped version that calls everything a dog, and versions that say what a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shipped = folder / "fine-tuned-model"
        shipped.mkdir()
        (shipped / "model.safetensors").write_bytes(b"weights")
        self.versions = ModelVersions(folder / "models", shipped)
        self.shipped = self.versions.shipped()
        self.captioners = {self.shipped.name: Reader(self.shipped.name, lambda n: self.before(n))}
        self.data = dataset(folder / "pictures")
        self.tally = Tally()
        self.problem = ""
        self.checked: list[str] = []
        #: Names of pictures that a training has seen.
        self.trained_on: set[str] = set()

    def before(self, number: int) -> str:
        """Dogs; but it knows the pictures that are to be retained, which have higher numbers."""
        return "a dog" if number < 24 else SAID[number]

    def promotion(self, **settings: Any) -> Promotion:
        chosen = Settings(instance=self.folder, **{"min_retained": 3} | settings)
        cache = CaptionCache(self.folder / "captions.db")
        prover = Prover(
            chosen,
            loader(self.captioners),
            cache,
            lambda: self.data,
            lambda *_: self.tally,
            lambda examples: [one for one in examples if one.path.name not in self.trained_on],
        )
        return Promotion(chosen, self.versions, prover, self.check)

    def check(self, version: ModelVersion) -> str:
        self.checked.append(version.name)
        return self.problem

    def trained(self, name: str, say: Callable[[int], str] = SAID.__getitem__) -> ModelVersion:
        self.captioners[name] = Reader(name, say)
        return add_version(self.versions, name, details={"retain": {"folder": str(self.retained)}})

    @property
    def retained(self) -> Path:
        folder = self.folder / "retained"
        if not folder.exists():
            imagefolder(folder, range(24, 48))
        return folder


def refused(scene: Scene, name: str, **settings: Any) -> str:
    """The sentence that a promotion is refused with; nothing has moved."""
    with pytest.raises(PromotionRefused) as caught:
        scene.promotion(**settings).promote(name)
    assert scene.versions.current() == scene.shipped
    assert scene.versions.pointer.history() == []
    return str(caught.value)
