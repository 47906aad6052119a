from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner
from safetensors.numpy import save_file

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable, PullFailed
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, one of them deeper, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.png").write_bytes(encoded(draw("red")))
    (folder / "b.BMP").write_bytes(encoded(draw("blue"), "BMP"))
    (folder / "deeper" / "c.webp").write_bytes(encoded(draw("green"), "WEBP"))
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden" / "d.png").write_bytes(encoded(draw()))
    return folder


@pytest.fixture
def run(runner: FlaskCliRunner) -> Any:
    def run(*args: str | Path) -> Result:
        return runner.invoke(args=["model", *map(str, args)])

    return run


def test_caption_goes_through_folders_in_batches(
    run: Any, pictures: Path, captioner: FakeCaptioner
) -> None:
    result = run("caption", pictures, "--batch-size", "2")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{pictures}/a.png: a red ball",
        f"{pictures}/b.BMP: a red ball",
        f"{pictures}/deeper/c.webp: a red ball",
    ]
    assert [number for number, _ in captioner.calls] == [2, 1]


def test_caption_hands_its_options_on(run: Any, pictures: Path, captioner: FakeCaptioner) -> None:
    options = ("--prompt", "I see", "--beams", "2", "--max-new-tokens", "9")
    result = run("caption", pictures / "a.png", *options)
    assert result.stdout == f"{pictures}/a.png: I see a red ball\n"
    ((_, used),) = captioner.calls
    assert (used.prompt, used.num_beams, used.max_new_tokens) == ("I see", 2, 9)


def test_alternatives_are_a_line_each(run: Any, pictures: Path, captioner: FakeCaptioner) -> None:
    captioner.replies = [["a red ball", "a round thing", "a fruit", "never asked for"]]
    options = ("--alternatives", "3", "--avoid", "man", "--avoid", "dog", "--length", "short")
    result = run("caption", pictures / "a.png", *options)
    file = pictures / "a.png"
    assert result.stdout == f"{file}: a red ball\n{file}: a round thing\n{file}: a fruit\n"
    ((_, used),) = captioner.calls
    assert (used.alternatives, used.avoid, used.length) == (3, ("dog", "man"), "short")
    line = json.loads(run("caption", pictures / "a.png", "--json", *options).stdout)
    assert line["alternatives"] == [
        {"caption": "a round thing", "probability": 0.25},
        {"caption": "a fruit", "probability": pytest.approx(1 / 6)},
    ]


def test_captions_without_guesses_at_gender(
    run: Any, pictures: Path, captioner: FakeCaptioner
) -> None:
    captioner.replies = ["a man and a woman"]
    file = pictures / "a.png"
    assert run("caption", file, "--neutral").stdout == f"{file}: two people\n"
    assert run("caption", file, "--no-neutral").stdout == f"{file}: a man and a woman\n"


def test_what_cannot_be_avoided_is_said(run: Any, pictures: Path) -> None:
    result = run("caption", pictures / "a.png", "--avoid", "x" * 50)
    assert result.exit_code == 1
    assert "at most 40 characters" in result.stderr


def test_caption_as_json_lines(run: Any, pictures: Path) -> None:
    result = run("caption", pictures / "a.png", pictures / "b.BMP", "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {
        "file": str(pictures / "a.png"),
        "caption": "a red ball",
        "probability": 0.5,
        "model_version": "fake-1",
        "seconds": 0.01,
    }
    assert second["file"].endswith("b.BMP")


def test_broken_files_are_named_and_the_good_ones_described(run: Any, pictures: Path) -> None:
    result = run("caption", pictures / "notes.txt", pictures / "a.png")
    assert result.exit_code == 1
    assert result.stdout == f"{pictures}/a.png: a red ball\n"
    assert f"{pictures}/notes.txt: " in result.stderr
    assert "1 of 2 files could not be described" in result.stderr


def test_a_picture_the_model_fails_on_takes_no_other_along(
    run: Any, pictures: Path, captioner: FakeCaptioner
) -> None:
    captioner.replies = [RuntimeError("batch"), RuntimeError("first"), "a dog"]
    result = run("caption", pictures / "a.png", pictures / "b.BMP")
    assert result.exit_code == 1
    assert result.stdout == f"{pictures}/b.BMP: a dog\n"
    assert f"{pictures}/a.png: The model failed" in result.stderr


