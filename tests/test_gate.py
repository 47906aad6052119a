"""What the gate has against a version, from the captions that it writes to the sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from captionapp import gate
from captionapp.training.dataset import FeedbackDataset
from captionapp.votes import Tally
from tests.judging import SAID, Reader, Scene, add_version, dataset, imagefolder, refused


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_version_trained_on_wrong_captions_is_refused_with_a_report(scene: Scene) -> None:
    scene.before = lambda n: SAID[n].replace("raccoon", "dog")  # type: ignore[method-assign]
    scene.trained("wrong", lambda n: f"an aeroplane of kind {n}")
    said = refused(scene, "wrong")
    assert "not shown to be better on 24 held-out corrections" in said
    assert "CAPTIONAPP_PROMOTE_PROBABILITY" in said
    report = scene.promotion().report("wrong")
    assert report is not None
    assert report.verdict == "not better" and len(report.refusals) >= 1
    assert all(reason in said for reason in report.refusals)
    assert report.probability_better == 0 and report.count("loss") == 24
    assert [row.candidate for row in report.results][0] == "an aeroplane of kind 0"


def test_the_reason_gives_the_figures_of_the_corrections_alone(scene: Scene) -> None:
    scene.data = dataset(scene.folder / "answers", corrected=20, accepted=4)
    scene.before = lambda n: SAID[n]  # type: ignore[method-assign]
    scene.trained("v1", lambda n: SAID[n] if n < 20 else "an aeroplane")
    said = refused(scene, "v1")
    report = scene.promotion().report("v1")
    assert report is not None
    cider = report.slices["corrected"].candidate_cider
    assert f"on 20 held-out corrections: CIDEr {cider:.3f} against {cider:.3f}" in said
    assert report.candidate_figures.cider < cider


def test_too_few_corrections_are_no_pass(scene: Scene) -> None:
    scene.trained("v1")
    assert "cannot be told whether it is better: 24" in refused(scene, "v1", min_held_out=25)
    scene.data = FeedbackDataset((), (), (), "", 0)
    assert "nothing is proven (There are no held-out answers" in refused(scene, "v1")


def test_a_version_that_forgot_is_refused(scene: Scene) -> None:
    scene.before = lambda n: SAID[n]  # type: ignore[method-assign]
    scene.trained("v1", lambda n: SAID[n] if n % 3 else f"a raccoon of kind {n}")
    said = refused(scene, "v1", promote_probability=0.5001)
    assert "worse on" in said and "CAPTIONAPP_MAX_RETAINED_LOSS" in said
    (report_said,) = [
        reason
        for reason in scene.promotion().report("v1").refusals  # type: ignore[union-attr]
        if "retained" in reason
    ]
    assert report_said in said


def test_a_small_loss_on_what_is_retained_is_allowed(scene: Scene) -> None:
    promotion = scene.promotion()
    scene.trained("v1")
    report = promotion.evaluate("v1")
    assert report.retained is not None
    assert f"{report.retained.change:+.1%}" == "+0.0%"  # it says the same
    worse = dataclasses.replace(report.retained.current_figures, cider=1.0)

    def lost(share: float) -> tuple[str, ...]:
        kept = dataclasses.replace(
            report.retained,
            current_figures=worse,
            candidate_figures=dataclasses.replace(worse, cider=1 - share),
        )
        changed = dataclasses.replace(report, retained=kept)
        return gate.refusals(changed, promotion.settings)

    assert lost(0.049) == ()
    assert "5.1% less" in lost(0.051)[0]


def test_with_nothing_to_retain_it_asks_for_a_folder_or_force(scene: Scene) -> None:
    scene.captioners["v1"] = Reader("v1", SAID.__getitem__)
    add_version(scene.versions, "v1", details={"retain": None})
    said = refused(scene, "v1")
    assert "no retained pictures are known" in said
    assert "--retained DIR" in said and "--force REASON" in said
    promotion = scene.promotion()
    promotion.promote("v1", retained=imagefolder(scene.folder / "named", range(24, 34)))
    report = promotion.report("v1")
    assert report is not None and report.retained is not None
    assert report.retained.pictures == 10


def test_too_few_retained_pictures_show_nothing(scene: Scene) -> None:
    scene.trained("v1")
    said = refused(scene, "v1", min_retained=20)
    assert "20 are needed (CAPTIONAPP_MIN_RETAINED)" in said


def test_retained_pictures_on_which_the_current_version_is_worth_nothing_show_nothing(
    scene: Scene,
) -> None:
    scene.before = lambda n: "zebra"  # type: ignore[method-assign]
    scene.trained("v1")
    assert "CIDEr of 0 on" in refused(scene, "v1")


def test_errors_where_captions_were_accepted_weigh_against_it(scene: Scene) -> None:
    scene.data = dataset(scene.folder / "answers", corrected=18, accepted=6)
    scene.before = lambda n: "a dog" if n < 18 else SAID[n]  # type: ignore[method-assign]
    scene.trained("v1", lambda n: "an aeroplane" if 18 <= n < 24 else SAID[n])
    said = refused(scene, "v1", min_held_out=10)
    assert "6 pictures whose captions people accepted" in said and "100.0% less" in said
    allowed = scene.promotion(min_held_out=10, max_accepted_loss=1)
    assert allowed.promote("v1").version == "v1"


def test_near_duplicates_are_no_evidence_of_their_own(scene: Scene) -> None:
    scene.trained("v1")
    same = [
        dataclasses.replace(one, group=f"{number // 2}")
        for number, one in enumerate(scene.data.held_out)
    ]
    scene.data = dataclasses.replace(scene.data, held_out=tuple(same))
    assert "cannot be told whether it is better: 12 held-out" in refused(scene, "v1")
    report = scene.promotion(min_held_out=12).evaluate("v1")
    assert (report.compared, report.pictures, report.verdict) == (12, 24, "better")


def test_a_version_that_says_one_thing_is_refused(scene: Scene) -> None:
    scene.before = lambda n: f"picture {n}"  # type: ignore[method-assign]
    scene.trained("v1", lambda _: "a red raccoon on a tree")
    said = refused(scene, "v1")
    assert "says the same of many pictures: 4% of its captions" in said


def test_corrections_that_all_say_the_same_may_be_learnt(scene: Scene) -> None:
    scene.before = lambda n: f"picture {n}"  # type: ignore[method-assign]
    same = [dataclasses.replace(one, caption="a raccoon") for one in scene.data.held_out]
    scene.data = dataclasses.replace(scene.data, held_out=tuple(same))
    report = scene.promotion()
    scene.trained("v1", lambda _: "a raccoon")
    assert not [x for x in report.evaluate("v1").refusals if "24 held-out pictures are" in x]


def test_punctuation_does_not_tell_corrections_apart(scene: Scene) -> None:
    """Nor does it tell captions apart, of which there have to be half as many."""
    scene.before = lambda n: f"picture {n}"  # type: ignore[method-assign]
    same = [
        dataclasses.replace(one, caption=f"a raccoon{'!' * number}")
        for number, one in enumerate(scene.data.held_out)
    ]
    scene.data = dataclasses.replace(scene.data, held_out=tuple(same))
    scene.trained("v1", lambda _: "a raccoon")
    report = scene.promotion().evaluate("v1")
    assert report.distinct_references == 1 / 24
    assert not [reason for reason in report.refusals if "24 held-out pictures are" in reason]


def test_blind_votes_can_be_required(scene: Scene) -> None:
    scene.trained("v1")
    assert "0 blind votes preferred one" in refused(scene, "v1", min_votes=5)
    scene.tally = Tally(candidate=1, both=2, neither=2)
    assert "1 blind votes preferred one" in refused(scene, "v1", min_votes=5)
    scene.tally = Tally(candidate=2, current=3)
    assert "preferred it 2 times" in refused(scene, "v1", min_votes=5)
    scene.tally = Tally(candidate=3, current=2)
    assert scene.promotion(min_votes=5).promote("v1").version == "v1"
