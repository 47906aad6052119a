from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskCliRunner

from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded


def answer(workflow: Workflow, colour: str, text: str = "") -> None:
    file = IncomingFile("ball.png", lambda: encoded(draw(colour)))
    (image_id,) = workflow.submit([file], "anna").accepted
    workflow.wait(image_id, "anna", 10)
    caption = workflow.picture(image_id, "anna").caption
    assert caption
    verdict, reasons = ("corrected", ["inaccurate"]) if text else ("accepted", [])
    workflow.answers.give(image_id, "anna", caption.id, verdict, text, reasons)


def test_stats_count_the_answers(workflow: Workflow, runner: FlaskCliRunner) -> None:
    answer(workflow, "red")
    answer(workflow, "green")
    answer(workflow, "blue", "a blue ball")
    result = runner.invoke(args=["feedback", "stats"])
    assert result.exit_code == 0
    words = [line.split() for line in result.output.splitlines()]
    assert ["answers", "3"] in words
    assert ["accepted", "2", "(66.7%)"] in words
    assert ["reason", "inaccurate", "1"] in words
    assert ["version", "fake-1", "3"] in words

    result = runner.invoke(args=["feedback", "stats", "--json"])
    counted = json.loads(result.output)
    assert (counted["rows"], counted["pictures"], counted["corrected"]) == (3, 3, 1)
    assert counted["by_reason"]["inaccurate"] == 1


def test_stats_of_no_answers(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=["feedback", "stats"])
    assert result.exit_code == 0
    assert ["accepted", "0", "(-)"] in [line.split() for line in result.output.splitlines()]


def test_a_file_that_is_not_ours_is_said_in_a_sentence(
    workflow: Workflow, runner: FlaskCliRunner
) -> None:
    workflow.feedback.path.write_text("name;price\n")
    result = runner.invoke(args=["feedback", "stats"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "feedback.csv" in result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An imagefolder of three pictures, one of them missing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for colour in ("red", "green"):
        (folder / f"{colour}.png").write_bytes(encoded(draw(colour)))
    (folder / "metadata.csv").write_text(
        "file_name,caption\nred.png,a red ball\nblue.png,a plum\ngreen.png,a pea\n"
    )
    return folder


def test_import_names_what_failed_after_all_else_is_done(
    workflow: Workflow, runner: FlaskCliRunner, folder: Path
) -> None:
    result = runner.invoke(args=["feedback", "import", str(folder)])
    assert result.exit_code == 1
    assert "metadata.csv, row 3: blue.png: There is no picture 'blue.png'" in result.stderr
    assert "1 of 3 answers could not be brought in" in result.stderr
    assert "2 added (1 accepted the caption, 1 corrected it), 0 were there" in result.stdout
    assert [row.feedback for row in workflow.feedback.rows()] == ["a red ball", "a pea"]

    encode = encoded(draw("blue"))
    (folder / "blue.png").write_bytes(encode)
    result = runner.invoke(args=["feedback", "import", str(folder)])
    assert result.exit_code == 0
    assert "1 added" in result.stdout and "2 were there already" in result.stdout


def test_an_interrupted_import_says_what_is_kept(
    make_app: Any, captioner: FakeCaptioner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(CAPTIONAPP_BATCH_SIZE=1)
    made = captioner.caption

    def interrupted(*asked: Any) -> Any:
        if captioner.calls:
            raise KeyboardInterrupt
        return made(*asked)

    monkeypatch.setattr(captioner, "caption", interrupted)
    result = app.test_cli_runner().invoke(args=["feedback", "import", str(folder)])
    assert result.exit_code == 130
    assert "1 answers have been added and are kept" in result.stderr
    assert len(app.extensions["captionapp"].feedback.rows()) == 1


def test_export_and_import_again(
    workflow: Workflow, runner: FlaskCliRunner, folder: Path, tmp_path: Path
) -> None:
    runner.invoke(args=["feedback", "import", str(folder)])
    result = runner.invoke(args=["feedback", "export", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 answers about 2 pictures" in result.stdout
    result = runner.invoke(args=["feedback", "import", str(tmp_path / "out")])
    assert result.exit_code == 0 and "2 were there already" in result.stdout

    result = runner.invoke(args=["feedback", "export", str(tmp_path / "out")])
    assert result.exit_code == 1 and "is there already" in result.stderr
    workflow.store.delete(workflow.feedback.rows()[0].image_id)
    result = runner.invoke(args=["feedback", "export", "--csv", str(tmp_path / "old")])
    assert result.exit_code == 1
    assert "1 answers about 1 pictures" in result.stdout and "no longer stored" in result.stderr
    assert (tmp_path / "old" / "feedback.csv").read_text().startswith("image,caption,feedback\n")
