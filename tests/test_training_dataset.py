"""Imagefolders and feedback rows: what becomes an example, and which fault is named how."""

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionapp.errors import InvalidDataset
from captionapp.feedback.rows import FeedbackRow, Verdict
from captionapp.image_store import ImageStore
from captionapp.images import ImageLimits, decode
from captionapp.training.dataset import (
    FeedbackDataset,
    load_feedback_dataset,
    normalise_caption,
    read_imagefolder,
)
from captionapp.training.split import Side, Sides
from captionapp.workflow import Workflow
from tests.conftest import encoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files; they are never decoded here."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> None:
    (folder / "metadata.csv").write_bytes(text.encode(encoding))


def test_one_caption_a_picture(folder: Path) -> None:
    write(folder, 'file_name,caption\na.jpg,"a dog, running"\nb.jpg,a cat\n')
    examples = read_imagefolder(folder)
    assert [e.path.name for e in examples] == ["a.jpg", "b.jpg"]
    assert examples[0].captions == ("a dog, running",)


def test_several_captions_without_the_empty_ones(folder: Path) -> None:
    write(folder, "file_name,caption_0,caption_1,caption_2,source\na.jpg,one, ,three,x\n")
    assert read_imagefolder(folder)[0].captions == ("one", "three")


@pytest.mark.parametrize(
    ("table", "captions"),
    [
        ("file_name,text\na.jpg,a dog\n", ("a dog",)),
        ("file_name,text,caption\na.jpg,http://example.org,a dog\n", ("a dog",)),
    ],
)
def test_text_is_the_caption_where_no_column_is_called_that(folder, table, captions) -> None:
    write(folder, table)
    assert read_imagefolder(folder)[0].captions == captions


def test_quotation_marks_in_a_cell_without_any_around_it_are_its_own(folder: Path) -> None:
    write(folder, 'file_name,caption\na.jpg,a 5" disk and a "stop" sign\n')
    assert read_imagefolder(folder)[0].captions == ('a 5" disk and a "stop" sign',)


def test_a_byte_order_mark_is_no_part_of_the_header(folder: Path) -> None:
    write(folder, "file_name,caption\na.jpg,ein Bär\n", encoding="utf-8-sig")
    assert read_imagefolder(folder)[0].captions == ("ein Bär",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,caption\na.jpg,x\n", "no column file_name"),
        ("file_name,captions\na.jpg,x\n", "no column caption"),
        ("", "no column file_name"),
        ("file_name,caption\nc.jpg,x\n", "row 2: there is no picture c.jpg"),
        ("file_name,caption\na.jpg,\n", "row 2: a.jpg has no caption"),
        ("file_name,caption\na.jpg\n", "row 2: a.jpg has no caption"),
        ("file_name,caption\n../a.jpg,x\n", "not the name of a file in the folder"),
        ("file_name,caption\n/etc/passwd,x\n", "not the name of a file in the folder"),
        ("file_name,caption\n,x\n", "not the name of a file in the folder"),
        ("file_name,caption\na\0.jpg,x\n", "not the name of a file in the folder"),
        ("file_name,caption\na.jpg,red, and blue\n", "row 2 has more cells than there are columns"),
        ("file_name,caption\na.jpg,x\na.jpg,y\n", "lists a.jpg twice"),
        ('file_name,caption\na.jpg,x\nb.jpg,"open\nc.jpg,z\n', "after row 2: is a quotation mark"),
    ],
)
def test_faults_are_named(folder: Path, text: str, reason: str) -> None:
    write(folder, text)
    with pytest.raises(InvalidDataset, match=reason):
        read_imagefolder(folder)


def test_a_missing_picture_may_be_left_to_who_opens_it(folder: Path) -> None:
    write(folder, "file_name,caption\na.jpg,x\nc.jpg,y\n")
    examples = read_imagefolder(folder, must_exist=False)
    assert [example.path for example in examples] == [folder / "a.jpg", folder / "c.jpg"]


def test_a_folder_without_metadata_is_no_imagefolder(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="has no metadata.csv"):
        read_imagefolder(tmp_path)


def test_other_encodings_are_refused(folder: Path) -> None:
    write(folder, "file_name,caption\na.jpg,ein Bär\n", encoding="latin-1")
    with pytest.raises(InvalidDataset, match="cannot be read"):
        read_imagefolder(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A dog .", "a dog"), ("  Two\tdogs. ", "two dogs"), ("a t.v. set", "a t.v. set"), (".", "")],
)
def test_captions_are_normalised_for_training(text: str, expected: str) -> None:
    assert normalise_caption(text) == expected


# Feedback rows


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "uploads")


def stored(store: ImageStore, number: int) -> str:
    """Stores a picture that is like no other; returns its id."""
    colours = random.Random(number).randbytes(12 * 9 * 3)
    picture = Image.frombytes("RGB", (12, 9), colours).resize((96, 72), Image.Resampling.BICUBIC)
    image = decode(encoded(picture), ImageLimits())
    store.add(image)
    return image.image_id


def row(image_id: str, feedback: str, said: str = "a dog", **other: Any) -> FeedbackRow:
    verdict = Verdict.ACCEPTED if feedback == said else Verdict.CORRECTED
    fields = {
        "id": f"{feedback}-{image_id}",
        "created_at": "2026-01-01T00:00:00.000Z",
        "image_name": "ball.png",
        "reasons": (),
        "model_version": "fake-1",
        "contributor": "anna",
    }
    return FeedbackRow(
        image_id=image_id, caption=said, feedback=feedback, verdict=verdict, **(fields | other)
    )


