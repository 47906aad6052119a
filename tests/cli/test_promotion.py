from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from captionapp.captioning.versions import ModelVersion
from captionapp.errors import ModelUnavailable
from tests.judging import SAID, Reader, Scene, add_version, imagefolder


@pytest.fixture
def run(runner: FlaskCliRunner) -> Any:
    def run(*args: str | Path) -> Result:
        return runner.invoke(args=["model", *map(str, args)])

    return run


def test_promote_and_rollback_say_what_they_did(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    result = run("promote", "v1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"v1 is the current version instead of {scene.shipped.name} (")
    assert "probability 1.000" in result.stdout
    result = run("rollback")
    assert result.stdout == (
        f"{scene.shipped.name} is the current version again (rollback from v1).\n"
    )
    assert run("rollback").exit_code == 1


def test_what_is_refused_says_why_and_can_be_forced(run: Any, scene: Scene) -> None:
    scene.trained("v1", lambda _: "a dog")
    result = run("promote", "v1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: v1 was not promoted: it is not shown to be better")
    assert scene.versions.current() == scene.shipped
    result = run("promote", "v1", "--force", "we looked at it")
    assert result.exit_code == 0
    assert "(FORCED: we looked at it; the gate had said: it is not" in result.stdout
    assert "forced: we looked at it" in run("list").stdout


def test_retained_pictures_can_be_named(run: Any, scene: Scene) -> None:
    scene.captioners["v1"] = Reader("v1", SAID.__getitem__)
    add_version(scene.versions, "v1")
    assert "--retained DIR" in run("promote", "v1").stderr
    folder = imagefolder(scene.folder / "named", range(24, 32))
    assert "CIDEr of 8 retained pictures" in run("promote", "v1", "--retained", folder).stdout


def test_a_version_that_is_not_there_is_an_error(run: Any, scene: Scene) -> None:
    result = run("promote", "v9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no version v9" in result.stderr


def test_list_shows_lineage_figures_and_why(run: Any, scene: Scene) -> None:
    scene.trained("v1")
    metadata = scene.versions.models_folder / "v1" / "version.json"
    described = json.loads(metadata.read_text())
    described["details"]["parent"] = scene.shipped.name
    metadata.write_text(json.dumps(described))
    first = run("list").stdout.splitlines()
    assert first[1].startswith(f"*  {scene.shipped.name}")
    assert "current because none was promoted" in first[1]
    run("promote", "v1")
    lines = run("list").stdout.splitlines()
    assert lines[1].startswith(f"-  {scene.shipped.name}")
    assert lines[2].startswith("*  v1")
    assert f"better than {scene.shipped.name} on 24 pictures" in lines[2]
    shipped, v1 = map(json.loads, run("list", "--json").stdout.splitlines())
    assert (shipped["previous"], v1["current"], v1["parent"]) == (True, True, scene.shipped.name)
    assert v1["figures"]["exact"] == 24
    assert v1["why"].startswith("current since 20")


def test_list_says_when_the_setting_decides(run: Any, scene: Scene) -> None:
    add_version(scene.versions, "v1", origin="pulled")
    scene.versions.model_setting = "v1"
    line = run("list").stdout.splitlines()[2]
    assert line.startswith("*  v1") and "because CAPTIONAPP_MODEL names it" in line


def test_list_shows_what_is_served_from_elsewhere(run: Any, scene: Scene) -> None:
    folder = scene.folder / "my-blip"
    shutil.copytree(scene.shipped.folder, folder)
    scene.versions.model_setting = str(folder)
    lines = run("list").stdout.splitlines()
    assert len(lines) == 3 and lines[2].startswith("*  my-blip-")
    assert str(folder) in lines[2] and "because CAPTIONAPP_MODEL names it" in lines[2]


def test_list_works_when_nothing_can_be_served(run: Any, scene: Scene) -> None:
    def current() -> ModelVersion:
        raise ModelUnavailable("The current version is gone.")

    scene.versions.current = current  # type: ignore[method-assign]
    result = run("list")
    assert result.exit_code == 0
    assert "The current version is gone." in result.stderr


def test_prune_names_what_it_removes(run: Any, scene: Scene) -> None:
    assert run("prune").stdout == "There is nothing to remove.\n"
    for number in range(1, 4):
        created = f"2026-01-0{number}T00:00:00Z"
        add_version(scene.versions, f"v{number}", origin="pulled", created_at=created)
    assert run("prune", "--keep", "1").stdout == "Removed v1.\nRemoved v2.\n"
    assert [path.name for path in scene.versions.models_folder.iterdir() if path.is_dir()] == ["v3"]
    shutil.rmtree(scene.versions.models_folder)
    assert run("prune").exit_code == 0


def test_every_command_has_a_help_text(run: Any) -> None:
    for command in ("promote", "rollback", "prune", "list", "evaluate"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert len(result.output.splitlines()[2].strip()) > 20
