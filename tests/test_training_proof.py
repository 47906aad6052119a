from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import InvalidDataset, TooFewRows
from captionapp.settings import Settings
from captionapp.training import compare
from captionapp.training.caption_cache import CaptionCache
from captionapp.training.dataset import FeedbackDataset
from captionapp.training.proof import Prover, contrast
from captionapp.votes import Tally
from tests.conftest import draw
from tests.judging import SAID, Reader, dataset, imagefolder, loader, numbered


def version(name: str) -> ModelVersion:
    return ModelVersion(name, Path("nowhere"), "trained", "2026-01-01T00:00:00Z")


OLD, NEW = version("old"), version("new")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Prover]:
    def make(captioners: dict[str, Any], data: FeedbackDataset | None = None) -> Prover:
        settings = Settings(instance=tmp_path, batch_size=5)
        data = data or dataset(tmp_path / "pictures")
        cache = CaptionCache(tmp_path / "captions.db")
        tally = Tally(candidate=2, current=1)
        return Prover(settings, loader(captioners), cache, lambda: data, lambda *_: tally)

    return make


def readers(old: Callable[[int], str], new: Callable[[int], str]) -> dict[str, Reader]:
    return {"old": Reader("old", old), "new": Reader("new", new)}


def test_a_version_that_says_what_people_say_is_better(make: Any, tmp_path: Path) -> None:
    prover = make(readers(lambda _: "a dog", lambda n: SAID[n]))
    report = prover.report(NEW, OLD, prover.held_out())
    assert (report.verdict, report.probability_better) == ("better", 1.0)
    assert (report.count("win"), report.count("loss")) == (24, 0)
    assert report.candidate_figures.exact == report.pictures == report.compared == 24
    assert report.candidate_figures.distinct == 1 and report.current_figures.distinct == 1 / 24
    assert report.candidate_figures.edit_distance == 0
    assert report.votes == Tally(candidate=2, current=1)
    assert report.retained is None
    first = report.results[0]
    assert (first.current, first.candidate, first.references) == ("a dog", SAID[0], (SAID[0],))
    assert report.data_fingerprint == "f" * 64 and report.options["num_beams"] == 3
    compare.save_report(report, tmp_path / "evaluation.json")
    assert compare.read_report(tmp_path / "evaluation.json") == report


def test_fewer_corrections_than_asked_for_cannot_tell(make: Any, tmp_path: Path) -> None:
    few = dataset(tmp_path / "few", corrected=19, accepted=5)
    prover = make(readers(lambda _: "a dog", lambda n: SAID[n]), few)
    report = prover.report(NEW, OLD, prover.held_out())
    assert (report.pictures, report.compared) == (24, 19)
    assert (report.verdict, report.probability_better) == ("cannot tell", None)
    assert report.slices["accepted before"].pictures == 5


def test_acceptances_do_not_decide_about_corrections(make: Any, tmp_path: Path) -> None:
    """What was accepted are the words of the old version: a new one can only lose there."""
    data = dataset(tmp_path / "both", corrected=20, accepted=4)
    prover = make(readers(lambda n: "a dog" if n < 20 else SAID[n], lambda n: SAID[n % 20]), data)
    report = prover.report(NEW, OLD, prover.held_out())
    assert report.probability_better == 1
    assert report.slices["accepted before"].losses == 4


def test_a_second_run_costs_nothing(make: Any) -> None:
    captioners = readers(lambda _: "a dog", lambda n: SAID[n])
    prover = make(captioners)
    told: list[tuple[str, int, int]] = []
    first = prover.report(NEW, OLD, prover.held_out(), on_progress=lambda *x: told.append(x))
    assert captioners["old"].made == captioners["new"].made == 24
    assert told[0] == ("old", 5, 24) and told[-1] == ("new", 24, 24)
    captioners.clear()  # nothing can be loaded any more
    second = prover.report(NEW, OLD, prover.held_out())
    assert dataclasses.replace(second, created_at=first.created_at) == first


def test_only_what_is_missing_is_captioned(make: Any, tmp_path: Path) -> None:
    captioners = readers(lambda _: "a dog", lambda n: SAID[n])
    prover = make(captioners)
    prover.captions(OLD, prover.held_out().pictures[:7])
    prover.captions(OLD, prover.held_out().pictures)
    assert captioners["old"].made == 24
    # The same pictures elsewhere, under other names, are known by their content.
    folder = imagefolder(tmp_path / "a", range(3))
    prover.captions(OLD, prover.folder(folder).pictures)
    (tmp_path / "a").rename(tmp_path / "b")
    prover.captions(OLD, prover.folder(tmp_path / "b").pictures)
    assert captioners["old"].made == 27


