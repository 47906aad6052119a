from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionapp.captioning.versions import ModelVersion
from captionapp.training import compare
from captionapp.training.compare import Judged, judgement, probability_better


def test_the_probability_follows_the_differences() -> None:
    assert probability_better([0.1] * 20) == 1
    assert probability_better([-0.1] * 20) == 0
    assert probability_better([0.0] * 20) == 0.5
    mixed = [1.0, -1.0] * 10
    assert probability_better(mixed) == pytest.approx(0.5, abs=0.02)
    assert probability_better([*mixed, 1.0, 1.0, 1.0]) > 0.65
    assert probability_better(mixed) == probability_better(mixed)


def test_the_probability_is_that_of_the_normal_approximation() -> None:
    # 100 differences of mean 0.2 and standard deviation 1: the mean's error is 0.1, so that
    # P(mean > 0) = Phi(2) = 0.977.
    differences = [0.2 + sign for sign in (1, -1) for _ in range(50)]
    assert probability_better(differences) == pytest.approx(0.977, abs=0.01)


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError):
        probability_better([])


def test_a_probability_becomes_a_word() -> None:
    assert judgement(None, 0.95) == "cannot tell"
    assert judgement(0.95, 0.95) == "better"
    assert judgement(0.94, 0.95) == "not better"


PICTURES = [
    Judged("1", ("two men on a bench",), "a dog", "two men", "corrected", 60),
    Judged("2", ("a red ball",), "a red ball", "a red ball", "accepted", 60),
    Judged("3", ("a grey wall",), "a wall", "a human", "corrected", 3),
    Judged("4", ("3 cats", "cats"), "cats", "3 cats", "", 60),
]


def test_outcomes_and_slices() -> None:
    rows = compare.results(PICTURES, [0.1, 2.0, 1.0, 1.0], [1.0, 2.0, 0.5, 1.0])
    assert [row.outcome for row in rows] == ["win", "tie", "loss", "tie"]
    assert [row.slices for row in rows] == [
        ("corrected", "people", "counts"),
        ("accepted before",),
        ("corrected", "low contrast"),
        ("counts",),
    ]
    found = compare.slices(rows)
    assert list(found) == ["accepted before", "corrected", "low contrast", "people", "counts"]
    corrected = found["corrected"]
    assert (corrected.pictures, corrected.wins, corrected.losses) == (2, 1, 1)
    assert corrected.current_cider == pytest.approx(0.55)
    assert corrected.candidate_cider == pytest.approx(0.75)
    assert corrected.current_edit_distance == pytest.approx((4 + 1) / 2)
    assert found["counts"].candidate_exact == found["counts"].current_exact == 1
    assert compare.slices([]) == {}


def test_a_word_inside_another_is_not_mentioned() -> None:
    (row,) = compare.results([Judged("1", ("a human mannequin",), "", "")], [0], [0])
    assert row.slices == ()


def test_a_report_of_another_form_is_none(tmp_path: Path) -> None:
    version = ModelVersion("v1", tmp_path, "trained", "2026-01-01T00:00:00Z")
    assert compare.load_report(version) is None
    (tmp_path / compare.REPORT_FILE).write_text(json.dumps({"candidate": "v1"}))
    assert compare.load_report(version) is None
    (tmp_path / compare.REPORT_FILE).write_text("{")
    assert compare.load_report(version) is None
