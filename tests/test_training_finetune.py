"""The loop, with a tiny BLIP: it learns, keeps what is rehearsed, stops, goes on, and survives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable, TrainingFailed, TrainingStopped
from captionapp.training.config import FinetuneConfig
from captionapp.training.dataset import Example
from tests.trainings import CONFIG, Training, captions, seeing_version, weights

torch = pytest.importorskip("torch")


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


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("layers", [1, 9])
def test_the_upper_layers_of_the_vision_half_learn_and_the_others_do_not(
    checkpoint: Path, pictures: Any, tmp_path: Path, method: str, layers: int
) -> None:
    start = seeing_version(checkpoint, tmp_path / "seeing")
    config = replace(CONFIG, epochs=2, method=method, vision="upper", upper_layers=layers)
    train, old = pictures("a red cat", 4), pictures("a dog", 4)
    made = Training(start, tmp_path / "run").run(config, train, train[:2], old)
    assert made.figures["vision"] == "upper"
    then, now = weights(start.folder), weights(made.folder)
    vision = {name for name in then if name.startswith("vision_model.")}
    learnt = {name for name in vision if not torch.equal(then[name], now[name])}
    there = {int(name.split("layers.")[1].split(".")[0]) for name in vision if "layers." in name}
    assert len(there) > 1
    of = {int(name.split("layers.")[1].split(".")[0]) for name in learnt if "layers." in name}
    assert of == set(sorted(there)[-layers:])
    others = {name.split(".")[1] for name in learnt if "layers." not in name}
    assert others == ({"post_layernorm"} if method == "full" else set())


@pytest.mark.parametrize("vision", ["frozen", "upper"])
def test_what_learns_above_other_layers_is_what_the_checkpoint_does(
    checkpoint: Path, pictures: Any, tmp_path: Path, vision: str
) -> None:
    """The loss by layers that are looked through once and by the model as a whole is the same."""
    start = seeing_version(checkpoint, tmp_path / "seeing")
    config = replace(CONFIG, epochs=3, vision=vision, upper_layers=1)
    train, watched = pictures("a red cat", 4), pictures("a cat", 3)
    made = Training(start, tmp_path / "run").run(config, train, watched)
    whole = held_out_loss(config, replace(start, folder=made.folder), watched)
    assert whole == pytest.approx(made.figures["best_held_out_loss"], 1e-3)


def test_a_small_model_learns_with_its_upper_layers_and_a_large_one_without(
    start: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captionapp.training import choices

    config = replace(CONFIG, vision="auto")
    assert choices.settled(config, start, 100).vision == "upper"
    assert choices.settled(config, start, 5000).vision == "trained"
    monkeypatch.setattr(choices, "UPPER_OPERATIONS", 1.0)
    assert choices.settled(config, start, 100).vision == "frozen"
    assert choices.settled(replace(config, vision="upper"), start, 100).vision == "upper"


def test_all_weights_learn_if_the_model_is_small_and_half_of_the_memory_is_enough() -> None:
    from captionapp.training.choices import _affordable

    room = 2 * 7 * 4 * 10_000_000  # bytes, of which half may be taken
    assert _affordable(10_000_000, room) == "full"
    assert _affordable(10_000_000, room - 2) == "lora"
    assert _affordable(149_999_999, 10**12) == "full"
    assert _affordable(150_000_000, 10**12) == "lora"


def test_operations_of_layers_that_learn() -> None:
    """6 x 7.08 million weights x 577 places for a layer of BLIP-base's shape."""
    from transformers import BlipConfig

    from captionapp.training.choices import _operations

    base = BlipConfig(
        vision_config={"image_size": 384, "patch_size": 16, "hidden_size": 768},
    )
    assert _operations(base, 1) == pytest.approx(6 * 7_077_888 * 577)
    assert _operations(base, 100) == 12 * _operations(base, 1)


