from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from captionapp.training.dataset import FeedbackDataset
from captionapp.votes import Tally
from tests.judging import SAID, Reader, Scene, add_version, imagefolder


@pytest.fixture
def run(runner: FlaskCliRunner) -> Any:
    def run(*args: str | Path) -> Result:
        return runner.invoke(args=["model", "evaluate", *map(str, args)])

    return run


def test_a_version_beside_the_current_one(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    result = run("v1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == [scene.shipped.name, "(current)", "v1"]
    assert any(line.split() == ["Exact", "matches", "0", "24"] for line in lines)
    assert "v1 against" in result.stdout and ": better, with probability 1.000" in result.stdout
    assert "Wins, 3 of 24:" in result.stdout and "Losses" not in result.stdout
    assert "would not be promoted" not in result.stdout
    assert scene.versions.current() == scene.shipped
    kept = scene.versions.models_folder / "v1" / "evaluation.json"
    assert kept.is_file() and lines[-1] == f"Every picture with both captions: {kept}"


def test_what_the_gate_has_against_it_is_said(run: Any, scene: Scene) -> None:
    scene.trained("v1", lambda _: "a dog")
    assert "v1 would not be promoted:\n- it is not shown to be better" in run("v1").stdout


def test_without_a_name_it_is_the_newest_trained_one(run: Any, scene: Scene) -> None:
    alone = run()
    assert alone.stdout.splitlines()[0].split() == [scene.shipped.name, "(current)"]
    scene.trained("v1")
    scene.trained("v2")
    assert "v2 against" in run().stdout


def test_several_at_once_as_json(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    scene.trained("v2", lambda _: "a dog")
    told = json.loads(run("v1", "v2", scene.shipped.name, "--json").stdout)
    assert told["current"]["version"] == scene.shipped.name
    assert [one["candidate"] for one in told["reports"]] == ["v1", "v2"]
    assert [one["verdict"] for one in told["reports"]] == ["better", "not better"]
    assert told["reports"][0]["results"][0]["candidate"] == SAID[0]


def test_a_name_that_is_none_is_said_before_anything_is_captioned(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    result = run("v1", "nonsense")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no version nonsense" in result.stderr
    assert scene.promotion().report("v1") is None
    assert len(json.loads(run("v1", "v1", "--json").stdout)["reports"]) == 1


def test_figures_beside_each_other_can_be_compared(run: Any, scene: Scene) -> None:
    """CIDEr depends on the retained pictures, which are other ones for each version."""
    scene.trained("v1")
    header = run("v1", scene.shipped.name).stdout.splitlines()[0]
    assert header.count("(current)") == 1
    scene.captioners["v2"] = Reader("v2", SAID.__getitem__)
    few = imagefolder(scene.folder / "few", range(24, 36))
    add_version(scene.versions, "v2", details={"retain": {"folder": str(few)}})
    lines = run("v1", "v2").stdout.splitlines()
    names = re.split(r"  +", lines[0].strip())
    current = f"{scene.shipped.name} (current)"
    assert names == [current, "v1", current, "v2"]
    for name, version in (("v1", 2), ("v2", 4)):
        report = scene.promotion().report(name)
        assert report is not None
        cider = next(line for line in lines if line.startswith("CIDEr")).split()
        assert cider[version] == f"{report.candidate_figures.cider:.3f}"
        assert cider[version - 1] == f"{report.current_figures.cider:.3f}"


def test_any_imagefolder_will_do(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    folder = imagefolder(scene.folder / "data", range(6))
    result = run("v1", "--data", folder)
    assert "cannot tell, from 6 pictures that count: CAPTIONAPP_MIN_HELD_OUT" in result.stdout
    (kept,) = (scene.folder / "evaluations").glob("v1--data-*.json")
    assert result.stdout.endswith(f"{kept}\n")
    assert "would not be promoted" not in result.stdout
    assert "slice " not in result.stdout  # none of these pictures mentions people or numbers
    assert run("--data", folder, "--retained", folder).exit_code == 2
    (folder / "metadata.csv").unlink()
    assert run("v1", "--data", folder).exit_code == 1


def test_a_picture_that_is_gone_is_named_with_and_without_a_version(run: Any, scene: Scene) -> None:
    folder = imagefolder(scene.folder / "data", range(3))
    gone = sorted(folder.glob("*.png"))[0]
    gone.unlink()
    said = f"Left out, as they cannot be read: {gone.name}."
    alone = run("--data", folder, "--json")
    assert said in alone.stderr and json.loads(alone.stdout)["current"]["figures"]["pictures"] == 2
    scene.trained("v1")
    assert said in run("v1", "--data", folder).stdout


def test_retained_pictures_are_of_no_use_without_a_version(run: Any, scene: Scene) -> None:
    result = run("--retained", scene.retained)
    assert result.exit_code == 2 and "name one" in result.stderr
    scene.trained("v1")
    assert run("--retained", scene.retained).exit_code == 0


def test_votes_are_told(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    scene.tally = Tally(candidate=3, current=2, both=1, neither=4)
    said = "Blind votes: 3 for it, 2 for the current version, 5 without a preference."
    assert said in run("v1").stdout


def test_without_answers_it_says_so(run: Any, scene: Scene) -> None:
    scene.data = FeedbackDataset((), (), (), "", 0)
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There are no held-out answers" in result.stderr