def load(
    workflow: Workflow, store: ImageStore, rows: list[FeedbackRow], share: float = 0.5
) -> FeedbackDataset:
    return load_feedback_dataset(rows, store, Sides(workflow.records, 0, share))


def test_both_verdicts_become_examples(workflow: Workflow, store: ImageStore) -> None:
    corrected, accepted = stored(store, 1), stored(store, 2)
    rows = [row(corrected, "A  Raccoon."), row(accepted, "A dog .", said="A dog .")]
    dataset = load(workflow, store, rows)
    found = {one.image_id: one for one in dataset.train + dataset.held_out}
    assert found[corrected].caption == "a raccoon"
    assert found[corrected].verdict is Verdict.CORRECTED
    assert found[accepted].caption == "a dog"
    assert (found[accepted].said, found[accepted].model_version) == ("A dog .", "fake-1")
    assert found[corrected].example.path == store.path(corrected)
    assert found[corrected].example.captions == ("a raccoon",)


def test_the_latest_answer_counts_whoever_gave_it(workflow: Workflow, store: ImageStore) -> None:
    image_id = stored(store, 1)
    rows = [row(image_id, "a cat"), row(image_id, "a raccoon", contributor="bert")]
    assert [e.caption for side in _sides(load(workflow, store, rows)) for e in side] == [
        "a raccoon"
    ]


def test_examples_are_on_the_side_of_their_picture(workflow: Workflow, store: ImageStore) -> None:
    rows = [row(stored(store, number), "a raccoon") for number in range(30)]
    dataset = load(workflow, store, rows)
    assert {one.side for one in dataset.train} == {Side.TRAIN}
    assert {one.side for one in dataset.held_out} == {Side.HELD_OUT}
    assert len(dataset.train) + len(dataset.held_out) == 30
    train = {one.image_id for one in dataset.train}
    more = [row(stored(store, number), "a raccoon") for number in range(30, 40)]
    assert train <= {one.image_id for one in load(workflow, store, more + rows, 0.9).train}


def test_what_is_no_example_is_named_and_not_fatal(workflow: Workflow, store: ImageStore) -> None:
    gone, torn, broken, wordless, fine = (stored(store, number) for number in range(5))
    store.delete(gone)
    store.path(torn).write_bytes(store.path(torn).read_bytes()[:99])
    whole = bytearray(store.path(broken).read_bytes())
    whole[20:60] = bytes(40)
    store.path(broken).write_bytes(whole)
    rows = [row(one, "a raccoon") for one in (gone, torn, broken, fine)] + [row(wordless, " . ")]
    dataset = load(workflow, store, rows)
    reasons = {one.image_id: one.reason for one in dataset.skipped}
    assert reasons.keys() == {gone, torn, broken, wordless}
    assert "no longer stored" in reasons[gone]
    assert "damaged" in reasons[torn] and "damaged" in reasons[broken]
    assert "no word" in reasons[wordless]
    assert [one.image_id for side in _sides(dataset) for one in side] == [fine]


def test_a_picture_that_ties_both_sides_together_is_in_neither(
    workflow: Workflow, store: ImageStore
) -> None:
    image_id = stored(store, 1)

    class Tied(Sides):
        def assign(self, pictures: Any) -> dict[str, Side | None]:
            return {one: None for one, _ in pictures}

    dataset = load_feedback_dataset(
        [row(image_id, "a raccoon")], store, Tied(workflow.records, 0, 0.2)
    )
    assert _sides(dataset) == ((), ())
    assert "both sides" in dataset.skipped[0].reason


def test_the_fingerprint_is_of_what_is_taught(workflow: Workflow, store: ImageStore) -> None:
    one, other = stored(store, 1), stored(store, 2)
    rows = [row(one, "a raccoon"), row(other, "a cat")]
    before = load(workflow, store, rows).fingerprint
    same = [row(other, "A cat."), row(one, "a bird"), row(one, "a raccoon", contributor="bert")]
    assert load(workflow, store, same).fingerprint == before
    assert len(before) == 64
    for changed in (rows[:1], [rows[0], row(other, "a lynx")]):
        assert load(workflow, store, changed).fingerprint != before


def test_held_out_near_duplicates_are_one_group(workflow: Workflow, store: ImageStore) -> None:
    one, other = stored(store, 1), stored(store, 2)
    smaller = decode(encoded(store.load(one).resize((48, 36))), ImageLimits())
    store.add(smaller)
    rows = [row(image_id, "a raccoon") for image_id in (one, other, smaller.image_id)]
    held_out = load(workflow, store, rows, share=0.999).held_out
    assert {one.image_id: one.group for one in held_out} == {
        one: min(one, smaller.image_id),
        smaller.image_id: min(one, smaller.image_id),
        other: other,
    }


def test_the_workflow_s_own_answers(workflow: Workflow) -> None:
    workflow.feedback.append(row(stored(workflow.store, 1), "a raccoon"))
    dataset = workflow.feedback_dataset()
    assert [one.caption for side in _sides(dataset) for one in side] == ["a raccoon"]
    assert dataset.seed == workflow.settings.split_seed


def _sides(dataset: FeedbackDataset) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return dataset.train, dataset.held_out
