"""An install is the same next year: what the requirements need is pinned as they are."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# CUDA's libraries, which it needs on Linux with a graphics card, are pinned by torch itself.
LEFT_TO_TORCH = "torch"


def pinned(file: str) -> dict[str, str]:
    """The version of each package that `file` names."""
    lines = (ROOT / file).read_text().splitlines()
    found = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines)
    return {canonicalize_name(one[1]): one[2] for one in found if one}


def needed(name: str, seen: set[str]) -> None:
    """Add to `seen` what the installed package `name` needs here, and what that needs."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        other = canonicalize_name(requirement.name)
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if here and other not in seen and installed(other):
            seen.add(other)
            if other != LEFT_TO_TORCH:
                needed(other, seen)


def installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def test_everything_that_the_application_and_its_tests_need_is_pinned():
    named = pinned("requirements.txt") | pinned("requirements-dev.txt")
    seen: set[str] = set()
    for name in named.keys() - {LEFT_TO_TORCH}:
        if installed(name):  # gunicorn is not, on Windows
            needed(name, seen)
    assert len(seen) > 30
    assert seen - named.keys() - pinned("constraints.txt").keys() == set()


def test_the_constraints_hold_wherever_requirements_are_installed():
    for file, constraints in (
        ("requirements.txt", "constraints.txt"),
        ("starter/requirements.txt", "../constraints.txt"),
    ):
        assert f"\n-c {constraints}\n" in (ROOT / file).read_text()
    assert "\n-r requirements.txt\n" in (ROOT / "requirements-dev.txt").read_text()
