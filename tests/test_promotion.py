from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from captionapp.captioning.versions import ModelVersion, ModelVersions
from captionapp.errors import PointerMoved, PromotionRefused
from captionapp.promotion import problem_in_fresh_process
from captionapp.settings import Settings
from captionapp.training import compare
from captionapp.training.dataset import FeedbackDataset
from tests.judging import SAID, Reader, Scene, add_version, imagefolder, refused


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_better_version_passes_and_the_history_says_why(scene: Scene) -> None:
    version = scene.trained("v1")
    promotion = scene.promotion()
    change = promotion.promote("v1")
    assert scene.versions.current() == version
    assert (change.version, change.previous, change.forced) == ("v1", scene.shipped.name, False)
    assert "better on 24 held-out corrections with probability 1.000" in change.reason
    assert promotion.history() == [change]
    assert scene.checked == ["v1"]
    report = promotion.report("v1")
    assert report is not None and report.refusals == ()
    assert compare.load_report(version) == report
    with pytest.raises(PromotionRefused, match="current version already"):
        promotion.promote("v1")


def test_a_version_that_retained_nothing_is_judged_by_the_folder_of_the_setting(
    scene: Scene,
) -> None:
    scene.captioners["v1"] = Reader("v1", SAID.__getitem__)
    add_version(scene.versions, "v1", details={"retain": None})
    folder = imagefolder(scene.folder / "named", range(24, 34))
    report = scene.promotion(retain=str(folder)).evaluate("v1")
    assert report.retained is not None
    assert (report.retained.source, report.retained.pictures) == (str(folder), 10)
    scene.trained("v2")  # has a folder of its own
    report = scene.promotion(retain=str(folder)).evaluate("v2")
    assert report.retained is not None and report.retained.source == str(scene.retained)


def test_only_the_part_that_was_not_rehearsed_judges(scene: Scene) -> None:
    scene.trained("v1")
    report = scene.promotion().evaluate("v1")
    assert report.retained is not None
    assert 0 < report.retained.pictures < 12


def test_the_trainings_own_folder_judges_by_its_held_out_part_also_if_it_is_named(
    scene: Scene,
) -> None:
    scene.trained("v1")
    promotion = scene.promotion()
    by_itself, named = promotion.evaluate("v1"), promotion.evaluate("v1", scene.retained)
    assert by_itself.retained is not None and named.retained is not None
    assert named.retained.pictures == by_itself.retained.pictures


def test_what_a_training_has_seen_does_not_judge(scene: Scene) -> None:
    scene.trained("v1")
    elsewhere = imagefolder(scene.folder / "elsewhere", range(24, 34))
    scene.trained_on = {"24.png", "25.png"}
    report = scene.promotion().evaluate("v1", elsewhere)
    assert report.retained is not None and report.retained.pictures == 8
    scene.trained_on = {f"{number}.png" for number in range(24, 34)}
    with pytest.raises(PromotionRefused, match="no picture that no training has seen"):
        scene.promotion().promote("v1", retained=elsewhere)


def test_a_missing_retained_picture_is_left_out(scene: Scene) -> None:
    scene.trained("v1")
    promotion = scene.promotion()
    before = promotion.evaluate("v1").retained
    assert before is not None
    for number in range(24, 48):  # whichever of them judge
        if number % 2:
            (scene.retained / f"{number}.png").unlink()
    report = promotion.evaluate("v1")
    assert report.retained is not None and 0 < report.retained.pictures < before.pictures
    assert len(report.skipped) == before.pictures - report.retained.pictures
    assert all(not (scene.retained / name).exists() for name in report.skipped)


def test_a_retained_folder_that_is_gone_is_said(scene: Scene) -> None:
    scene.trained("v1")
    shutil.rmtree(scene.retained)
    said = refused(scene, "v1")
    assert "nothing is proven" in said and "name another folder with --retained DIR" in said
    elsewhere = imagefolder(scene.folder / "elsewhere", range(24, 34))
    report = scene.promotion(retain=str(elsewhere)).evaluate("v1")  # then the setting's judges
    assert report.retained is not None and report.retained.source == str(elsewhere)


