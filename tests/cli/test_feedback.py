from __future__ import annotations

import json

from flask.testing import FlaskCliRunner

from captionapp.results import IncomingFile
from captionapp.workflow import Workflow
from tests.conftest import draw, encoded


def answer(workflow: Workflow, colour: str, text: str = "") -> None:
    file = IncomingFile("ball.png", lambda: encoded(draw(colour)))
    (image_id,) = workflow.submit([file], "anna").accepted
    workflow.wait(image_id, "anna", 10)
    caption = workflow.picture(image_id, "anna").caption
    assert caption
    verdict, reasons = ("corrected", ["inaccurate"]) if text else ("accepted", [])
    workflow.give_feedback(image_id, "anna", caption.id, verdict, text, reasons)


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
