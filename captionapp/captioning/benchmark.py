"""How fast this machine captions with a checkpoint, and the settings that follow from it."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier

from PIL import Image

from captionapp.captioning.captioner import Captioner, DecodeOptions

ROUNDS = 3
#: A second worker holds a second model: it has to be worth so much more.
WORTH = 1.15

#: Number format and threads -> a captioner, or None for a format that may not serve. Processes are
#: given it, so it can be pickled.
Load = Callable[[str, int], Captioner | None]


@dataclass(frozen=True)
class Speed:
    """Seconds a caption of so many workers at once, in full batches; and of one picture ``alone``,
    measured with one worker only. Medians."""

    precision: str
    threads: int
    batched: float
    alone: float | None = None
    workers: int = 1


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
    together: Callable[[Load, Speed, DecodeOptions, int], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Speed]:
    """Each number format on all cores; then the one that is fastest in batches by two workers at
    once with a half of them each, four with a quarter, and so on."""
    together = together or seconds_together
    fastest: Speed | None = None
    for precision in precisions:
        captioner = load(precision, cores)
        if captioner is None:
            continue
        alone = _seconds(captioner, _pictures(1), options, clock)
        batched = _seconds(captioner, _pictures(batch_size), options, clock)
        speed = Speed(precision, cores, batched, alone)
        yield speed
        if fastest is None or speed.batched < fastest.batched:
            fastest = speed
    threads = cores // 2
    while fastest and threads:
        some = Speed(fastest.precision, threads, 0.0, workers=cores // threads)
        yield replace(some, batched=together(load, some, options, batch_size))
        threads //= 2


def seconds_together(load: Load, some: Speed, options: DecodeOptions, batch_size: int) -> float:
    """Seconds a caption of ``some.workers`` processes that caption full batches at once. They share
    caches and memory, so it is more than a share of what one alone takes."""
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    ready = context.Barrier(some.workers)
    with ProcessPoolExecutor(some.workers, context, _wait_for, (ready,)) as processes:
        tasks = [
            processes.submit(_in_process, load, some, options, batch_size)
            for _ in range(some.workers)
        ]
        return statistics.mean(task.result() for task in tasks) / some.workers


_ready: Barrier | None = None


def _wait_for(ready: Barrier) -> None:
    global _ready
    _ready = ready


def _in_process(load: Load, some: Speed, options: DecodeOptions, batch_size: int) -> float:
    assert _ready
    captioner = load(some.precision, some.threads)
    assert captioner  # it was measured on all cores before
    pictures = _pictures(batch_size)
    captioner.caption(pictures, options)
    _ready.wait()
    return _seconds(captioner, pictures, options, time.perf_counter)


def _pictures(number: int) -> list[Image.Image]:
    return [Image.effect_noise((480, 360), 40 + n).convert("RGB") for n in range(number)]


def _seconds(
    captioner: Captioner,
    pictures: list[Image.Image],
    options: DecodeOptions,
    clock: Callable[[], float],
) -> float:
    """Seconds a picture, the median of ``ROUNDS``."""
    captioner.caption(pictures, options)  # the first one is slower everywhere
    taken = []
    for _ in range(ROUNDS):
        started = clock()
        captioner.caption(pictures, options)
        taken.append(clock() - started)
    return statistics.median(taken) / len(pictures)


def advise(speeds: Sequence[Speed]) -> Advice:
    """The fastest format in batches, in as few workers as come near the most captions a second."""
    fastest = min(speeds, key=lambda speed: speed.batched)
    same = [speed for speed in speeds if speed.precision == fastest.precision]
    best: Advice | None = None
    for speed in sorted(same, key=lambda speed: speed.workers):
        rate = 1 / speed.batched
        if best is None or rate > WORTH * best.captions_a_second:
            best = Advice(speed.precision, speed.workers, speed.threads, rate)
    assert best is not None
    return best
