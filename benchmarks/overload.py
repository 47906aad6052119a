"""More than it can do: pictures arrive at twice the capacity, whatever the server answers.

    python benchmarks/overload.py                    # ten minutes, the shipped checkpoint
    python benchmarks/overload.py --seconds 60 --times 3

Capacity is measured first, by sixteen clients in a closed loop. Then pictures arrive at so many
times that rate; each is sent once, by as many threads as it needs. All are made before, as for
``http_load.py``. Memory of the worker and length of the queue are noted. When the load ends, a
client asks until it is taken in, and until all that was taken in is described. Ends with exit code
1 and the reasons if there was any other answer than a page or a 503 with Retry-After, no 503 at
all, a longer queue than allowed, memory that grew, or a second without being taken in again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
from http_load import AHEAD_PER_SECOND, closed_loop
from pictures import Pictures
from serving import ROOT, URL, Browser, serving

QUEUE = 64
CLIENTS = 256
CAPACITY_SECONDS = 20
#: What the worker's memory may have grown by between the first fifth of the time and the last.
GROWTH = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--times", type=float, default=2, help="of the capacity")
    arguments = parser.parse_args()
    pictures = Pictures()
    with tempfile.TemporaryDirectory() as temporary, served(arguments.checkpoint, temporary):
        pictures.begin(0, ahead=AHEAD_PER_SECOND * CAPACITY_SECONDS)
        done, _, lasted = closed_loop(lambda: Browser().describe, pictures, 16, CAPACITY_SECONDS)
        capacity = len(done) / lasted
        late(pictures)
    # What is measured from here on is taking in, not waiting.
    with (
        tempfile.TemporaryDirectory() as temporary,
        served(arguments.checkpoint, temporary, CAPTIONAPP_WAIT_SECONDS="0") as server,
    ):
        rate = arguments.times * capacity
        print(f"capacity {capacity:.1f}/s; {rate:.1f}/s for {arguments.seconds:.0f} s", flush=True)
        pictures.begin(1, ahead=int(rate * arguments.seconds))
        (worker,) = psutil.Process(server.pid).children()
        described = metric("captionapp_captions_total")
        answers, looks, ended = overload(worker, pictures, rate, arguments.seconds)
        described = metric("captionapp_captions_total") - described
        print(f"described meanwhile: {described / arguments.seconds:.1f}/s", flush=True)
        late(pictures)
        problems = wrong(answers, looks, recovery(ended, pictures))
        print(dict(answers))
        sys.exit("; ".join(problems) or None)


def served(
    checkpoint: Path, temporary: str, **settings: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    settings["CAPTIONAPP_QUEUE_SIZE"] = str(QUEUE)
    return serving("ours", checkpoint.resolve(), Path(temporary), **settings)


def overload(
    worker: psutil.Process, pictures: Pictures, rate: float, duration: float
) -> tuple[collections.Counter[str], list[tuple[float, float]], float]:
    """How often each answer came; memory (MB) and length of the queue every second; when the load
    ended (``time.monotonic``). Prints a line now and then."""
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
    looks: list[tuple[float, float]] = []
    began, next_line = time.monotonic(), 0.0
    for number in range(int(rate * duration)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        arrivals.put(pictures())
        since = time.monotonic() - began
        if since > len(looks):
            looks.append((worker.memory_info().rss / 1e6, metric("captionapp_queue_depth")))
        if since > next_line:
            next_line += 5 if duration < 120 else 30
            print(
                f"{since:6.0f} s  {looks[-1][0]:6.0f} MB  queue {looks[-1][1]:3.0f}  "
                f"not sent yet {arrivals.qsize():3}  {dict(answers)}",
                flush=True,
            )
    ended = time.monotonic()
    arrivals.queue.clear()  # what nobody had a thread for does not go on loading the server
    for _ in threads:
        arrivals.put(None)
    for thread in threads:
        thread.join()
    return answers, looks, ended


def late(pictures: Pictures) -> None:
    """Say so if the clients had to make some."""
    if pictures.late:
        print(f"{pictures.late} pictures were made meanwhile", flush=True)


def outcome(browser: Browser, data: bytes) -> str:
    try:
        browser.send(data)
    except urllib.error.HTTPError as error:
        clean = error.code == 503 and error.headers.get("Retry-After")
        return "503 with Retry-After" if clean else str(error.code)
    except Exception as error:  # a connection that broke
        return type(error).__name__
    return "taken in"


def recovery(ended: float, pictures: Pictures) -> float:
    """Seconds from the load's end until a picture was taken in."""
    browser = Browser()
    while outcome(browser, pictures()) != "taken in":
        time.sleep(0.05)
    seconds = time.monotonic() - ended
    print(f"taken in again {seconds:.2f} s after the load's end", flush=True)
    while metric("captionapp_queue_depth") > 0:
        time.sleep(0.1)
    print(f"all described {time.monotonic() - ended:.1f} s after it")
    return seconds


def wrong(
    answers: collections.Counter[str], looks: list[tuple[float, float]], recovered: float
) -> list[str]:
    """What should not be so."""
    bad = sum(answers.values()) - answers["taken in"] - answers["503 with Retry-After"]
    fifth = max(1, len(looks) // 5)
    before, after = (max(memory for memory, _ in part) for part in (looks[:fifth], looks[-fifth:]))
    longest = max(depth for _, depth in looks)
    checks = {
        f"{bad} other answers": bad > 0,
        "nothing was refused: it was no overload": not answers["503 with Retry-After"],
        f"memory grew from {before:.0f} to {after:.0f} MB": after > GROWTH * before,
        f"the queue was {longest:.0f} long": longest > QUEUE,
        f"{recovered:.1f} s until it took pictures in again": recovered > 1,
    }
    return [problem for problem, is_so in checks.items() if is_so]


def metric(name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=60) as answer:
        lines = answer.read().decode()
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", lines, re.MULTILINE)))


if __name__ == "__main__":
    main()
