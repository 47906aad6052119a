from __future__ import annotations

import pytest

from captionapp.caption_records import CaptionRecords
from captionapp.captioning.captioner import DecodeOptions
from captionapp.errors import NotFound
from captionapp.records import Records
from tests.recorded import KEY, OPTIONS, caption, hold


@pytest.fixture
def captions(records: Records) -> CaptionRecords:
    return CaptionRecords(records)


def test_a_caption_is_read_back_as_it_was_made(records: Records, captions: CaptionRecords) -> None:
    hold(records, "p1", "anna")
    caption_id = captions.add("p1", caption())
    assert caption_id
    kept = captions.get("p1", caption_id)
    assert (kept.text, kept.probability, kept.model_version, kept.seconds) == (
        "a dog",
        0.25,
        "v1",
        0.5,
    )
    assert DecodeOptions.from_key(KEY) == OPTIONS
    assert kept.options["num_beams"] == OPTIONS.num_beams
    hold(records, "p2", "anna")
    with pytest.raises(NotFound):
        captions.get("p2", caption_id)


def test_captions_of_several_pictures_newest_first(
    records: Records, captions: CaptionRecords
) -> None:
    hold(records, "p1", "anna")
    hold(records, "p2", "anna")
    captions.add("p1", caption("old", "v1"))
    captions.add("p1", caption("new", "v2"))
    captions.add("p2", caption("other"))
    found = captions.of(["p1", "p2"])
    assert [one.text for one in found["p1", KEY]] == ["new", "old"]
    assert [one.text for one in found["p2", KEY]] == ["other"]


def test_of_captions_added_together_those_of_pictures_that_are_gone_are_dropped(
    records: Records, captions: CaptionRecords
) -> None:
    hold(records, "p1", "anna")
    kept, dropped = captions.add_all([("p1", caption()), ("gone", caption())])
    assert kept and captions.get("p1", kept).text == "a dog"
    assert dropped is None


def test_a_caption_of_a_picture_that_is_gone_is_dropped(captions: CaptionRecords) -> None:
    assert captions.add("p1", caption()) is None