@pytest.mark.parametrize("vision", ["frozen", "upper"])
def test_layers_that_do_not_learn_look_once_at_each_view(
    start: ModelVersion,
    pictures: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vision: str,
) -> None:
    from captionapp.training import learner

    looked: list[int] = []
    bottom = learner.bottom

    def counted(model: Any, first: int, pixels: Any) -> Any:
        looked.append(len(pixels))
        return bottom(model, first, pixels)

    monkeypatch.setattr(learner, "bottom", counted)
    config = replace(CONFIG, views=3, rehearsed_views=2, rehearsal=1.0, checkpoint_seconds=0)
    config = replace(config, vision=vision, upper_layers=1, patience=100)
    train, watched, old = pictures("a red cat", 6), pictures("a cat", 3), pictures("a dog", 5)
    with pytest.raises(TrainingStopped):
        Training(start, tmp_path / "run", stop_at=15).run(config, train, watched, old)
    before, views = sum(looked), 6 * 3 + 3 + 5 * 2
    assert 0 < before <= views
    training = Training(start, tmp_path / "run")
    training.run(config, train, watched, old)
    assert sum(looked) == views  # 20 passes in which each was shown
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


def test_the_best_weights_are_the_same_if_it_was_stopped_after_them(
    start: ModelVersion, pictures: Any, tmp_path: Path
) -> None:
    train, other = pictures("a red cat on the beach", 8), pictures("a blue dog jumps", 4)
    config = replace(CONFIG, epochs=50, patience=3, warmup=0.0)
    whole = Training(start, tmp_path / "whole").run(config, train, other)
    after = whole.figures["best_step"] + 1
    with pytest.raises(TrainingStopped):
        Training(start, tmp_path / "run", stop_at=after).run(config, train, other)
    made = Training(start, tmp_path / "run").run(config, train, other)
    assert made.figures["best_step"] == whole.figures["best_step"] < after
    one, two = weights(whole.folder), weights(made.folder)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_a_training_that_knew_no_steady_rate_goes_on_without_one() -> None:
    assert FinetuneConfig.from_dict(CONFIG.as_dict()) == CONFIG
    before = {k: v for k, v in CONFIG.as_dict().items() if k not in ("steady_rate", "steady_from")}
    made = FinetuneConfig.from_dict(before)
    assert (made.steady_rate, made.steady_from) == (0.0, 1.0)


def test_the_result_is_the_mean_over_the_steps_of_the_steady_rate(
    start: ModelVersion, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captionapp.training.learner import Learner

    steps, rates, learn = [], [], Learner.learn

    def counted(learner: Learner, batch: Any) -> float:
        loss = learn(learner, batch)
        rates.append(learner.optimizer.param_groups[0]["lr"] / CONFIG.learning_rate)
        steps.append({name: value.detach().clone() for name, value in learner.trained.items()})
        return loss

    monkeypatch.setattr(Learner, "learn", counted)
    config = replace(CONFIG, epochs=5, steady_rate=0.3, steady_from=0.6)
    made = Training(start, tmp_path / "run").run(config, pictures("a red cat", 8))
    assert made.figures["averaged"] == 4 and len(steps) == 10
    assert rates[6:] == pytest.approx([0.3] * 4)
    assert sorted(rates[1:7], reverse=True) == rates[1:7] and rates[1] > 0.9
    now = weights(made.folder)
    for name in steps[-1]:
        mean = sum(step[name] for step in steps[6:]) / 4
        assert torch.allclose(now[name], mean, atol=1e-6)
    some = "text_decoder.bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(now[some], steps[-1][some], atol=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("epochs", [4, 3.5])  # 3.5: the last look is within a pass
def test_the_mean_is_what_is_looked_at_and_what_learns_is_not_changed_by_that(
    start: ModelVersion, pictures: Any, tmp_path: Path, method: str, epochs: float
) -> None:
    train = pictures("a red cat", 8)
    watched = train[:3]
    config = replace(CONFIG, epochs=epochs, method=method)
    alone = Training(start, tmp_path / "alone").run(config, train)
    made = Training(start, tmp_path / "run").run(config, train, watched)
    assert made.figures["best_step"] == made.figures["step"]  # it gained to the end
    one, two = weights(alone.folder), weights(made.folder)
    assert all(torch.equal(one[name], two[name]) for name in one)
    loss = held_out_loss(config, replace(start, folder=made.folder), watched)
    assert made.figures["best_held_out_loss"] == pytest.approx(loss, 1e-3)


def held_out_loss(config: FinetuneConfig, version: ModelVersion, examples: Any) -> float:
    from captionapp.training.batches import Batches
    from captionapp.training.learner import Learner

    learner = Learner(replace(config, vision="trained"), version)
    batches = Batches(config, learner.processor, learner.text_config, None, print)
    return learner.loss(batches.as_they_are(examples))


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
