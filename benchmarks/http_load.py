"""Captions over real HTTP: this application beside a plain Flask view and beside LitServe.

    python benchmarks/http_load.py                              # the shipped checkpoint
    python benchmarks/http_load.py --shape base --clients 1 4 16
    python benchmarks/http_load.py --workers 2 --clients 16     # what `flask model benchmark` says
    python benchmarks/http_load.py --pictures DIR               # photographs, instead of drawings
    python benchmarks/http_load.py --servers ours --rate 40 --seconds 600   # open loop

Each server is started in turn, on the same checkpoint, the same options and the same cores as the
clients, and is sent the same pictures for the same number of clients. They are made before the
clock starts, a gigabyte of them at most; if some had to be made while it ran, the line says how
many. Closed loop: so many clients, each of which sends its next picture when it has its caption.
Open loop (``--rate``): pictures arrive at that rate whatever the server does. Every picture is new,
so that none is answered from memory. ``plain`` is a view with one lock around ``generate()`` in
fp32, in one gunicorn worker with 16 threads; LitServe (``pip install litserve``, else it is left
out) runs the same ``generate()`` with its own batching. The last columns are milliseconds of a core
for each answered request: of the server with its workers, and of the clients.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import queue
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pictures import Pictures
from serving import ROOT, URL, Browser, processor_seconds, random_checkpoint, serving

#: Pictures that are made ahead for each second of a closed loop.
AHEAD_PER_SECOND = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--shape", choices=["base", "large"], help="random weights instead")
    parser.add_argument("--servers", nargs="+", default=["ours", "plain", "litserve"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--workers", type=int, default=1, help="ours; see `flask model benchmark`")
    parser.add_argument("--rate", type=float, help="open loop: pictures a second")
    parser.add_argument("--pictures", type=Path, help="a folder of photographs to send")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.checkpoint
        if arguments.shape:
            folder = random_checkpoint(Path(temporary) / "model", arguments.shape)
        print(f"{'server':10}{'clients':>8}{'done':>7}{'errors':>8}{'per s':>8}", end="")
        print(f"{'median s':>10}{'p95 s':>8}{'p99 s':>8}{'server ms':>11}{'clients ms':>12}")
        pictures = Pictures(arguments.pictures)
        for name in arguments.servers:
            if name == "litserve" and importlib.util.find_spec("litserve") is None:
                print("litserve is not installed")
                continue
            workers = {"CAPTIONAPP_WORKERS": str(arguments.workers)}
            with serving(name, folder.resolve(), Path(temporary), **workers) as server:
                pictures.begin(0, ahead=1)
                sender(name)(pictures())  # the first one is slower
                if arguments.rate:
                    pictures.begin(1, ahead=int(arguments.rate * arguments.seconds))
                    with processor_time(server) as spent:
                        run = open_loop(sender(name), pictures, arguments.rate, arguments.seconds)
                    report(name, f"{arguments.rate}/s", *run, spent, pictures.late)
                    continue
                for number, clients in enumerate(arguments.clients, start=1):
                    pictures.begin(number, ahead=int(AHEAD_PER_SECOND * arguments.seconds))
                    with processor_time(server) as spent:
                        run = closed_loop(
                            partial(sender, name), pictures, clients, arguments.seconds
                        )
                    report(name, str(clients), *run, spent, pictures.late)
                if name == "ours":
                    seconds = known_page(Path(temporary) / "ours.log", pictures())
                    print(f"a page with its caption: {1000 * seconds:.1f} ms of the server")


@contextmanager
def processor_time(server: subprocess.Popen[bytes]) -> Iterator[dict[str, float]]:
    """Seconds that the ``server`` and these ``clients`` use within; known at the end."""
    spent: dict[str, float] = {}
    before, own = processor_seconds(server), time.process_time()
    yield spent
    spent["server"] = processor_seconds(server) - before
    spent["clients"] = time.process_time() - own


def report(
    name: str,
    clients: str,
    seconds: list[float],
    errors: dict[str, int],
    lasted: float,
    spent: dict[str, float],
    late: int,
) -> None:
    """p99 only where a hundred answers or more give one."""
    print(f"{name:10}{clients:>8}{len(seconds):7}{sum(errors.values()):8}", end="")
    if len(seconds) > 1:
        cuts = statistics.quantiles(seconds, n=100)
        last = f"{cuts[98]:8.2f}" if len(seconds) >= 100 else f"{'-':>8}"
        print(f"{len(seconds) / lasted:8.2f}{cuts[49]:10.2f}{cuts[94]:8.2f}{last}", end="")
        server, own = (1000 * spent[who] / len(seconds) for who in ("server", "clients"))
        print(f"{server:11.1f}{own:12.1f}", end="")
    notes = [f"{count} x {kind}" for kind, count in errors.items()]
    notes += [f"{late} pictures were made meanwhile"] if late else []
    print("  " + ", ".join(notes), flush=True)


Send = Callable[[bytes], None]


def closed_loop(
    new_sender: Callable[[], Send], pictures: Pictures, clients: int, duration: float
) -> tuple[list[float], dict[str, int], float]:
    """Seconds of each answered request, errors by kind, and how long it lasted."""
    outcome = Outcome()
    began = time.monotonic()
    end = began + duration

    def client() -> None:
        send = new_sender()
        while time.monotonic() < end:
            data = pictures()
            outcome.time(send, data, time.monotonic())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome.seconds, outcome.errors, time.monotonic() - began


def open_loop(
    send: Send, pictures: Pictures, rate: float, duration: float
) -> tuple[list[float], dict[str, int], float]:
    """As ``closed_loop``; requests that come while 256 are under way wait for one of them, and that
    is a part of their seconds, which are counted from when they were due."""
    outcome = Outcome()
    arrivals: queue.Queue[tuple[bytes, float] | None] = queue.Queue()

    def client() -> None:
        while (arrival := arrivals.get()) is not None:
            outcome.time(send, *arrival)

    threads = [threading.Thread(target=client) for _ in range(256)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    for number in range(int(rate * duration)):
        data, due = pictures(), began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        arrivals.put((data, due))
    for _ in threads:
        arrivals.put(None)
    for thread in threads:
        thread.join()
    return outcome.seconds, outcome.errors, time.monotonic() - began


def known_page(log: Path, picture: bytes, times: int = 200) -> float:
    """Median seconds, by the server's own log, of a page whose picture has its caption."""
    browser = Browser()
    page = browser.send(picture)
    for _ in range(times):
        browser.read(page)
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"method": "GET"')]
    asked = [one for one in map(json.loads, lines) if one["route"] == "/images/<image_id>"]
    return statistics.median(one["seconds"] for one in asked[-times:])


class Outcome:
    """What became of the requests of all threads."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: dict[str, int] = {}
        self._lock = threading.Lock()

    def time(self, send: Send, data: bytes, due: float) -> None:
        """Send it; ``due`` is the moment (``time.monotonic``) that the wait is counted from."""
        problem = ""
        try:
            send(data)
        except urllib.error.HTTPError as error:
            problem = str(error.code)
        except Exception as error:  # a connection that broke is an error of the server too
            problem = type(error).__name__
        with self._lock:
            if problem:
                self.errors[problem] = self.errors.get(problem, 0) + 1
            else:
                self.seconds.append(time.monotonic() - due)


def sender(name: str) -> Send:
    """Sends a picture and returns when its caption is there."""
    if name == "ours":
        return Browser().describe

    def send(data: bytes) -> None:
        kind = "application/octet-stream"
        if name == "litserve":
            data = json.dumps({"image": base64.b64encode(data).decode()}).encode()
            kind = "application/json"
        request = urllib.request.Request(f"{URL}/predict", data=data)
        request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()

    return send


if __name__ == "__main__":
    main()
