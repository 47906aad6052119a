from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from captionapp.captioning.benchmark import Advice, Speed, advise, measure
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


def test_every_format_on_all_cores_and_the_fastest_on_fewer() -> None:
    machine = Machine({("fp32", 4): 4, ("int8", 4): 2, ("int8", 2): 3, ("int8", 1): 5})
    wanted = ["int8", "bf16", "fp32"]  # bf16 may not serve
    found = list(measure(machine.load, wanted, 4, DecodeOptions(), 8, machine.clock))
    assert [(one.precision, one.threads, one.alone, one.batched) for one in found] == [
        ("int8", 4, 2, 2),
        ("fp32", 4, 4, 4),
        ("int8", 2, 3, 3),
        ("int8", 1, 5, 5),
    ]


def test_another_worker_has_to_be_worth_its_memory() -> None:
    slower = Speed("fp32", 4, 1.0, 0.8)
    one = Speed("int8", 4, 1.0, 0.40)
    assert advise([slower, one, Speed("int8", 2, 1.0, 0.75)], 4) == Advice("int8", 1, 4, 2.5)
    assert advise([slower, one, Speed("int8", 2, 1.0, 0.5)], 4) == Advice("int8", 2, 2, 4.0)
