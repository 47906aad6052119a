"""How fast this machine captions with a checkpoint, and the settings that follow from it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from captionapp.captioning.captioner import Captioner, DecodeOptions

ROUNDS = 3
#: A second worker holds a second model: it has to be worth so much more.
WORTH = 1.15

Load = Callable[[str, int], Captioner | None]


@dataclass(frozen=True)
class Speed:
    """Seconds a caption, of one picture ``alone`` and of one in a full batch; medians."""

    precision: str
    threads: int
    alone: float
    batched: float


@dataclass(frozen=True)
class Advice:
    """Workers, the threads of each one's model, and its number format."""

    precision: str
    workers: int
    threads: int
    captions_a_second: float


def measure(
    load: Load,
    precisions: Sequence[str],
    cores: int,
    options: DecodeOptions,
    batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Speed]:
    """Each number format on all cores; then the one that is fastest in batches on a half of them,
    a quarter, and so on. ``load(precision, threads)`` gives None for a format that may not serve.
    """
    fastest: Speed | None = None
    for precision in precisions:
        captioner = load(precision, cores)
        if captioner is None:
            continue
        speed = _speed(captioner, precision, cores, options, batch_size, clock)
        yield speed
        if fastest is None or speed.batched < fastest.batched:
            fastest = speed
    threads = cores // 2
    while fastest and threads:
        captioner = load(fastest.precision, threads)
        if captioner:
            yield _speed(captioner, fastest.precision, threads, options, batch_size, clock)
        threads //= 2


def _speed(
    captioner: Captioner,
    precision: str,
    threads: int,
    options: DecodeOptions,
    batch_size: int,
    clock: Callable[[], float],
) -> Speed:
    pictures = [Image.effect_noise((480, 360), 40 + n).convert("RGB") for n in range(batch_size)]

    def seconds(some: list[Image.Image]) -> float:
        captioner.caption(some, options)  # the first one is slower everywhere
        taken = []
        for _ in range(ROUNDS):
            started = clock()
            captioner.caption(some, options)
            taken.append(clock() - started)
        return statistics.median(taken) / len(some)

    return Speed(precision, threads, seconds(pictures[:1]), seconds(pictures))


def advise(speeds: Sequence[Speed], cores: int) -> Advice:
    """The fastest format in batches, in as few workers as come near the most captions a second.

    Several workers are taken to be as many times as fast as one, which they are at best.
    """
    fastest = min(speeds, key=lambda speed: speed.batched)
    same = [speed for speed in speeds if speed.precision == fastest.precision]
    best: Advice | None = None
    for speed in sorted(same, key=lambda speed: -speed.threads):
        workers = cores // speed.threads
        rate = workers / speed.batched
        if best is None or rate > WORTH * best.captions_a_second:
            best = Advice(speed.precision, workers, speed.threads, rate)
    assert best is not None
    return best
