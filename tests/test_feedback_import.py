"""Data sets in: what becomes of them, and what a broken or hostile one cannot do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionapp.errors import FeedbackStoreError, InvalidDataset, ModelUnavailable, StorageFull
from captionapp.feedback.interchange import read_entries
from captionapp.feedback.repository import Verdict
from captionapp.images import ImageLimits, decode
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded, serve
from tests.datasets import COLOURS, bring_in, drawn, metadata, outcomes, table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawn(tmp_path / "folder")


def test_an_imagefolder_becomes_whole_rows(workflow: Workflow, folder: Path) -> None:
    metadata(folder, ("red.png", "A red ball."), ("green.png", "a green ball, on grass"))
    assert outcomes(bring_in(workflow, folder)) == ["added", "added"]
    accepted, corrected = workflow.feedback.rows()
    assert (accepted.verdict, accepted.feedback) == (Verdict.ACCEPTED, "a red ball")
    assert (corrected.verdict, corrected.feedback) == (Verdict.CORRECTED, "a green ball, on grass")
    for row, colour in ((accepted, "red"), (corrected, "green")):
        assert row.caption == "a red ball"
        assert row.model_version == "fake-1"
        assert row.contributor == "import"
        assert row.image_name == f"{colour}.png"
        assert workflow.store.load(row.image_id).tobytes() == draw(colour).tobytes()
        shown = workflow.picture(row.image_id, None)  # the operator's page of it
        assert shown.caption and shown.caption.text == "a red ball"
        assert shown.name == f"{colour}.png"


def test_pictures_are_captioned_in_batches_and_once(
    make_app: Any, captioner: FakeCaptioner, folder: Path
) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_BATCH_SIZE=4).extensions["captionapp"]
    metadata(folder, *[(f"{colour}.png", f"a {colour} thing") for colour in COLOURS])
    bring_in(workflow, folder)
    assert [size for size, _ in captioner.calls] == [4, 4, 2]
    metadata(folder, *[(f"{colour}.png", f"another {colour} thing") for colour in COLOURS])
    assert outcomes(bring_in(workflow, folder)) == ["added"] * 10
    assert len(captioner.calls) == 3  # what the version says of them is known


def test_the_same_answers_again_add_nothing(workflow: Workflow, folder: Path) -> None:
    answers = [
        ("red.png", "A red ball."),
        ("green.png", "a green ball"),
        ("blue.png", "a BLUE one"),
    ]
    metadata(folder, *answers)
    bring_in(workflow, folder)
    before = workflow.feedback.path.read_bytes()
    assert outcomes(bring_in(workflow, folder)) == ["known"] * 3
    serve(workflow, FakeCaptioner("fake-2", ["a blue one"]))
    assert outcomes(bring_in(workflow, folder)) == ["known"] * 3
    assert workflow.feedback.path.read_bytes() == before
    metadata(folder, *answers, ("red.png", "a tomato"))
    assert outcomes(bring_in(workflow, folder)) == ["known", "known", "known", "added"]


def test_the_same_picture_and_answer_twice_in_one_batch_is_one(
    workflow: Workflow, folder: Path
) -> None:
    Image.open(folder / "red.png").save(folder / "red.bmp")
    metadata(folder, ("red.png", "a tomato"), ("red.bmp", "A tomato"), ("red.bmp", "a cherry"))
    assert outcomes(bring_in(workflow, folder)) == ["added", "known", "added"]
    assert [row.feedback for row in workflow.feedback.rows()] == ["a tomato", "a cherry"]


def test_an_answer_given_in_the_browser_is_known(workflow: Workflow, folder: Path) -> None:
    metadata(folder, ("red.png", "a tomato"))
    bring_in(workflow, folder)
    (row,) = workflow.feedback.rows()
    workflow.feedback.append(replace(row, id="1" * 32, feedback="a cherry", contributor="ann"))
    metadata(folder, ("red.png", "a cherry"))
    assert outcomes(bring_in(workflow, folder)) == ["known"]


def test_the_first_of_several_captions_counts(workflow: Workflow, folder: Path) -> None:
    rows = [("caption_0", "caption_1", "file_name"), ("", "a tomato", "red.png")]
    table(folder, rows)
    bring_in(workflow, folder)
    assert workflow.feedback.rows()[0].feedback == "a tomato"


def test_the_caption_may_be_called_text(workflow: Workflow, folder: Path) -> None:
    table(folder, [("file_name", "text"), ("red.png", "a tomato")])
    bring_in(workflow, folder)
    assert workflow.feedback.rows()[0].feedback == "a tomato"


def test_the_three_old_columns(workflow: Workflow, folder: Path) -> None:
    path = table(
        folder,
        [("image", "caption", "feedback"), ("red.png", "x", "a tomato"), ("gold.png", "x", "")],
        "old.csv",
    )
    added, skipped = bring_in(workflow, path)
    assert added.row and (added.row.caption, added.row.feedback) == ("a red ball", "a tomato")
    assert "no text" in skipped.problem


def test_what_nobody_has_answered_is_no_answer(workflow: Workflow, folder: Path) -> None:
    """The gallery exports those too; what a person changed in the table is an answer."""
    header = ("file_name", "caption", "verdict", "model_caption")
    table(folder, [header, ("red.png", "a dog", "", "A dog."), ("blue.png", "a wolf", "", "a dog")])
    results = bring_in(workflow, folder)
    assert outcomes(results) == ["skipped", "added"]
    assert "Nobody has said" in results[0].problem
    assert [row.feedback for row in workflow.feedback.rows()] == ["a wolf"]


def test_texts_are_kept_to_the_letter(workflow: Workflow, folder: Path) -> None:
    texts = [
        '=HYPERLINK("http://x.example")',
        'say "cheese",\nplease',
        "ein Bär, 熊 🦝",
        "'quoted'",
    ]
    metadata(folder, *[(f"{COLOURS[i]}.png", text) for i, text in enumerate(texts)])
    bring_in(workflow, folder)
    assert [row.feedback for row in workflow.feedback.rows()] == texts


def test_one_broken_row_takes_nothing_from_the_others(
    workflow: Workflow, folder: Path, tmp_path: Path
) -> None:
    (folder / "torn.png").write_bytes(encoded(draw())[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "sub").mkdir()
    (tmp_path / "outside.png").write_bytes(encoded(draw("red")))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "inside.png").symlink_to(folder / "red.png")
    os.mkfifo(folder / "pipe.png")
    broken = {
        "torn.png": "damaged or incomplete",
        "text.png": "not a picture",
        "empty.png": "empty",
        "missing.png": "There is no picture",
        "sub": "There is no picture",
        "pipe.png": "There is no picture",
        "": "There is no picture",
        "../outside.png": "not a file inside",
        "sub/../../outside.png": "not a file inside",
        str(tmp_path / "outside.png"): "not a file inside",
        str(folder / "red.png"): "not a file inside",
        "link.png": "not a file inside",
        "loop.png": "",
        "a\0b.png": "",
        "x" * 5000: "",
    }
    rows = [(name, "a tomato") for name in broken]
    odd = ("gold.png", "\x07")
    metadata(folder, ("green.png", "a pea"), *rows, odd, ("inside.png", "a tomato"))
    first, *middle, last = bring_in(workflow, folder)
    assert (first.outcome, last.outcome) == ("added", "added")
    for result, expected in zip(middle[:-1], broken.values(), strict=True):
        assert (result.outcome, expected in result.problem) == ("skipped", True), result
        assert result.problem.endswith(".")
    assert "character that cannot be kept" in middle[-1].problem
    assert middle[0].where == "metadata.csv, row 3: torn.png"


def test_limits_are_those_of_uploads(make_app: Any, folder: Path) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_MAX_FILE_MB=1).extensions["captionapp"]
    with (folder / "red.png").open("ab") as file:
        file.truncate(3_000_000_000)  # a hole: nobody reads three gigabytes
    metadata(folder, ("red.png", "a tomato"), ("gold.png", "y" * 1001))
    large, long = bring_in(workflow, folder)
    assert "more than 1 MB" in large.problem
    assert "1001 characters" in long.problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"columns \(none\)"),
        (b"name,caption\nred.png,x\n", "columns name, caption; needed are"),
        (b"id,image_id,caption,feedback\n", "needed are file_name and caption .or text., or image"),
        (
            "file_name,caption\nred.png,ein Bär\n".encode("latin-1"),
            "cannot be read as CSV in UTF-8",
        ),
        (b"file_name,caption\nred.png," + b"x" * 200_000, "cannot be read as CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "cannot be read as CSV"),
        (
            b'file_name,caption\nred.png,x\nred.png,"open\ngreen.png,y\n',
            "after row 2: is a quotation",
        ),
        (b'file_name,caption\nred.png,"a "red" ball"\n', "after row 1: is a quotation"),
        (b'file_name,caption\nred.png,"a ball" \n', "after row 1.*or is there a blank behind it"),
    ],
)
def test_tables_of_another_form_are_refused(folder: Path, content: bytes, reason: str) -> None:
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(InvalidDataset, match=reason):
        read_entries(folder)


def test_a_folder_without_a_table_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"has no metadata\.csv"):
        read_entries(folder)
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(InvalidDataset, match="is not a file"):
        read_entries(folder / "pipe.csv")


def test_a_comma_that_was_not_quoted_is_named(workflow: Workflow, folder: Path) -> None:
    (folder / "old.csv").write_text(
        "image,caption,feedback\nred.png,x,a ball, red\ngreen.png,x\n", encoding="utf-8-sig"
    )
    more, fewer = bring_in(workflow, folder / "old.csv")
    assert "more cells" in more.problem and "no text" in fewer.problem


def test_a_picture_that_the_model_fails_on_is_not_kept(workflow: Workflow, folder: Path) -> None:
    failures = [ValueError("batch"), "a pea", ValueError("odd picture"), "a plum"]
    serve(workflow, FakeCaptioner("fake-1", failures))
    metadata(folder, ("green.png", "a pea"), ("red.png", "a tomato"), ("blue.png", "a plum"))
    results = bring_in(workflow, folder)
    assert outcomes(results) == ["added", "skipped", "added"]
    assert "odd picture" in results[1].problem
    assert [row.verdict for row in workflow.feedback.rows()] == [Verdict.ACCEPTED] * 2
    assert decode(encoded(draw("red")), ImageLimits()).image_id not in workflow.store


def test_without_a_model_nothing_is_taken_in(workflow: Workflow, folder: Path) -> None:
    def load(_: Any) -> Any:
        raise ModelUnavailable("There is none.")

    workflow.service._load = load
    metadata(folder, ("red.png", "a tomato"))
    with pytest.raises(ModelUnavailable):
        bring_in(workflow, folder)
    assert workflow.store.size_bytes() == 0 and not workflow.feedback.rows()


def test_what_was_said_to_be_added_is_kept_when_it_stops(
    make_app: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_BATCH_SIZE=2).extensions["captionapp"]
    metadata(folder, *[(f"{colour}.png", f"a {colour} thing") for colour in COLOURS])
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for result in workflow.import_feedback(read_entries(folder)):
            seen.append(result)
            if len(seen) == 5:
                raise KeyboardInterrupt
    assert {one.row for one in seen} <= set(workflow.feedback.rows())
    with monkeypatch.context() as patch, pytest.raises(StorageFull):
        patch.setattr(workflow.store, "add", _full)
        bring_in(workflow, folder)
    assert outcomes(bring_in(workflow, folder)) == ["known"] * 6 + ["added"] * 4
    assert [row.image_name for row in workflow.feedback.rows()] == [f"{c}.png" for c in COLOURS]


def _full(_: Any) -> None:
    raise StorageFull("There is no room.")


def test_one_import_at_a_time(make_app: Any, folder: Path) -> None:
    workflow: Workflow = make_app(CAPTIONAPP_BATCH_SIZE=1).extensions["captionapp"]
    metadata(folder, ("red.png", "a tomato"), ("green.png", "a pea"))
    first = workflow.import_feedback(read_entries(folder))
    assert next(first).outcome == "added"
    with pytest.raises(FeedbackStoreError, match="Another import is under way"):
        bring_in(workflow, folder)
    assert outcomes(list(first)) == ["added"]
