"""Promote and roll back again and again under clients, with gunicorn as a process.

    python benchmarks/promotion.py --times 50 --clients 8

Two copies of a checkpoint are made that caption differently on purpose: a word in every caption
says which of them wrote it. Clients send picture after picture while the one is promoted and the
other comes back. Counted are requests that fail, pictures that are taken in and not described,
captions that are attributed to the wrong version, the seconds until every worker serves the new
version, and the resident memory of the workers, before the first promotion and after the last.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from captionapp.captioning.versions import ModelVersions  # noqa: E402
from tests.gunicorn_server import Browser, Server  # noqa: E402
from tests.marked import MARKS, attribution, fits, make_marked, on_page, picture  # noqa: E402

#: What is promised: every worker follows within so many seconds.
PROMISED_SECONDS = 5.0


@dataclass
class Seen:
    """What the clients got."""

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    captions: int = 0


def send(base: str, seed: int, seen: Seen, finished: threading.Event) -> None:
    browser, chance = Browser(base), random.Random(seed)
    while not finished.is_set():
        started = time.monotonic()
        try:
            page = browser.upload(picture(chance))
            status, shown = page.status, on_page(page.text)
        except Exception as error:  # each is a request that failed; nobody reads the thread's
            status, shown = type(error).__name__, None
        seen.seconds.append(time.monotonic() - started)
        seen.statuses[status] += 1
        if shown:
            seen.captions += 1
            if not fits(*shown):
                seen.wrong.append(shown)


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def resident(server: Server) -> list[int]:
    """Megabytes of each worker."""
    return [process.memory_info().rss // 1_000_000 for process in workers(server)]


def until_followed(server: Server, version: str, before: int, number: int) -> float:
    """Seconds from now until so many workers more have said that they serve the version."""
    started = time.monotonic()
    while swaps(server, version) < before + number:
        if time.monotonic() - started > 120:
            raise SystemExit(f"{version} is not served by all workers after two minutes.")
        time.sleep(0.05)
    return time.monotonic() - started


def swaps(server: Server, version: str) -> int:
    return server.log.read_text().count(f"serving {version} instead of")


def command(instance: Path, *args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "model", *args],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("CAPTIONAPP_")}
        | {"CAPTIONAPP_INSTANCE": str(instance)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def run(arguments: argparse.Namespace, folder: Path) -> int:
    instance = folder / "instance"
    versions = ModelVersions(instance / "models", ROOT / "fine-tuned-model")
    for name, mark in MARKS.items():
        versions.pull(str(make_marked(arguments.checkpoint, folder / name, mark)))
    left, right = [one.name for one in versions.list() if one.origin == "pulled"]
    versions.set_current(left)
    server = Server(
        instance,
        folder / "log",
        workers=str(arguments.workers),
        torch_threads="1",
        queue_size="256",
    )
    try:
        server.until_ready()
        return measure(arguments, instance, server, versions, (left, right))
    finally:
        server.stop()


def measure(
    arguments: argparse.Namespace,
    instance: Path,
    server: Server,
    versions: ModelVersions,
    names: tuple[str, str],
) -> int:
    left, right = names
    seen, finished = Seen(), threading.Event()
    delays: list[float] = []
    with ThreadPoolExecutor(arguments.clients) as pool:
        for seed in range(arguments.clients):
            pool.submit(send, server.base, seed, seen, finished)
        try:
            while len(seen.seconds) < 10 * arguments.clients:
                time.sleep(0.1)
            before = resident(server)
            most = list(before)
            for turn in range(arguments.times):
                for version, words in ((right, ("promote", right)), (left, ("rollback",))):
                    known = swaps(server, version)
                    if turn < arguments.commands:
                        command(instance, *words)
                    else:
                        versions.set_current(version, left if version == right else "")
                    delays.append(until_followed(server, version, known, arguments.workers))
                    most = [max(pair) for pair in zip(most, resident(server), strict=True)]
                print(f"{turn + 1}: {max(delays[-2:]):.1f} s, {resident(server)} MB", flush=True)
        finally:
            finished.set()
    time.sleep(3)
    return report(instance, server, seen, delays, (before, most, resident(server)))


def report(
    instance: Path,
    server: Server,
    seen: Seen,
    delays: list[float],
    memory: tuple[list[int], list[int], list[int]],
) -> int:
    failed = sum(count for status, count in seen.statuses.items() if status != 200)
    kept = attribution(instance)
    undescribed = len(seen.seconds) - failed - kept.captions  # taken in, and then lost
    ordered = sorted(seen.seconds)
    before, most, after = memory
    lines = {
        "promotions and rollbacks": len(delays),
        "requests": len(ordered),
        "failed requests": failed,
        "taken in and not described": undescribed,
        "statuses": json.dumps({str(k): v for k, v in seen.statuses.items()}),
        "captions shown, of the wrong version": f"{seen.captions}, {len(seen.wrong)}",
        "captions kept, of the wrong version": f"{kept.captions}, {len(kept.wrong)}",
        "seconds of an upload, median, 99 %, longest": f"{statistics.median(ordered):.2f}, "
        f"{ordered[int(0.99 * len(ordered))]:.2f}, {ordered[-1]:.2f}",
        "seconds until all workers follow, median, longest": f"{statistics.median(delays):.1f}, "
        f"{max(delays):.1f}",
        "memory of each worker before (MB)": before,
        "memory of each worker, most seen (MB)": most,
        "memory of each worker after (MB)": after,
        "tracebacks in the log": server.log.read_text().count("Traceback"),
    }
    for name, value in lines.items():
        print(f"{name}: {value}")
    late = sum(delay > PROMISED_SECONDS for delay in delays)
    print(f"followed later than {PROMISED_SECONDS:g} s: {late}")
    grown = any(x > 1.1 * y for x, y in zip(after, before, strict=True))
    return int(bool(failed or undescribed or seen.wrong or kept.wrong or late or grown))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=50, help="promotions, each with a rollback")
    parser.add_argument(
        "--commands", type=int, default=3, help="of these, by the commands as processes"
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(arguments, Path(folder))


if __name__ == "__main__":
    if os.name == "nt":
        sys.exit("This needs gunicorn: run it on Linux or macOS.")
    sys.exit(main())
