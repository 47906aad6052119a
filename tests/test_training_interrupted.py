"""A training that is stopped, loses pictures or finds no room: what it says, and how it goes on."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import TrainingFailed, TrainingStopped
from tests.trainings import CONFIG, Training, seeing_version, weights

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("vision", ["frozen", "upper"])
@pytest.mark.parametrize(
    ("method", "stop_at", "watched"), [("full", 5, 2), ("full", 9, 0), ("lora", 9, 2)]
)
def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    checkpoint: Path,
    pictures: Any,
    tmp_path: Path,
    method: str,
    stop_at: int,
    watched: int,
    vision: str,
) -> None:
    """Before and while the mean of the weights is made, which is the result if nothing is
    watched."""
    start = seeing_version(checkpoint, tmp_path / "seeing", dropout=0.1)
    train = pictures("a red cat on the beach", 6)
    sets = train, train[:watched], pictures("a dog", 5)
    config = replace(CONFIG, epochs=6, method=method, vision=vision, upper_layers=1)
    whole = Training(start, tmp_path / "whole").run(config, *sets)
    with pytest.raises(TrainingStopped, match=f"after step {stop_at} of 12"):
        Training(start, tmp_path / "parts", stop_at=stop_at).run(config, *sets)
    again = Training(start, tmp_path / "parts")
    parts = again.run(config, *sets)
    assert again.asked == 12 - stop_at  # steps that were left
    one, two = weights(whole.folder), weights(parts.folder)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert whole.figures["averaged"] == parts.figures["averaged"] == 6
    if watched:
        assert whole.figures["best_step"] > stop_at  # what came after it counts
        losses = [one.figures["best_held_out_loss"] for one in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1])


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

    def counted(state: Any, learner: Any, batches: Any) -> None:
        look(state, learner, batches)
        looks.append(state.held_out_loss)
        monkeypatch.setattr(Batches, "as_they_are", lambda self, examples: iter(()))

    monkeypatch.setattr(finetune, "_look", counted)
    training = Training(start, tmp_path / "run")
    made = training.run(replace(CONFIG, epochs=3), pictures("a red cat", 4), held_out)
    assert made.figures["step"] == 3 and made.figures["best_step"] == 1
    assert looks[0] and looks == [looks[0]] * 3
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


@pytest.mark.parametrize("part", ["optimizer", "trained", "best", "mean", "state"])
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
    elif part == "state":
        content["state"]["epoch"] = 1.0  # as another release may have it
    elif part in ("best", "mean"):
        content[part] = {name: p for name, p in content["trained"].items() if "bias" in name}
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
