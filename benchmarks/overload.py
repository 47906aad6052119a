"""More than it can do: pictures arrive at twice the capacity, whatever the server answers.

    python benchmarks/overload.py                    # ten minutes, the shipped checkpoint
    python benchmarks/overload.py --seconds 60 --times 3

Capacity is measured first, by sixteen clients in a closed loop. Then pictures arrive at so many
times that rate; each is sent once, by as many threads as it needs. Every five seconds the memory of
the worker and the queue's length are noted. When the load ends, a client asks until it is taken in,
and until all that was taken in is described.
"""

from __future__ import annotations

import argparse
import collections
import queue
import re
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
from http_load import closed_loop
from serving import ROOT, URL, Browser, picture, serving

QUEUE = 64
CLIENTS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--times", type=float, default=2, help="of the capacity")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving(
            "ours",
            arguments.checkpoint.resolve(),
            Path(temporary),
            CAPTIONAPP_QUEUE_SIZE=str(QUEUE),
            CAPTIONAPP_WAIT_SECONDS="0",  # what is measured is taking in, not waiting
        ) as server,
    ):
        done, _, lasted = closed_loop(lambda: Browser().describe, 16, 20)
        capacity = len(done) / lasted
        rate = arguments.times * capacity
        print(f"capacity {capacity:.1f}/s; {rate:.1f}/s for {arguments.seconds:.0f} s", flush=True)
        (worker,) = psutil.Process(server.pid).children()
        answers = overload(worker, rate, arguments.seconds)
        recovery()
        report(answers)


def overload(worker: psutil.Process, rate: float, duration: float) -> collections.Counter[str]:
    """How often each answer came; a line with memory and queue every five seconds."""
    arrivals: queue.Queue[bytes | None] = queue.Queue()
    answers: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def client() -> None:
        browser = Browser()
        while (data := arrivals.get()) is not None:
            answer = outcome(browser, data)
            with lock:
                answers[answer] += 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(time.monotonic_ns())
    began, next_look = time.monotonic(), 0.0
    for number in range(int(rate * duration)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        arrivals.put(picture(random))
        if time.monotonic() - began > next_look:
            next_look += 5 if duration < 120 else 30
            memory = worker.memory_info().rss / 1e6
            print(
                f"{time.monotonic() - began:6.0f} s  {memory:6.0f} MB  queue {depth():3.0f}  "
                f"not sent yet {arrivals.qsize():3}  {dict(answers)}",
                flush=True,
            )
    for _ in threads:
        arrivals.put(None)
    for thread in threads:
        thread.join()
    return answers


def outcome(browser: Browser, data: bytes) -> str:
    try:
        browser.send(data)
    except urllib.error.HTTPError as error:
        clean = error.code == 503 and error.headers.get("Retry-After")
        return "503 with Retry-After" if clean else str(error.code)
    except Exception as error:  # a connection that broke
        return type(error).__name__
    return "taken in"


def recovery() -> None:
    began = time.monotonic()
    browser, random = Browser(), np.random.default_rng(time.monotonic_ns())
    while outcome(browser, picture(random)) != "taken in":
        time.sleep(0.05)
    print(f"taken in again {time.monotonic() - began:.2f} s after the load's end", flush=True)
    while depth() > 0:
        time.sleep(0.1)
    print(f"all described {time.monotonic() - began:.1f} s after it")


def report(answers: collections.Counter[str]) -> None:
    bad = sum(answers.values()) - answers["taken in"] - answers["503 with Retry-After"]
    print(f"{dict(answers)}: {bad} that should not be")


def depth() -> float:
    """Captions that wait, as /metrics has it."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=60) as answer:
        found = re.search(r"^captionapp_queue_depth (\S+)", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    main()
