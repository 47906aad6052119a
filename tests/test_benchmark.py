from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from captionapp.captioning.benchmark import Advice, Speed, advise, measure, seconds_together
from captionapp.captioning.captioner import Caption, DecodeOptions
from tests.conftest import FakeCaptioner


class Machine:
    """A clock that only captions move: by ``seconds`` of its format and threads, for each picture,
    and a second more the first time."""

    def __init__(self, seconds: dict[tuple[str, int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def load(self, precision: str, threads: int) -> FakeCaptioner | None:
        if (precision, threads) not in self.seconds:
            return None
        machine, cost = self, self.seconds[precision, threads]

        class Timed(FakeCaptioner):
            def caption(
                self, images: Sequence[Image.Image], options: DecodeOptions
            ) -> list[Caption]:
                machine.now += cost * len(images) + (0 if self.calls else 1)
                return super().caption(images, options)

        return Timed()


def test_every_format_on_all_cores_and_the_fastest_in_several_workers() -> None:
    machine = Machine({("fp32", 4): 4, ("int8", 4): 2})
    wanted = ["int8", "bf16", "fp32"]  # bf16 may not serve

    def together(load: object, some: Speed, options: DecodeOptions, batch_size: int) -> float:
        assert batch_size == 8
        return 10 * some.workers + some.threads

    found = measure(machine.load, wanted, 4, DecodeOptions(), 8, together, machine.clock)
    assert list(found) == [
        Speed("int8", 4, batched=2, alone=2),
        Speed("fp32", 4, batched=4, alone=4),
        Speed("int8", 2, batched=22, workers=2),
        Speed("int8", 1, batched=41, workers=4),
    ]


@dataclass(frozen=True)
class LoadFake:
    """Leaves a file for each process that captions."""

    folder: Path

    def __call__(self, precision: str, threads: int) -> FakeCaptioner:
        (self.folder / f"{precision}-{threads}-{os.getpid()}").touch()
        return FakeCaptioner()


def test_several_workers_are_measured_in_processes_at_once(tmp_path: Path) -> None:
    some = Speed("int8", 1, 0.0, workers=2)
    assert seconds_together(LoadFake(tmp_path), some, DecodeOptions(), 3) > 0
    assert len(list(tmp_path.glob("int8-1-*"))) == 2


def test_another_worker_has_to_be_worth_its_memory() -> None:
    slower = Speed("fp32", 4, 0.8)
    one = Speed("int8", 4, 0.40)
    little, much = (Speed("int8", 2, seconds, workers=2) for seconds in (0.375, 0.25))
    assert advise([slower, one, little]) == Advice("int8", 1, 4, 2.5)
    assert advise([slower, one, much]) == Advice("int8", 2, 2, 4.0)
