"""What tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from captionapp.workflow import Workflow
from tests.judging import Scene


@pytest.fixture
def scene(tmp_path: Path, workflow: Workflow) -> Scene:
    """The application with the versions, answers and captions of a scene."""
    scene = Scene(tmp_path)
    workflow.versions = scene.versions
    workflow.promotion = scene.promotion()
    return scene
