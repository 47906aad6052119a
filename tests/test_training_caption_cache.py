from __future__ import annotations

from pathlib import Path

import pytest

from captionapp.captioning.captioner import DecodeOptions
from captionapp.training import caption_cache
from captionapp.training.caption_cache import CaptionCache, options_key

GREEDY, BEAMS = "greedy", "beams"


@pytest.fixture
def cache(tmp_path: Path) -> CaptionCache:
    return CaptionCache(tmp_path / "evaluations" / "captions.db")


def test_a_caption_is_known_by_version_picture_and_options(cache: CaptionCache) -> None:
    cache.add_captions("v1", {"p1": "a dog", "p2": ""}, GREEDY)
    assert cache.captions("v1", ["p1", "p2", "p3"], GREEDY) == {"p1": "a dog", "p2": ""}
    assert cache.captions("v1", ["p1"], BEAMS) == {}
    assert cache.captions("v2", ["p1"], GREEDY) == {}


def test_the_key_is_of_all_that_a_caption_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = options_key(DecodeOptions(num_beams=1), "fp32")
    assert key == options_key(DecodeOptions(num_beams=1), "fp32")
    assert key != options_key(DecodeOptions(num_beams=3), "fp32")
    assert key != options_key(DecodeOptions(num_beams=1), "bf16")
    monkeypatch.setattr(caption_cache, "_libraries", lambda: "transformers 99")
    assert key != options_key(DecodeOptions(num_beams=1), "fp32")


def test_more_pictures_than_fit_in_one_query(cache: CaptionCache) -> None:
    texts = {f"p{number}": f"caption {number}" for number in range(1201)}
    cache.add_captions("v1", texts, GREEDY)
    assert cache.captions("v1", list(texts), GREEDY) == texts


def test_a_version_is_forgotten_and_contrasts_stay(cache: CaptionCache) -> None:
    cache.forget("v1")  # there is nothing yet, and nothing is made
    assert not cache.path.exists()
    cache.add_captions("v1", {"p1": "a dog"}, GREEDY)
    cache.add_captions("v2", {"p1": "a cat"}, GREEDY)
    cache.add_contrasts({"p1": 12.5})
    cache.forget("v1")
    assert cache.captions("v1", ["p1"], GREEDY) == {}
    assert cache.captions("v2", ["p1"], GREEDY) == {"p1": "a cat"}
    assert cache.contrasts(["p1", "p2"]) == {"p1": 12.5}
