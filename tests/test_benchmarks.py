"""The programs of benchmarks/ take much longer than a test; what they import must be there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from captionapp.settings import ROOT

pytest.importorskip("torch")

PROGRAMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def test_every_program_finds_what_it_imports() -> None:
    programs = [name for name in PROGRAMS if name != "http_litserve"]  # LitServe is optional
    assert "promotion" in programs and "engine" in programs
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"import {name}" for name in programs)],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_program_says_how_it_is_run() -> None:
    """As the documents say: from the repository's folder."""
    program = Path("benchmarks") / "promotion.py"
    done = subprocess.run(
        [sys.executable, str(program), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--clients" in done.stdout, done.stderr
