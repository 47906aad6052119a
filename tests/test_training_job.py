"""From answers to a plan, and from a plan to a version."""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from PIL import Image

from captionapp import atomic
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import (
    InvalidDataset,
    TooFewRows,
    TrainingFailed,
    TrainingStopped,
    UnknownVersion,
)
from captionapp.feedback.repository import FeedbackRow, Verdict
from captionapp.images import ImageLimits, decode
from captionapp.records import Held
from captionapp.training.config import FinetuneConfig
from captionapp.training.dataset import Example
from captionapp.training.job import Plan, carry_out, make_plan
from captionapp.training.runs import TrainingRuns
from captionapp.training.split import Side
from captionapp.workflow import Workflow
from tests.conftest import encoded
from tests.drawing import pattern

CONFIG = FinetuneConfig(min_corrections=3, min_held_out=2, held_out_share=0.25)


class Answers:
    """Pictures, captions and answers in an application, without going through its pages."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.count = 0

    def picture(self) -> str:
        self.count += 1
        image = decode(encoded(pattern(self.count)), ImageLimits(10**7, 10**6))
        held = Held(image.image_id, "p.png", 64, 64, DecodeOptions().key(), datetime.now(UTC))
        self.workflow.store.add(image)
        with self.workflow.records.write() as session:
            self.workflow.records.hold(session, held, "c" * 32)
        return image.image_id

    def described(self, text: str, version: str = "fake-1", prompt: str = "") -> str:
        image_id = self.picture()
        caption = Caption(text, 0.5, version, DecodeOptions(prompt=prompt), 0.1)
        self.workflow.captions.add(image_id, caption)
        return image_id

    def answered(self, text: str, verdict: Verdict = Verdict.CORRECTED) -> str:
        image_id = self.described("a red ball")
        self.workflow.feedback.append(
            FeedbackRow(
                id=f"{self.count:032x}",
                created_at="2026-11-23T12:00:00.000Z",
                image_id=image_id,
                image_name="p.png",
                caption="a red ball",
                feedback=text,
                verdict=verdict,
                reasons=(),
                model_version="fake-1",
                contributor="c" * 32,
            )
        )
        return image_id


@pytest.fixture
def answers(workflow: Workflow) -> Answers:
    return Answers(workflow)


def names(examples: Any) -> set[str]:
    return {example.path.stem for example in examples}


def refuse(sentence: str) -> None:
    raise AssertionError(sentence)


def test_corrections_are_learnt_and_the_rest_is_rehearsed(
    workflow: Workflow, answers: Answers
) -> None:
    corrected = {answers.answered("A cat.") for _ in range(20)}
    accepted = {answers.answered("a red ball", Verdict.ACCEPTED) for _ in range(10)}
    unanswered = {answers.described("a dog runs") for _ in range(10)}
    other = answers.described("a dog", version="older-1")
    begun = answers.described("my dog", prompt="my")
    plan = make_plan(workflow, CONFIG, None, refuse)
    dataset = workflow.feedback_dataset()
    held_out = {one.image_id for one in dataset.held_out}
    assert held_out  # or the test would prove nothing
    assert names(plan.corrections) | names(plan.watched) == corrected - held_out
    assert not names(plan.corrections) & names(plan.watched)
    assert len(plan.watched) == round(0.25 * len(corrected - held_out))
    assert {one.captions for one in plan.corrections} == {("a cat",)}
    rehearsed = names(plan.rehearsal)
    assert not rehearsed & ({other, begun} | held_out | corrected)
    assert rehearsed & accepted == accepted - held_out
    kept = {image_id for image_id in unanswered if side(workflow, image_id) is Side.TRAIN}
    assert rehearsed & unanswered == kept and kept != unanswered
    assert plan.details["data_fingerprint"] == dataset.fingerprint
    assert plan.details["data"] == {
        "corrected": len(plan.corrections),
        "watched": len(plan.watched),
        "accepted": len(accepted - held_out),
        "unanswered": len(kept),
        "retained": 0,
        "held_out": len(held_out),
    }


def side(workflow: Workflow, image_id: str) -> Side | None:
    from captionapp.training.split import Sides

    return Sides(workflow.records, 0, 0.2).assign([(image_id, lambda: pattern(0))])[image_id]


def test_too_few_corrections_are_refused_with_how_many_are_missing(
    workflow: Workflow, answers: Answers
) -> None:
    for _ in range(12):
        answers.answered("a red ball", Verdict.ACCEPTED)
    with pytest.raises(TooFewRows, match="0 corrected .* 3 are needed: 3 are missing"):
        make_plan(workflow, CONFIG, None, refuse)


def test_what_is_watched_is_not_near_to_what_is_learnt(
    workflow: Workflow, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each picture there is a second one with another corner: the training would look at the
    one to see whether it has learnt the other."""

    drawn = pattern

    def twice(number: int) -> Image.Image:
        image = drawn((number + 1) // 2)
        image.putpixel((0, 0), (number, 0, 0))
        return image

    monkeypatch.setattr("tests.test_training_job.pattern", twice)
    for _ in range(60):
        answers.answered("a cat")
    plan = make_plan(workflow, CONFIG, None, refuse)
    sides = workflow.sides()
    learnt, watched = names(plan.corrections), names(plan.watched)
    group = sides.groups_of([*learnt, *watched])
    assert 2 * len(set(group.values())) <= len(group)  # they were taken for near-duplicates
    assert learnt and len(watched) >= CONFIG.min_held_out
    assert not {group[one] for one in learnt} & {group[one] for one in watched}


def test_a_few_corrections_are_all_trained_on(workflow: Workflow, answers: Answers) -> None:
    for _ in range(6):
        answers.answered("a cat")
    plan = make_plan(workflow, replace(CONFIG, min_held_out=8), None, refuse)
    assert not plan.watched and len(plan.corrections) >= 3


def test_a_picture_that_is_gone_is_told(workflow: Workflow, answers: Answers) -> None:
    image_ids = [answers.answered("a cat") for _ in range(8)]
    workflow.store.delete(image_ids[0])
    said: list[str] = []
    make_plan(workflow, CONFIG, None, said.append)
    assert len(said) == 1 and image_ids[0] in said[0]


@pytest.fixture
def retained(tmp_path: Path) -> Path:
    folder = tmp_path / "retained"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption_0", "caption_1"])
        for number in range(30):
            pattern(1000 + number).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", "a dog runs", "the dog plays"])
    return folder


def test_a_folder_is_rehearsed_but_for_what_the_gate_judges_by(
    workflow: Workflow, answers: Answers, retained: Path
) -> None:
    from captionapp.training.dataset import read_imagefolder
    from captionapp.training.retained import split_retained

    for _ in range(6):
        answers.answered("a cat")
    plan = make_plan(workflow, CONFIG, retained, refuse)
    rehearsed, judged = split_retained(read_imagefolder(retained))
    assert names(plan.rehearsal) == names(rehearsed) and judged
    assert plan.rehearsal[0].captions == ("a dog runs", "the dog plays")
    assert plan.details["retain"] == {
        "folder": str(retained),
        "held_out_share": 0.2,
        "pictures": len(rehearsed),
    }
    few = make_plan(workflow, replace(CONFIG, rehearsed_at_most=5), retained, refuse)
    assert len(few.rehearsal) == 5


def test_a_missing_picture_of_the_folder_is_told(
    workflow: Workflow, answers: Answers, retained: Path
) -> None:
    for _ in range(6):
        answers.answered("a cat")
    (retained / "7.png").unlink()
    said: list[str] = []
    plan = make_plan(workflow, CONFIG, retained, said.append)
    assert plan.rehearsal and len(said) == 1 and "7.png" in said[0]


def test_a_folder_of_which_nothing_can_be_rehearsed_is_refused(
    workflow: Workflow, answers: Answers, retained: Path
) -> None:
    """Who asks that something is kept must not get a version that has forgotten it."""
    for _ in range(6):
        answers.answered("a cat")
    for picture in retained.glob("*.png"):
        picture.unlink()
    with pytest.raises(InvalidDataset, match="no picture that can be rehearsed"):
        make_plan(workflow, CONFIG, retained, lambda _: None)
    (retained / "metadata.csv").write_text("file_name,caption\n")
    with pytest.raises(InvalidDataset, match="no picture that can be rehearsed"):
        make_plan(workflow, CONFIG, retained, refuse)


def test_a_folder_that_is_no_imagefolder_is_refused(
    workflow: Workflow, answers: Answers, tmp_path: Path
) -> None:
    for _ in range(6):
        answers.answered("a cat")
    with pytest.raises(InvalidDataset):
        make_plan(workflow, CONFIG, tmp_path, refuse)


def test_a_plan_is_kept_with_the_run(
    workflow: Workflow, answers: Answers, retained: Path, tmp_path: Path
) -> None:
    for _ in range(12):
        answers.answered("a cat, said “cat”")
    plan = make_plan(workflow, CONFIG, retained, refuse)
    with TrainingRuns(tmp_path / "training").begin() as run:
        with pytest.raises(TrainingFailed, match="before it had begun"):
            Plan.load(run)
        plan.save(run)
        loaded = Plan.load(run)
    assert loaded == replace(plan, **{name: list(getattr(plan, name)) for name in EXAMPLES})


EXAMPLES = ("corrections", "watched", "rehearsal")


def test_a_plan_that_finds_no_room_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    runs = TrainingRuns(tmp_path / "training")
    with (
        pytest.raises(TrainingFailed, match="could not be stored .No space left"),
        runs.begin() as run,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "write", full)
            Plan("v1", CONFIG, [], [], [], {}).save(run)
    assert runs.latest() is None  # nothing had begun


@pytest.fixture
def trained(make_app: Callable[..., Flask], checkpoint: Path) -> Workflow:
    """An application that serves a tiny BLIP."""
    app = make_app(CAPTIONAPP_MODEL=str(checkpoint))
    flow: Workflow = app.extensions["captionapp"]
    del flow.versions.current  # type: ignore[attr-defined]  # the fake's
    return flow


def test_a_plan_becomes_a_version(trained: Workflow, tmp_path: Path) -> None:
    pattern(1).save(tmp_path / "1.png")
    example = Example(tmp_path / "1.png", ("a cat",))
    start = trained.versions.current()
    config = replace(CONFIG, epochs=2, bf16=False)
    plan = Plan(start.name, config, [example], [], [], {"parent": start.name, "data": {}})
    with TrainingRuns(tmp_path / "training").begin() as run:
        made = carry_out(plan, run, trained.versions, print, lambda: False, refuse)
        assert run.version == made.name == f"trained-{run.id}"
        # Killed after that and resumed, it finds its version and trains nothing.
        again = carry_out(plan, run, trained.versions, refuse, lambda: True, refuse)
    assert again == made == trained.versions.get(made.name)
    assert (made.origin, made.source) == ("trained", start.name)
    chosen = {"method": "full", "vision": "upper"}  # of a small model and one correction
    assert made.details["config"] == config.as_dict() | chosen
    assert made.details["figures"]["steps"] == 2 and made.details["seconds"] > 0
    assert made in trained.versions.list()


def test_a_version_has_a_model_card(trained: Workflow, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    start = trained.versions.current()
    (start.folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: research-only\ntags: [old]\n---\n\n# It\n"
    )
    pattern(1).save(tmp_path / "1.png")
    example = Example(tmp_path / "1.png", ("a cat",))
    config = replace(CONFIG, epochs=2, bf16=False)
    details = {"parent": start.name, "data": {"corrected": 1}, "data_fingerprint": "abc123"}
    plan = Plan(start.name, config, [example], [], [], details)
    with TrainingRuns(tmp_path / "training").begin() as run:
        made = carry_out(plan, run, trained.versions, print, lambda: False, refuse)
    card = ModelCard.load(made.folder / "README.md")
    header = card.data.to_dict()
    assert (header["license"], header["license_name"]) == ("other", "research-only")
    assert (header["base_model"], header["pipeline_tag"]) == (start.name, "image-to-text")
    assert "old" not in header["tags"]
    assert f"{start.name} → {made.name}" in card.text
    assert "| corrections that it learnt | 1 |" in card.text and "`abc123`" in card.text
    assert "| steps | 2 of 2 |" in card.text and "loss on watched" in card.text


def test_a_training_stopped_while_the_data_was_read_does_not_begin(
    trained: Workflow, tmp_path: Path
) -> None:
    plan = Plan("nowhere", CONFIG, [], [], [], {})
    with pytest.raises(TrainingStopped, match="before its first step"):
        with TrainingRuns(tmp_path / "training").begin() as run:
            carry_out(plan, run, trained.versions, refuse, lambda: True, refuse)


def test_what_was_chosen_for_a_training_holds_when_it_goes_on(
    trained: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other memory is free then, or it goes on on another processor."""
    from captionapp.training import choices

    pattern(1).save(tmp_path / "1.png")
    example = Example(tmp_path / "1.png", ("a cat",))
    start = trained.versions.current()
    plan = Plan(start.name, replace(CONFIG, epochs=4), [example], [], [], {"parent": start.name})
    runs = TrainingRuns(tmp_path / "training")
    with pytest.raises(TrainingStopped), runs.begin() as run:
        plan.save(run)
        monkeypatch.setattr(choices, "_free_memory", lambda: 1)
        monkeypatch.setattr(choices, "bf16_is_faster", lambda: True)
        asked = iter([False, True])
        carry_out(plan, run, trained.versions, print, lambda: next(asked), refuse)
    monkeypatch.setattr(choices, "_free_memory", lambda: 10**12)
    monkeypatch.setattr(choices, "bf16_is_faster", lambda: False)
    with runs.begin(run.id) as run:
        made = carry_out(Plan.load(run), run, trained.versions, print, lambda: False, refuse)
    figures = made.details["figures"]
    assert (figures["method"], figures["bf16"], figures["step"]) == ("lora", True, 4)


def test_what_is_not_whole_is_no_version(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever storing ends, there is nothing to list, or all of it."""
    import os

    folder = tmp_path / "instance" / "made"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_to_rename)
        with pytest.raises(OSError, match="no rename"):
            workflow.versions.add_trained(folder, "trained-1", {"parent": "shipped-1"})
    with pytest.raises(UnknownVersion):
        workflow.versions.get("trained-1")
    made = workflow.versions.add_trained(folder, "trained-1", {"parent": "shipped-1"})
    assert workflow.versions.get("trained-1") == made
    assert (made.folder / "model.safetensors").exists() and not folder.exists()


def refuse_to_rename(*args: Any) -> None:
    raise OSError("no rename")
