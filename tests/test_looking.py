from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captionapp import looking
from captionapp.caption_records import CaptionRecord
from captionapp.captioning.captioner import Caption, DecodeOptions, Looks
from captionapp.errors import CaptionFailed
from captionapp.images import ImageLimits, decode
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded
from tests.recorded import hold

CORNERS = Looks(2, 2, ((0.7, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.7), (0.25, 0.25, 0.25, 0.25)))


def veil(looks: Looks, word: int, picture: Image.Image) -> tuple[Image.Image, np.ndarray]:
    image = Image.open(io.BytesIO(looking.drawn(looks, word, picture)))
    return image, np.asarray(image.getchannel("A"))


def test_the_veil_is_thin_where_the_word_looked_and_nowhere_else() -> None:
    picture = draw(size=(300, 200))
    for word, corner in ((0, (0, 0)), (1, (-1, -1))):
        image, thickness = veil(CORNERS, word, picture)
        assert image.size == (480, 320)
        corners = {(y, x): int(thickness[y, x]) for y in (0, -1) for x in (0, -1)}
        assert corners.pop(corner) < 20
        assert min(corners.values()) > 150


def test_what_all_words_look_at_is_taken_off_each() -> None:
    sink = Looks(2, 1, ((0.8, 0.2), (0.9, 0.1), (0.9, 0.1)))
    _, thickness = veil(sink, 0, draw())
    assert thickness[24, -1] < 60  # a quarter of the attention, and twice what others gave it


def test_a_word_that_looked_like_all_others_is_shown_as_it_looked() -> None:
    _, thickness = veil(Looks(2, 1, ((0.9, 0.1),)), 0, draw())
    assert thickness[24, 0] < thickness[24, -1]


def test_over_a_dark_picture_the_veil_is_light() -> None:
    assert veil(CORNERS, 0, Image.new("RGB", (40, 30), "#111"))[0].getpixel((0, 0))[0] > 100
    assert veil(CORNERS, 0, Image.new("RGB", (40, 30), "#ddd"))[0].getpixel((0, 0))[0] == 0


@pytest.mark.parametrize(
    "probabilities, expected", [([0.5, 0.1, None], 1), ([None, None], 0), ([], 0)]
)
def test_it_begins_with_the_word_it_was_least_sure_of(
    probabilities: list[float | None], expected: int
) -> None:
    assert looking.most_unsure(probabilities) == expected


@pytest.fixture
def caption(workflow: Workflow) -> CaptionRecord:
    return kept(workflow, "a red ball")


def kept(workflow: Workflow, text: str, version: str = "fake-1") -> CaptionRecord:
    """A caption of a stored picture."""
    image = decode(encoded(draw()), ImageLimits())
    workflow.store.add(image)
    hold(workflow.records, image.image_id, "somebody")
    made = Caption(text, 0.5, version, DecodeOptions(), 0.1)
    caption_id = workflow.captions.add(image.image_id, made)
    assert caption_id
    return workflow.captions.get(image.image_id, caption_id)


def test_a_caption_is_looked_at_once_for_all_its_words(
    workflow: Workflow, caption: CaptionRecord, captioner: FakeCaptioner
) -> None:
    with ThreadPoolExecutor(8) as pool:
        veils = list(pool.map(lambda word: workflow.looking.veil(caption, word), [0, 1, 2] * 3))
    assert captioner.looked == ["a red ball"]
    assert len(set(veils)) == 3


def test_only_so_many_are_kept(
    workflow: Workflow, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "KEPT", 2)
    captions = [kept(workflow, f"a ball {number}") for number in range(3)]
    for one in [*captions, captions[2], captions[1]]:
        workflow.looking.at(one)
    assert len(captioner.looked) == 3
    workflow.looking.at(captions[0])
    assert captioner.looked[-1] == "a ball 0" and len(captioner.looked) == 4


def test_what_another_version_wrote_is_not_looked_at_by_this_one(
    workflow: Workflow, captioner: FakeCaptioner
) -> None:
    with pytest.raises(CaptionFailed, match="Another version"):
        workflow.looking.at(kept(workflow, "a dog", "older"))
    assert captioner.looked == []


def test_a_failure_is_not_kept(
    workflow: Workflow, caption: CaptionRecord, captioner: FakeCaptioner
) -> None:
    working: Any = captioner.look

    def fail(image: Image.Image, text: str) -> Looks:
        raise CaptionFailed("not now")

    captioner.look = fail  # type: ignore[method-assign]
    with pytest.raises(CaptionFailed):
        workflow.looking.at(caption)
    captioner.look = working  # type: ignore[method-assign]
    done = threading.Event()
    for _ in range(100):  # the callback that forgets it runs in the queue's thread
        if not workflow.looking._kept:
            break
        done.wait(0.05)
    assert workflow.looking.at(caption).columns == 2
