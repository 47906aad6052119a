"""From ``gunicorn`` to ready, and the memory of each worker, also while a version is promoted.

    python benchmarks/start_memory.py [--checkpoint FOLDER] [--workers 3]

The first start measures the processor and checks the number formats; the later ones find both in
the instance folder. RSS counts what processes share in each of them, PSS its share.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from serving import ROOT, serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--workers", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.checkpoint.resolve()
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    print(f"weights in the file: {weights:.0f} MB")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        for start in ("first start", "second start"):
            print(f"{start}: ready after {start_and_look(folder, path, 1):.1f} s", flush=True)
        for workers in range(2, arguments.workers + 1):
            start_and_look(folder, path, workers)
        promote(folder, path)


def start_and_look(folder: Path, temporary: Path, workers: int) -> float:
    """Seconds until a caption can be made; prints the memory of each worker."""
    began = time.monotonic()
    with serving("ours", folder, temporary, CAPTIONAPP_WORKERS=str(workers)) as server:
        seconds = time.monotonic() - began
        wait_for_lines(temporary / "ours.log", "is ready after", workers)
        print(f"{workers} workers: " + ", ".join(map(memory, children(server))), flush=True)
    return seconds


def promote(folder: Path, temporary: Path) -> None:
    """Serve the shipped version, promote a copy of the checkpoint, and watch."""
    environment = os.environ | {"CAPTIONAPP_INSTANCE": str(temporary / "instance")}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "model"]
    pulled = subprocess.run(
        [*command, "pull", str(folder)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    version = pulled.stdout.split(" as ")[1].split()[0]
    with serving("ours", folder, temporary, CAPTIONAPP_MODEL="") as server:
        (worker,) = children(server)
        print(f"before a promotion: {memory(worker)}")
        most, over = [0.0], threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                most[0] = max(most[0], worker.memory_info().rss / 1e6)

        watching = threading.Thread(target=watch)
        watching.start()
        subprocess.run(
            [*command, "promote", version],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        wait_for_lines(temporary / "ours.log", f"serving {version} instead", 1)
        time.sleep(2)  # the old one goes with the next look at the pointer
        over.set()
        watching.join()
        print(f"at most {most[0]:.0f} MB RSS on the way; after it: {memory(worker)}")


def children(server: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(server.pid).children()


def memory(worker: psutil.Process) -> str:
    full = worker.memory_full_info()
    return f"RSS {full.rss / 1e6:.0f} MB, PSS {full.pss / 1e6:.0f} MB"


def wait_for_lines(log: Path, words: str, count: int) -> None:
    for _ in range(1200):
        if log.read_text().count(words) >= count:
            return
        time.sleep(0.1)
    sys.exit(f"{log} does not say {words!r} {count} times")


if __name__ == "__main__":
    main()
