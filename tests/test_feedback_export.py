"""Data sets out, and in again: what comes back the same."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captionapp.errors import ExportFailed
from captionapp.feedback.interchange import OUR_COLUMNS
from captionapp.feedback.repository import Reason, Verdict
from captionapp.feedback.transfer import Exported, export_feedback
from captionapp.training.dataset import read_imagefolder
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, serve
from tests.datasets import bring_in, drawn, metadata, outcomes, table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawn(tmp_path / "folder")


@pytest.fixture
def other(make_app: Any, tmp_path: Path) -> Workflow:
    """Another application, with a version that says other things."""
    app = make_app(CAPTIONAPP_INSTANCE=tmp_path / "other")
    workflow: Workflow = app.extensions["captionapp"]
    serve(workflow, FakeCaptioner("fake-2", ["a snowboarder"]))
    return workflow


def export(workflow: Workflow, folder: Path, old_columns: bool = False) -> Exported:
    rows = workflow.feedback.rows()
    return export_feedback(rows, workflow.store, folder, old_columns, lambda: None)


@pytest.fixture
def answered(workflow: Workflow, folder: Path) -> Workflow:
    """Answers of all kinds: accepted, corrected, with reasons, replaced, in any characters."""
    metadata(
        folder,
        ("red.png", "a red ball"),
        ("green.png", '=1+1, a "green"\nball'),
        ("blue.png", "ein blauer Ball, 球 🔵"),
        ("gold.png", "a coin"),
    )
    bring_in(workflow, folder)
    coin = workflow.feedback.rows()[3]
    reasons = (Reason.INACCURATE, Reason.TOO_LONG)
    workflow.feedback.append(
        replace(coin, id="2" * 32, feedback="a medal", reasons=reasons, contributor="b" * 32)
    )
    workflow.feedback.append(  # back to the first: three answers of the same picture
        replace(coin, id="3" * 32, created_at="2026-01-02T03:04:05.678Z", contributor="c" * 32)
    )
    workflow.feedback.append(  # a correction of nothing but the case stays one
        replace(coin, id="4" * 32, image_name="=coin().png", feedback="A red ball!")
    )
    return workflow


def test_an_export_comes_back_the_same_elsewhere(
    answered: Workflow, other: Workflow, tmp_path: Path
) -> None:
    done = export(answered, tmp_path / "out")
    assert (done.answers, done.pictures, done.missing) == (7, 5, ())
    assert set(outcomes(bring_in(other, tmp_path / "out"))) == {"added"}
    expected = {replace(row, contributor="import") for row in answered.feedback.rows()}
    assert set(other.feedback.rows()) == expected
    for row in expected:
        pixels = [one.store.load(row.image_id).tobytes() for one in (answered, other)]
        assert pixels[0] == pixels[1]
        mine, theirs = answered.feedback.latest(row.image_id), other.feedback.latest(row.image_id)
        assert mine and theirs and mine.id == theirs.id
    for workflow in (answered, other):
        assert set(outcomes(bring_in(workflow, tmp_path / "out"))) == {"known"}


def test_an_export_is_an_imagefolder_of_the_latest_answers(
    answered: Workflow, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    export(answered, out)
    captions = [example.captions for example in read_imagefolder(out)]
    assert captions == [
        ("a red ball",),
        ('=1+1, a "green"\nball',),
        ("ein blauer Ball, 球 🔵",),
        ("a coin",),
        ("A red ball!",),
    ]
    with (out / "earlier.csv").open(encoding="utf-8", newline="") as file:
        assert [row["caption"] for row in csv.DictReader(file)] == ["a coin", "a medal"]
    text = (out / "metadata.csv").read_text()
    assert text.splitlines()[0] == ",".join(("file_name", "caption", *OUR_COLUMNS))
    assert "c" * 32 not in text  # who answered is not told
    names = {file.name for file in out.iterdir()} - {"metadata.csv", "earlier.csv"}
    assert len(names) == 5 and all(name[0].isalnum() for name in names)


def test_the_old_columns_come_back(answered: Workflow, other: Workflow, tmp_path: Path) -> None:
    done = export(answered, tmp_path / "out", old_columns=True)
    assert (done.answers, done.pictures) == (5, 5)
    with (tmp_path / "out" / "feedback.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "caption", "feedback"]
    assert rows[2][1:] == ["a red ball", '=1+1, a "green"\nball']
    assert outcomes(bring_in(other, tmp_path / "out")) == ["added"] * 5
    assert {row.feedback for row in other.feedback.rows()} == {row[2] for row in rows[1:]}
    assert {row.caption for row in other.feedback.rows()} == {"a snowboarder"}


def test_a_text_changed_in_the_export_is_another_answer(
    answered: Workflow, other: Workflow, tmp_path: Path
) -> None:
    export(answered, tmp_path / "out")
    path = tmp_path / "out" / "metadata.csv"
    path.write_text(path.read_text().replace("a red ball,", "a cherry,", 1))
    results = bring_in(answered, tmp_path / "out")
    assert outcomes(results).count("added") == 1
    (row,) = [one.row for one in results if one.row]
    assert (row.feedback, row.verdict, row.caption) == ("a cherry", Verdict.CORRECTED, "a red ball")
    assert len({one.id for one in answered.feedback.rows()}) == len(answered.feedback.rows())
    assert set(outcomes(bring_in(answered, tmp_path / "out"))) == {"known"}
    assert set(outcomes(bring_in(other, tmp_path / "out"))) == {"added"}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", "../../etc", "32 hexadecimal"),
        ("created_at", "yesterday", "not a moment"),
        ("created_at", "2026-13-01T00:00:00Z", "do not hold an answer"),
        ("verdict", "perhaps", "do not hold an answer"),
        ("reasons", "ugly", "do not hold an answer"),
        ("model_caption", "a\0b", "NUL"),
    ],
)
def test_cells_of_an_export_are_checked(
    workflow: Workflow, folder: Path, column: str, value: str, reason: str
) -> None:
    cells = dict.fromkeys(OUR_COLUMNS, "") | {
        "id": "a" * 32,
        "created_at": "2026-01-01T00:00:00.000Z",
        "model_caption": "a dog",
        "verdict": "corrected",
        "model_version": "fake-0",
    }
    header = ("file_name", "caption", *OUR_COLUMNS)
    rows = [("red.png", "a tomato", *(cells | {column: value}).values())]
    table(folder, [header, *rows, ("green.png", "a pea", *cells.values())])
    broken, fine = bring_in(workflow, folder)
    assert (broken.outcome, fine.outcome) == ("skipped", "added")
    assert reason in broken.problem


def test_an_export_never_touches_what_is_there(answered: Workflow, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for there in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ExportFailed, match="is there already"):
            export(answered, there)
    (tmp_path / "empty").mkdir()
    export(answered, tmp_path / "empty")
    assert (tmp_path / "empty" / "metadata.csv").is_file()
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_an_export_is_whole_or_not_there(
    answered: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(ExportFailed, match="No space left"):
        export(answered, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_pictures_that_are_gone_are_named(answered: Workflow, tmp_path: Path) -> None:
    gone = answered.feedback.rows()[0].image_id
    answered.store.delete(gone)
    done = export(answered, tmp_path / "out")
    assert (done.answers, done.pictures, done.missing) == (6, 4, (gone,))


def test_nothing_to_export(workflow: Workflow, tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="no answers yet"):
        export(workflow, tmp_path / "out")
    assert not (tmp_path / "out").exists()