def test_a_version_that_is_pruned_while_it_is_judged_does_not_come_back(scene: Scene) -> None:
    folder = scene.trained("v1").folder

    def pruned(version: str, done: int, total: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(FileNotFoundError):
        scene.promotion().evaluate("v1", on_progress=pruned)
    assert not folder.exists()


def test_a_version_that_does_not_load_is_never_promoted(scene: Scene) -> None:
    scene.trained("v1")
    scene.problem = "half of its weights are missing"
    assert "does not load and caption in a fresh process (half of" in refused(scene, "v1")
    with pytest.raises(PromotionRefused, match="half of its weights"):
        scene.promotion().promote("v1", force_reason="I want it")
    assert scene.versions.pointer.last() is None


def test_force_is_recorded_with_its_reason_and_what_the_gate_said(scene: Scene) -> None:
    scene.trained("v1", lambda _: "a dog")
    promotion = scene.promotion()
    change = promotion.promote("v1", force_reason="the old one is worse by eye")
    assert change.forced
    assert change.reason.startswith("the old one is worse by eye; the gate had said: it is not")
    assert promotion.history()[-1] == change
    with pytest.raises(PromotionRefused, match="say why"):
        promotion.promote("v1", force_reason=" ")


def test_force_that_was_not_needed_is_none(scene: Scene) -> None:
    scene.trained("v1")
    assert not scene.promotion().promote("v1", force_reason="in a hurry").forced


def test_a_version_can_be_forced_without_any_answers(scene: Scene) -> None:
    scene.trained("v1")
    scene.data = FeedbackDataset((), (), (), "", 0)
    assert scene.promotion().promote("v1", force_reason="first steps").forced


def test_a_pulled_version_is_promoted_freely(scene: Scene) -> None:
    add_version(scene.versions, "large-1", origin="pulled")
    change = scene.promotion().promote("large-1")
    assert (change.forced, change.reason) == (False, "pulled version: promoted freely")
    assert scene.checked == ["large-1"]


def test_rollback_goes_back_one_by_one(scene: Scene) -> None:
    promotion = scene.promotion()
    with pytest.raises(PromotionRefused, match="no version to go back to"):
        promotion.rollback()
    for name in ("v1", "v2", "v3"):
        add_version(scene.versions, name, origin="pulled")
        promotion.promote(name)
    for name in ("v2", "v1", scene.shipped.name):
        assert promotion.rollback().version == name == scene.versions.current().name
    with pytest.raises(PromotionRefused, match="no version to go back to"):
        promotion.rollback()
    assert promotion.promote("v3").previous == scene.shipped.name
    assert promotion.rollback().version == scene.shipped.name
    assert len(promotion.history()) == 8


def test_a_rollback_to_what_is_gone_changes_nothing(scene: Scene) -> None:
    promotion = scene.promotion()
    for name in ("v1", "v2"):
        add_version(scene.versions, name, origin="pulled")
        promotion.promote(name)
    shutil.rmtree(scene.versions.models_folder / "v1")
    with pytest.raises(PromotionRefused, match="v1, the version before v2, is gone"):
        promotion.rollback()
    assert scene.versions.current().name == "v2"


def test_after_a_rollback_to_the_shipped_version_an_upgrade_of_it_is_served(scene: Scene) -> None:
    add_version(scene.versions, "v1", origin="pulled")
    promotion = scene.promotion()
    promotion.promote("v1")
    promotion.rollback()
    (scene.folder / "fine-tuned-model" / "model.safetensors").write_bytes(b"better weights")
    assert scene.versions.current() == scene.versions.shipped() != scene.shipped


def test_a_rollback_to_a_shipped_version_that_was_replaced_takes_the_new_one(scene: Scene) -> None:
    add_version(scene.versions, "v1", origin="pulled")
    promotion = scene.promotion()
    promotion.promote("v1")
    (scene.folder / "fine-tuned-model" / "model.safetensors").write_bytes(b"better weights")
    assert promotion.rollback().version == scene.versions.shipped().name != scene.shipped.name
    assert scene.versions.current() == scene.versions.shipped()


def test_asking_twice_goes_back_once(scene: Scene) -> None:
    promotion = scene.promotion()
    for name in ("v1", "v2"):
        add_version(scene.versions, name, origin="pulled")
        promotion.promote(name)
    assert promotion.rollback(leave="v2").version == "v1"
    with pytest.raises(PointerMoved, match="Another version is current by now: v1"):
        promotion.rollback(leave="v2")
    assert scene.versions.current().name == "v1"
    promotion.rollback(leave="v1")  # to the first; there is no other before it
    with pytest.raises(
        PointerMoved, match=f"Another version is current by now: {scene.shipped.name}"
    ):
        promotion.rollback(leave="v1")


def test_what_somebody_else_promoted_meanwhile_is_not_overwritten(scene: Scene) -> None:
    scene.trained("v1")
    add_version(scene.versions, "other", origin="pulled")
    promotion = scene.promotion()

    def meanwhile(version: ModelVersion) -> str:
        scene.versions.set_current("other")
        return ""

    promotion._check = meanwhile
    with pytest.raises(PointerMoved, match="other was made the current version"):
        promotion.promote("v1")
    assert scene.versions.current().name == "other"


def test_the_setting_goes_over_promotions_so_they_are_refused(scene: Scene) -> None:
    add_version(scene.versions, "v1", origin="pulled")
    scene.versions.model_setting = "v1"
    for act in (lambda: scene.promotion().promote("v1"), scene.promotion().rollback):
        with pytest.raises(PromotionRefused, match="CAPTIONAPP_MODEL names v1"):
            act()


def test_a_damaged_pointer_is_put_right_by_a_promotion(scene: Scene) -> None:
    add_version(scene.versions, "v1", origin="pulled")
    scene.versions.pointer.path.write_text("{")
    scene.promotion().promote("v1")
    assert scene.versions.current().name == "v1"


def test_prune_keeps_the_newest_the_current_and_its_predecessor(scene: Scene) -> None:
    promotion = scene.promotion()
    for number in range(1, 7):
        created = f"2026-01-0{number}T00:00:00Z"
        add_version(scene.versions, f"v{number}", origin="pulled", created_at=created)
    promotion.promote("v2")
    promotion.promote("v1")
    assert promotion.prune(2) == ["v3", "v4"]
    names = [one.name for one in scene.versions.list()]
    assert names == [scene.shipped.name, "v1", "v2", "v5", "v6"]
    assert not list(scene.versions.models_folder.glob(".*"))
    assert promotion.prune(2) == []
    assert promotion.prune(0) == ["v5", "v6"]
    assert promotion.rollback().version == "v2"
    assert scene.versions.current().name == "v2"


@pytest.mark.parametrize("keep", [3, 4, 5, 6, 100])
def test_prune_removes_nothing_where_there_are_no_more_than_it_keeps(
    scene: Scene, keep: int
) -> None:
    for number in range(1, 4):
        created = f"2026-01-0{number}T00:00:00Z"
        add_version(scene.versions, f"v{number}", origin="pulled", created_at=created)
    assert scene.promotion().prune(keep) == []
    assert len(scene.versions.list()) == 4


def test_prune_keeps_what_a_training_began_with(scene: Scene) -> None:
    from captionapp.errors import TrainingStopped
    from captionapp.training.config import FinetuneConfig
    from captionapp.training.job import Plan
    from captionapp.training.runs import TrainingRuns

    for number in range(1, 4):
        created = f"2026-01-0{number}T00:00:00Z"
        add_version(scene.versions, f"v{number}", origin="pulled", created_at=created)
    runs, promotion = TrainingRuns(scene.folder / "training"), scene.promotion()
    with pytest.raises(TrainingStopped), runs.begin() as run:
        Plan("v1", FinetuneConfig(), [], [], [], {}).save(run)
        assert promotion.prune(1) == ["v2"]  # while it goes on
        raise TrainingStopped("for now")
    assert promotion.prune(0) == ["v3"]  # it can be resumed
    with runs.begin(run.id):
        pass
    assert promotion.prune(0) == ["v1"]


def test_prune_removes_what_a_killed_prune_left_and_known_captions(scene: Scene) -> None:
    scene.trained("v1")
    promotion = scene.promotion()
    promotion.evaluate("v1")
    (scene.versions.models_folder / ".pruned-v0").mkdir()
    assert promotion.prune(0) == ["v1"]
    assert not list(scene.versions.models_folder.glob(".*"))
    options = promotion.prover.options_key()
    keys = [one.key for one in promotion.prover.held_out().pictures]
    assert promotion.prover.cache.captions("v1", keys, options) == {}
    assert promotion.prover.cache.captions(scene.shipped.name, keys, options) != {}


def test_prune_removes_half_written_files_that_nobody_writes_any_more(scene: Scene) -> None:
    folder = add_version(scene.versions, "v1", origin="pulled").folder
    for name in ("evaluation.json.01.tmp", "evaluation.json.02.tmp"):
        (folder / name).touch()
    os.utime(folder / "evaluation.json.01.tmp", (0, 0))
    assert scene.promotion().prune(1) == []
    assert [file.name for file in folder.glob("*.tmp")] == ["evaluation.json.02.tmp"]


def test_a_report_about_the_shipped_version_is_not_written_into_its_folder(scene: Scene) -> None:
    scene.trained("v1")
    promotion = scene.promotion()
    promotion.promote("v1")
    report = promotion.evaluate(scene.shipped.name)
    assert promotion.report(scene.shipped.name) == report
    assert report.current == "v1" and report.verdict == "not better"
    assert {file.name for file in scene.shipped.folder.iterdir()} == {"model.safetensors"}


def test_a_folder_is_judged_without_the_gate_and_beside_its_report(scene: Scene) -> None:
    scene.trained("v1")
    promotion = scene.promotion()
    kept = promotion.evaluate("v1")
    report = promotion.evaluate_on("v1", imagefolder(scene.folder / "named", range(24)))
    assert report.verdict == "better" and report.compared == 24 and report.refusals == ()
    assert promotion.report("v1") == kept
    (file,) = (scene.folder / "evaluations").glob("v1--named-*.json")
    assert compare.read_report(file) == report


def test_a_fresh_process_loads_and_captions(checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(instance=tmp_path)
    versions = ModelVersions(tmp_path / "models", tmp_path)
    good, broken = [add_version(versions, name) for name in ("good", "broken")]
    for version in (good, broken):
        shutil.copytree(checkpoint, version.folder, dirs_exist_ok=True)
    weights = broken.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert problem_in_fresh_process(good, settings) == ""
    said = problem_in_fresh_process(broken, settings)
    assert "broken cannot be loaded" in said and "\n" not in said
