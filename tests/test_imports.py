"""What may be imported by what; in processes of their own, as imports cannot be undone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers"}
DOMAIN = (
    "errors",
    "settings",
    "images",
    "image_store",
    "records",
    "caption_records",
    "job_records",
    "timing",
    "metrics",
    "answers",
    "picture_views",
    "workflow",
    "asking",
    "gallery",
    "letting_go",
    "takeout",
    "comparison",
    "votes",
    "gate",
    "promotion",
    "version_tasks",
    "captioning.captioner",
    "captioning.batching",
    "captioning.service",
    "captioning.versions",
    "feedback.repository",
    "feedback.insights",
    "feedback.transfer",
    "training.dataset",
)


def imported_by(program: str) -> set[str]:
    """Top-level packages that are loaded once the program has run."""
    program += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_application_starts_without_torch() -> None:
    loaded = imported_by("from captionapp import create_app; create_app()")
    assert "flask" in loaded  # or the test would prove nothing
    assert not loaded & HEAVY


def test_pages_and_commands_are_made_without_torch() -> None:
    program = """
from captionapp import create_app
app = create_app()
assert app.test_client().get("/").status_code == 200
assert app.test_cli_runner().invoke(args=["settings"]).exit_code == 0
assert app.test_cli_runner().invoke(args=["model", "caption", "--help"]).exit_code == 0
"""
    assert not imported_by(program) & HEAVY


@pytest.fixture(scope="module")
def newly_loaded() -> dict[str, list[str]]:
    """By module of the domain, the top-level packages that came with it and not with those before
    it: in one process, as starting one and loading what they share takes a second."""
    program = f"""
import importlib, json, sys
loaded = {{}}
for module in {DOMAIN!r}:
    before = set(sys.modules)
    importlib.import_module("captionapp." + module)
    loaded[module] = sorted({{name.split(".")[0] for name in set(sys.modules) - before}})
print(json.dumps(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize("module", DOMAIN)
def test_the_domain_knows_neither_flask_nor_torch(
    module: str, newly_loaded: dict[str, list[str]]
) -> None:
    unwanted = HEAVY | {"flask", "flask_wtf", "werkzeug", "click"}
    assert not unwanted & set(newly_loaded[module])
