"""The loop, with a tiny BLIP: it learns, keeps what is rehearsed, stops, goes on, and survives."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.captioner import DecodeOptions
from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable, TrainingFailed, TrainingStopped
from captionapp.training.config import FinetuneConfig, Progress
from captionapp.training.dataset import Example
from tests.conftest import draw
from tests.tiny_blip import make_tiny_blip

torch = pytest.importorskip("torch")

CONFIG = FinetuneConfig(
    epochs=20,
    learning_rate=3e-3,
    lora_learning_rate=1e-2,
    batch_size=4,
    bf16=False,
    method="full",
    vision="frozen",
    way_back=0.0,
)
COLOURS = ("red", "blue", "green", "white", "black", "yellow")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder = make_tiny_blip(tmp_path_factory.mktemp("tiny"))
    return ModelVersion("tiny-1", folder, "local", "2026-01-01T00:00:00Z")


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[str, int], list[Example]]:
    """``pictures(caption, n)`` are n different ones, all with this caption."""

    def make(caption: str, count: int) -> list[Example]:
        examples = []
        for number in range(count):
            path = tmp_path / f"{caption}-{number}.png"
            draw(COLOURS[number % len(COLOURS)], (40 + number, 40)).save(path)
            examples.append(Example(path, (caption,)))
        return examples

    return make


class Training:
    """A training and what was said while it went on; ``stop_at`` is a step."""

    def __init__(self, start: ModelVersion, folder: Path, stop_at: int = 10**9) -> None:
        self.start, self.folder, self.stop_at = start, folder, stop_at
        self.progress: list[Progress] = []
        self.skipped: list[str] = []
        self.asked = 0

    def run(
        self,
        config: FinetuneConfig,
        train: Sequence[Example],
        held_out: Sequence[Example] = (),
        rehearsal: Sequence[Example] = (),
    ) -> Any:
        from captionapp.training.finetune import finetune

        self.folder.mkdir(exist_ok=True)
        return finetune(
            config,
            self.start,
            train,
            held_out,
            rehearsal,
            self.folder,
            self.progress.append,
            self._should_stop,
            self.skipped.append,
        )

    def _should_stop(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_at


def captions(folder: Path, examples: Sequence[Example]) -> set[str]:
    from PIL import Image

    from captionapp.captioning.blip import BlipCaptioner

    captioner = BlipCaptioner.load(folder, "made")
    opened = [Image.open(example.path).convert("RGB") for example in examples]
    return {made.text for made in captioner.caption(opened, DecodeOptions(num_beams=1))}


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_what_is_corrected_and_makes_a_stock_checkpoint(
    start: ModelVersion, pictures: Any, tmp_path: Path, method: str
) -> None:
    train = pictures("a red cat on the beach", 8)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, method=method), train, train)
    assert made.figures["method"] == method
    assert made.figures["best_held_out_loss"] < 0.9 * made.figures["first_held_out_loss"]
    if method == "full":
        said = captions(made.folder, train)
        assert all(text.startswith("a red cat on the beach") for text in said)
    last = training.progress[-1]
    assert (last.step, last.steps, last.seconds_left) == (40, 40, 0)
    assert last.loss > 0 and last.held_out_loss and last.pictures_per_second > 0
    then, now = weights(start.folder), weights(made.folder)
    assert then.keys() == now.keys()  # merged: nothing of LoRA is left
    assert all(then[name].shape == now[name].shape for name in then)
    assert (made.folder / "tokenizer.json").read_bytes() == (
        start.folder / "tokenizer.json"
    ).read_bytes()


def changed(start: ModelVersion, folder: Path) -> set[str]:
    """Which halves of the model learnt something."""
    then, now = weights(start.folder), weights(folder)
    return {name.split(".")[0] for name in then if not torch.equal(then[name], now[name])}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_vision_half_learns_if_it_is_told_to(
    start: ModelVersion, pictures: Any, tmp_path: Path, method: str
) -> None:
    config, train = replace(CONFIG, epochs=2, method=method), pictures("a red cat", 4)
    frozen = Training(start, tmp_path / "frozen").run(config, train)
    trained = Training(start, tmp_path / "trained").run(replace(config, vision="trained"), train)
    assert changed(start, frozen.folder) == {"text_decoder"}
    assert changed(start, trained.folder) == {"text_decoder", "vision_model"}


def test_a_frozen_vision_half_looks_once_at_each_view(
    start: ModelVersion, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BlipVisionModel

    looked: list[int] = []
    forward = BlipVisionModel.forward

    def counted(self: Any, pixel_values: Any, **options: Any) -> Any:
        looked.append(len(pixel_values))
        return forward(self, pixel_values, **options)

    monkeypatch.setattr(BlipVisionModel, "forward", counted)
    config = replace(CONFIG, views=3, rehearsed_views=2, rehearsal=1.0, checkpoint_seconds=0)
    train, watched, old = pictures("a red cat", 6), pictures("a cat", 3), pictures("a dog", 5)
    with pytest.raises(TrainingStopped):
        Training(start, tmp_path / "run", stop_at=15).run(config, train, watched, old)
    before = sum(looked)
    assert before <= 6 * 3 + 3 + 5 * 2  # 20 passes in which each was shown
    training = Training(start, tmp_path / "run")
    training.run(replace(config), train, watched, old)
    assert sum(looked) <= 6 * 3 + 3 + 5 * 2  # also after it went on
    assert training.progress[-1].seconds_left == 0


def test_what_is_rehearsed_stays_nearer_to_how_it_was(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    """KL to the starting version on rehearsed pictures, measured with and without the penalty."""
    train, old = pictures("a red cat on the beach", 8), pictures("dog runs in snow", 8)
    config = replace(CONFIG, epochs=5, rehearsal=1.0, rehearsal_loss=0.0)
    free = Training(start, tmp_path / "a").run(replace(config, output_penalty=0.0), train, (), old)
    held = Training(start, tmp_path / "b").run(replace(config, output_penalty=5.0), train, (), old)
    assert divergence(start, held.folder, old) < 0.7 * divergence(start, free.folder, old)


def divergence(start: ModelVersion, folder: Path, examples: Sequence[Example]) -> float:
    from captionapp.training.batches import IGNORED, Batches
    from captionapp.training.learner import Learner

    config = replace(CONFIG, vision="trained")
    then, now = (Learner(config, replace(start, folder=one)) for one in (start.folder, folder))
    batches = Batches(config, then.processor, then.text_config, None, print)
    total = 0.0
    for batch in batches.as_they_are(examples):
        with torch.no_grad():
            p, q = (one.logits(batch).log_softmax(-1) for one in (then, now))
        total += float((p.exp() * (p - q)).sum())
        assert len(p) == int((batch.labels != IGNORED).sum())
    return total


def test_the_weights_can_be_held_back(start: ModelVersion, pictures: Any, tmp_path: Path) -> None:
    train = pictures("a red cat", 4)

    def moved(penalty: float, name: str) -> float:
        config = replace(CONFIG, epochs=10, weight_penalty=penalty)
        made = Training(start, tmp_path / name).run(config, train)
        then, now = weights(start.folder), weights(made.folder)
        return sum(float((now[key] - then[key]).square().sum()) for key in then)

    assert moved(50.0, "held") < 0.8 * moved(0.0, "free")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_goes_some_of_the_way_back(
    start: ModelVersion, pictures: Any, tmp_path: Path, method: str
) -> None:
    train = pictures("a red cat", 4)

    def moved(way_back: float) -> dict[str, Any]:
        config = replace(CONFIG, epochs=3, method=method, way_back=way_back)
        made = Training(start, tmp_path / f"{way_back}").run(config, train)
        then, now = weights(start.folder), weights(made.folder)
        return {name: now[name] - then[name] for name in then}

    whole, part = moved(0.0), moved(0.25)
    assert any(float(one.abs().max()) > 1e-3 for one in whole.values())
    for name, difference in whole.items():
        torch.testing.assert_close(part[name], 0.75 * difference, atol=1e-5, rtol=1e-3)


def test_it_stops_early_and_takes_the_best_weights(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    """What is learnt contradicts what is held out, so every pass makes that worse but the first
    few, which bring the words closer."""
    train, other = pictures("a red cat on the beach", 8), pictures("a blue dog jumps", 4)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=50, patience=3, warmup=0.0), train, other)
    figures = made.figures
    assert figures["step"] < figures["steps"] == 100
    assert figures["step"] == figures["best_step"] + 3 * 2  # two steps a pass
    assert figures["best_held_out_loss"] < figures["held_out_loss"]
    assert figures["best_held_out_loss"] < figures["first_held_out_loss"]
    config, learnt = replace(CONFIG, max_tokens=20), replace(start, folder=made.folder)
    assert held_out_loss(config, learnt, other) == pytest.approx(
        figures["best_held_out_loss"], 1e-3
    )


def held_out_loss(config: FinetuneConfig, version: ModelVersion, examples: Any) -> float:
    from captionapp.training.batches import Batches
    from captionapp.training.learner import Learner

    learner = Learner(replace(config, vision="trained"), version)
    batches = Batches(config, learner.processor, learner.text_config, None, print)
    return learner.loss(batches.as_they_are(examples))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    start: ModelVersion, pictures: Any, tmp_path: Path, method: str
) -> None:
    train, held_out = pictures("a red cat on the beach", 6), pictures("a cat on grass", 2)
    config = replace(CONFIG, epochs=6, method=method)
    whole = Training(start, tmp_path / "whole").run(config, train, held_out)
    with pytest.raises(TrainingStopped, match="after step 5 of 12"):
        Training(start, tmp_path / "parts", stop_at=5).run(config, train, held_out)
    again = Training(start, tmp_path / "parts")
    parts = again.run(config, train, held_out)
    assert again.asked == 7  # steps that were left
    one, two = weights(whole.folder), weights(parts.folder)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert whole.figures["best_held_out_loss"] == pytest.approx(parts.figures["best_held_out_loss"])


def test_a_broken_picture_is_told_and_left_out(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    train = pictures("a red cat", 5)
    train[0].path.unlink()
    train[1].path.write_bytes(train[1].path.read_bytes()[:60])
    training = Training(start, tmp_path / "run")
    training.run(replace(CONFIG, epochs=2), train)
    assert len(training.skipped) == 2
    assert all(any(str(one.path) in said for said in training.skipped) for one in train[:2])


def test_one_picture_that_can_be_read_is_enough(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    """However many are broken, of whatever kind, before it has its turn."""
    from captionapp.training.batches import _order

    train, old = pictures("a red cat", 4), pictures("a dog", 4)
    for example in (*train[1:], *old):
        example.path.unlink()
    seed = next(seed for seed in range(100) if _order(4, f"{seed} train 0").index(0) >= 2)
    config = replace(CONFIG, epochs=2, batch_size=1, seed=seed)
    made = Training(start, tmp_path / "run").run(config, train, (), old)
    assert made.figures["step"] == 8
    assert made.figures["loss"] is not None  # it is a number, though the first step had none


def test_held_out_pictures_that_vanish_do_not_end_it(
    start: ModelVersion, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captionapp.training import finetune
    from captionapp.training.batches import Batches

    held_out = pictures("a cat on grass", 2)
    looks, look = [], finetune._look

    def counted(state: Any, loss: float, learner: Any) -> None:
        looks.append(loss)
        look(state, loss, learner)
        monkeypatch.setattr(Batches, "as_they_are", lambda self, examples: iter(()))

    monkeypatch.setattr(finetune, "_look", counted)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=3), pictures("a red cat", 4), held_out)
    assert [math.isfinite(loss) for loss in looks] == [True, False, False]
    assert made.figures["step"] == 3 and made.figures["best_step"] == 1
    assert made.figures["held_out_loss"] == looks[0]


def test_with_no_picture_left_it_says_so(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    train = pictures("a red cat", 2)
    for example in train:
        example.path.unlink()
    with pytest.raises(TrainingFailed, match="None of the pictures"):
        Training(start, tmp_path / "run").run(CONFIG, train)


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    start: ModelVersion, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=1, checkpoint_seconds=0.0), pictures("a cat", 8))
    assert made.figures["step"] == 2
    assert len(training.skipped) == 3 and "No space left" in training.skipped[0]
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_a_version_that_finds_no_room_can_be_stored_later(
    start: ModelVersion, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BlipForConditionalGeneration

    def full(model: Any, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    train = pictures("a cat", 4)
    with monkeypatch.context() as patch, pytest.raises(TrainingFailed, match="--resume"):
        patch.setattr(BlipForConditionalGeneration, "save_pretrained", full)
        Training(start, tmp_path / "run").run(replace(CONFIG, epochs=2), train)
    assert not (tmp_path / "run" / "version").exists()
    again = Training(start, tmp_path / "run")
    made = again.run(replace(CONFIG, epochs=2), train)
    assert again.asked == 0 and (made.folder / "model.safetensors").exists()


def test_a_damaged_checkpoint_is_told_and_the_training_begins_anew(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half a")
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=1), pictures("a cat", 4))
    assert made.figures["step"] == 1
    assert "begins anew" in training.skipped[0]


@pytest.mark.parametrize("part", ["optimizer", "trained"])
def test_of_a_checkpoint_that_does_not_fit_nothing_is_taken(
    start: ModelVersion, pictures: Any, tmp_path: Path, part: str
) -> None:
    """Half of it would be a model that nobody trained."""
    train = pictures("a cat", 4)
    fresh = Training(start, tmp_path / "fresh").run(replace(CONFIG, epochs=2), train)
    with pytest.raises(TrainingStopped):
        Training(start, tmp_path / "run", stop_at=1).run(replace(CONFIG, epochs=2), train)
    file = tmp_path / "run" / "checkpoint.pt"
    content = torch.load(file, weights_only=True)
    content["trained"] = {name: torch.zeros_like(p) for name, p in content["trained"].items()}
    if part == "trained":
        content["trained"].popitem()
    else:
        content["optimizer"]["param_groups"] = []
    torch.save(content, file)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=2), train)
    assert "begins anew" in training.skipped[0]
    one, two = weights(fresh.folder), weights(made.folder)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_time_that_is_up_ends_it_with_what_was_learnt(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=100_000, minutes=0.02), pictures("a cat", 4))
    assert 0 < made.figures["step"] < made.figures["steps"]
    assert made.figures["seconds"] >= 1.2  # how much more is the machine's business


def test_a_loss_that_explodes_is_an_error(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    config = replace(CONFIG, learning_rate=1e6, clip=1e9)
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        Training(start, tmp_path / "run").run(config, pictures("a cat", 4))


def test_a_version_that_is_gone_is_unavailable(pictures: Any, tmp_path: Path) -> None:
    gone = ModelVersion("gone", tmp_path / "gone", "local", "")
    with pytest.raises(ModelUnavailable, match="gone"):
        Training(gone, tmp_path / "run").run(CONFIG, pictures("a cat", 4))


def test_the_precision_of_the_weights_stays(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    from transformers import BlipForConditionalGeneration

    half = tmp_path / "half"
    half.mkdir()
    for file in start.folder.iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    model = BlipForConditionalGeneration.from_pretrained(start.folder)
    model.half().save_pretrained(half)
    made = Training(replace(start, folder=half), tmp_path / "run").run(
        replace(CONFIG, epochs=1), pictures("a cat", 4)
    )
    assert {tensor.dtype for tensor in weights(made.folder).values()} == {torch.float16}
    assert json.loads((made.folder / "config.json").read_text())["dtype"] == "float16"