def test_a_file_above_the_limit_is_refused(make_app: Any, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(encoded(draw()) + bytes(1_000_001))
    runner = make_app(CAPTIONAPP_MAX_FILE_MB=1).test_cli_runner()
    result = runner.invoke(args=["model", "caption", str(big)])
    assert result.exit_code == 1
    assert "more than 1 MB" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--beams", "99"), "99 is not in the range"),
        (("--prompt", "x" * 201), "at most 200 characters"),
    ],
)
def test_caption_says_what_is_wrong_with_an_option(
    run: Any, pictures: Path, args: tuple[str, ...], said: str
) -> None:
    result = run("caption", pictures / "a.png", *args)
    assert result.exit_code != 0
    assert said in result.stderr


def test_a_folder_without_pictures_is_an_error(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("caption", tmp_path / "empty")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There are no pictures in" in result.stderr


def test_warmup_says_what_it_took(run: Any) -> None:
    result = run("warmup")
    assert result.exit_code == 0
    assert result.stdout.startswith("fake-1: loaded in ")
    assert "'a red ball'" in result.stdout


def test_warmup_fails_with_a_reason(run: Any, workflow: Workflow) -> None:
    def load(_: ModelVersion) -> FakeCaptioner:
        raise ModelUnavailable("The weights are damaged.")

    workflow.service._load = load  # type: ignore[assignment]
    result = run("warmup")
    assert result.exit_code == 1
    assert "Error: The weights are damaged." in result.stderr


def test_info_reads_the_files_and_loads_nothing(
    run: Any, workflow: Workflow, tmp_path: Path, captioner: FakeCaptioner
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weights = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    version = ModelVersion("shipped-1", folder, "shipped", "2026-01-01T00:00:00Z")
    workflow.versions.current = lambda: version  # type: ignore[method-assign]

    described = json.loads(run("info", "--json").stdout)
    assert (described["version"], described["origin"]) == ("shipped-1", "shipped")
    assert (described["parameters"], described["precision"]) == (17, "F32")
    assert described["size_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert described["decoding"]["num_beams"] == 3
    assert described["settings"]["queue_size"] == 64
    assert workflow.service.load_count == 0

    rows = [line.split() for line in run("info").stdout.splitlines()]
    assert ["parameters", "17"] in rows
    assert ["folder", str(folder)] in rows


def test_pull_says_how_to_serve_it(run: Any, workflow: Workflow) -> None:
    version = ModelVersion("large-1", Path("models/large-1"), "pulled", "2026-01-01T00:00:00Z")
    workflow.versions.pull = lambda repo: version  # type: ignore[method-assign]
    result = run("pull", "somebody/large")
    assert result.exit_code == 0
    assert "flask model promote large-1" in result.stdout


def test_pull_fails_with_the_sentence(run: Any, workflow: Workflow) -> None:
    def pull(repo: str) -> ModelVersion:
        raise PullFailed(f"{repo} could not be downloaded: there is no network.")

    workflow.versions.pull = pull  # type: ignore[method-assign]
    result = run("pull", "somebody/large")
    assert result.exit_code == 1
    assert result.stderr == "Error: somebody/large could not be downloaded: there is no network.\n"


def test_every_command_has_a_help_text(run: Any, runner: FlaskCliRunner) -> None:
    for command in ("warmup", "info", "caption", "pull"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert len(result.output.splitlines()[2].strip()) > 20


def test_benchmark_recommends_what_is_fastest(
    run: Any, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captionapp.captioning import blip
    from captionapp.captioning.benchmark import Speed
    from captionapp.captioning.engine import precision

    asked: list[tuple[str, int]] = []

    def load(folder: Path, version: str, options: blip.EngineOptions) -> FakeCaptioner:
        asked.append((options.precision, options.threads))
        captioner.engine = "torch fp32"  # type: ignore[attr-defined]  # int8 may not serve
        return captioner

    monkeypatch.setattr(blip.BlipCaptioner, "load", load)
    monkeypatch.setattr(precision, "fastest", lambda folder: ["int8", "fp32"])
    monkeypatch.setattr("captionapp.cli.model.available_cores", lambda: 2)

    def together(load: Any, some: Speed, *given: Any) -> float:
        asked.append((f"{some.workers} x {some.precision}", some.threads))
        return 0.001

    monkeypatch.setattr("captionapp.captioning.benchmark.seconds_together", together)
    result = run("benchmark", "--batch-size", "3")
    assert result.exit_code == 0, result.output
    assert asked == [("int8", 2), ("fp32", 2), ("2 x fp32", 1)]
    assert "int8 is left out" in result.stdout
    assert "CAPTIONAPP_PRECISION=fp32" in result.stdout
    assert "CAPTIONAPP_WORKERS=" in result.stdout
    assert "auto" not in result.stdout
    assert {size for size, _ in captioner.calls} == {1, 3}