def test_words_that_all_corrections_share_count_beside_retained_pictures(
    make: Any, tmp_path: Path
) -> None:
    data = dataset(tmp_path / "pictures")
    same = [dataclasses.replace(one, caption="a raccoon") for one in data.held_out]
    data = dataclasses.replace(data, held_out=tuple(same))
    prover = make(readers(lambda _: "a dog", lambda _: "a raccoon"), data)
    alone = prover.report(NEW, OLD, prover.held_out())
    assert alone.candidate_figures.cider == 0  # in every reference: worth nothing
    retained = prover.folder(imagefolder(tmp_path / "retained", range(12)))
    beside = prover.report(NEW, OLD, prover.held_out(), retained)
    assert beside.candidate_figures.cider > 1
    assert beside.verdict == "better"


def test_what_was_retained_and_what_was_lost(make: Any, tmp_path: Path) -> None:
    prover = make(readers(lambda n: SAID[n], lambda n: SAID[n] if n % 2 else "a raccoon"))
    retained = prover.folder(imagefolder(tmp_path / "retained", range(20)))
    report = prover.report(NEW, OLD, prover.held_out(), retained)
    assert report.retained is not None
    assert report.retained.pictures == 20
    assert report.retained.current_figures.exact == 20
    assert 0.3 < report.retained.loss < 0.7
    assert report.pictures == len(report.results) == 24  # retained pictures are counted apart


def test_a_version_without_words_says_nothing(make: Any) -> None:
    prover = make(readers(lambda n: SAID[n], lambda n: "" if n == 3 else SAID[n]))
    report = prover.report(NEW, OLD, prover.held_out())
    assert report.candidate_figures.empty == 1
    assert report.results[3].candidate == ""
    assert report.results[3].outcome == "loss"


def test_pictures_that_cannot_be_read_are_left_out_and_named(make: Any, tmp_path: Path) -> None:
    prover = make(readers(lambda _: "a dog", lambda n: SAID[n]))
    folder = imagefolder(tmp_path / "data", range(5))
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "4.png").unlink()
    given = prover.folder(folder)
    assert [one.image_id for one in given.pictures] == ["0.png", "1.png", "3.png"]
    report = prover.report(NEW, OLD, given)
    assert (report.skipped, report.pictures) == (("2.png", "4.png"), 3)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(InvalidDataset, match="can be read"):
        prover.folder(folder)


def test_pictures_of_one_name_in_several_folders_are_several(make: Any, tmp_path: Path) -> None:
    """As in a folder that has one for each class."""
    prover = make(readers(lambda _: "a dog", lambda n: SAID[n]))
    lines = ["file_name,caption"]
    for number, inner in enumerate(("birds", "raccoons")):
        numbered(tmp_path / "data" / inner, number).rename(tmp_path / "data" / inner / "1.png")
        lines.append(f"{inner}/1.png,{SAID[number]}")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    report = prover.report(NEW, OLD, prover.folder(tmp_path / "data"))
    assert [row.image_id for row in report.results] == ["birds/1.png", "raccoons/1.png"]
    assert report.compared == 2


def test_the_fingerprint_is_of_pictures_and_captions(make: Any, tmp_path: Path) -> None:
    prover = make({})
    first = prover.folder(imagefolder(tmp_path / "a", range(5))).fingerprint
    assert prover.folder(imagefolder(tmp_path / "b", range(5))).fingerprint == first
    folder = imagefolder(tmp_path / "c", range(5))
    metadata = folder / "metadata.csv"
    metadata.write_text(metadata.read_text().replace(SAID[0], "a cat"))
    assert prover.folder(folder).fingerprint != first


def test_no_held_out_answers_is_said(make: Any, tmp_path: Path) -> None:
    prover = make({}, FeedbackDataset((), (), (), "", 0))
    with pytest.raises(TooFewRows, match="20 held-out corrections are needed, and about 20%"):
        prover.held_out()


def test_contrast() -> None:
    from PIL import Image

    assert contrast(Image.new("RGB", (8, 8), "grey")) == 0
    assert contrast(draw("black")) > 20
    half = Image.new("L", (8, 8), 0)
    half.paste(255, (0, 0, 4, 8))
    assert contrast(half) == pytest.approx(127.5)
