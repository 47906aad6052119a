"""What the processor is fast at: measured once, kept, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from captionapp.captioning.engine import precision, probe

#: Seconds of a processor that has instructions for bf16 and int8, and of one with neither.
MODERN = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.5, "int8": 1.0}
PLAIN = {"float32": 4.0, "bfloat16": 40.0, "float16": 2.0, "int8": 1.9}
OLD = {"float32": 4.0, "bfloat16": 40.0, "float16": 5.0, "int8": 6.0}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    probe.rates.cache_clear()
    yield
    probe.rates.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[probe.Rates]:
    """Answers of the measurement, the first one first; here one of them."""
    answers = [rates(MODERN)]
    monkeypatch.setattr(probe, "_measured", lambda: answers.pop(0))
    return answers


def rates(seconds: dict[str, float]) -> probe.Rates:
    named = {f"torch.{name}": value for name, value in seconds.items()}
    return probe.Rates(named, named)


def test_the_machine_is_measured_once(tmp_path: Path, measured: list[probe.Rates]) -> None:
    first = probe.rates(tmp_path)
    probe.rates.cache_clear()  # as another worker
    assert probe.rates(tmp_path) == first
    assert measured == []


def test_another_processor_is_measured_anew(
    tmp_path: Path, measured: list[probe.Rates], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.rates(tmp_path)
    probe.rates.cache_clear()
    monkeypatch.setattr(probe, "processor", lambda: "another")
    measured.append(rates(PLAIN))
    assert probe.rates(tmp_path) == rates(PLAIN)


def test_a_damaged_file_is_measured_anew(tmp_path: Path, measured: list[probe.Rates]) -> None:
    (tmp_path / "probe.json").write_text("[]")
    assert probe.rates(tmp_path) == rates(MODERN)


def test_a_folder_that_cannot_be_written_costs_the_memory_only(
    tmp_path: Path, measured: list[probe.Rates]
) -> None:
    (tmp_path / "file").touch()
    assert probe.rates(tmp_path / "file" / "engine") == rates(MODERN)


def test_every_format_is_really_measured() -> None:
    found = probe._measured()
    assert set(found.picture) == set(found.token) == set(map(str, probe.available()))
    assert all(0 < seconds < 10 for seconds in [*found.picture.values(), *found.token.values()])


@pytest.mark.parametrize(
    ("seconds", "formats"),
    [
        (MODERN, ["int8", "mixed", "bf16", "fp16", "fp32"]),
        (PLAIN, ["int8", "mixed", "fp16", "fp32"]),
        (OLD, ["fp32"]),
    ],
)
def test_the_formats_in_the_order_of_what_was_measured(
    measured: list[probe.Rates], seconds: dict[str, float], formats: list[str]
) -> None:
    measured[:] = [rates(seconds)]
    available = [str(kind) for kind in probe.available()]
    if "torch.int8" not in available:
        pytest.skip("this build of torch has no int8")
    assert precision.fastest() == formats


def test_mixed_has_the_sixteen_bits_that_are_faster(measured: list[probe.Rates]) -> None:
    measured[:] = [rates(MODERN), rates(PLAIN)]
    assert precision.named("mixed").text is torch.bfloat16
    probe.rates.cache_clear()
    assert precision.named("mixed").text is torch.float16


def test_a_name_that_is_no_format_is_refused() -> None:
    with pytest.raises(ValueError, match="fp64"):
        precision.named("fp64")
