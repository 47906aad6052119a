"""Captions over real HTTP: this application beside a plain Flask view and beside LitServe.

    python benchmarks/http_load.py                              # the shipped checkpoint
    python benchmarks/http_load.py --shape base --clients 1 4 16
    python benchmarks/http_load.py --servers ours --rate 40 --seconds 600   # open loop

Each server is started in turn, on the same checkpoint, the same options and the same cores as the
clients. Closed loop: so many clients, each of which sends its next picture when it has its caption.
Open loop (``--rate``): pictures arrive at that rate whatever the server does. Every picture is new,
so that none is answered from memory. ``plain`` is a view with one lock around ``generate()`` in
fp32, in one gunicorn worker with 16 threads; LitServe (``pip install litserve``, else it is left
out) runs the same ``generate()`` with its own batching.
"""

from __future__ import annotations

import argparse
import base64
import http.cookiejar
import importlib.util
import io
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
TOKENS = 20
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--shape", choices=["base"], help="random weights of this shape instead")
    parser.add_argument("--servers", nargs="+", default=["ours", "plain", "litserve"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, help="open loop: pictures a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.checkpoint
        if arguments.shape:
            folder = random_checkpoint(Path(temporary) / "base")
        print(f"{'server':10}{'clients':>8}{'done':>7}{'errors':>8}{'per s':>8}", end="")
        print(f"{'median s':>10}{'p95 s':>8}{'p99 s':>8}")
        for name in arguments.servers:
            if name == "litserve" and importlib.util.find_spec("litserve") is None:
                print("litserve is not installed")
                continue
            with server(name, folder.resolve(), Path(temporary)):
                if arguments.rate:
                    run = open_loop(sender(name), arguments.rate, arguments.seconds)
                    report(name, f"{arguments.rate}/s", *run)
                    continue
                for clients in arguments.clients:
                    run = closed_loop(partial(sender, name), clients, arguments.seconds)
                    report(name, str(clients), *run)


def report(
    name: str, clients: str, seconds: list[float], errors: dict[str, int], lasted: float
) -> None:
    """p99 only where a hundred answers or more give one."""
    print(f"{name:10}{clients:>8}{len(seconds):7}{sum(errors.values()):8}", end="")
    if len(seconds) > 1:
        cuts = statistics.quantiles(seconds, n=100)
        last = f"{cuts[98]:8.2f}" if len(seconds) >= 100 else f"{'-':>8}"
        print(f"{len(seconds) / lasted:8.2f}{cuts[49]:10.2f}{cuts[94]:8.2f}{last}", end="")
    print("  " + ", ".join(f"{count} x {kind}" for kind, count in errors.items()), flush=True)


Send = Callable[[bytes], None]


def closed_loop(
    new_sender: Callable[[], Send], clients: int, duration: float
) -> tuple[list[float], dict[str, int], float]:
    """Seconds of each answered request, errors by kind, and how long it lasted."""
    outcome = Outcome()
    began = time.monotonic()
    end = began + duration

    def client(number: int) -> None:
        send = new_sender()
        random = np.random.default_rng([number, time.monotonic_ns()])
        while time.monotonic() < end:
            outcome.time(send, picture(random))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome.seconds, outcome.errors, time.monotonic() - began


def open_loop(
    send: Send, rate: float, duration: float
) -> tuple[list[float], dict[str, int], float]:
    """As ``closed_loop``; requests that come while 256 are under way wait for one of them."""
    outcome = Outcome()
    arrivals: queue.Queue[bytes | None] = queue.Queue()

    def client() -> None:
        while (data := arrivals.get()) is not None:
            outcome.time(send, data)

    threads = [threading.Thread(target=client) for _ in range(256)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(time.monotonic_ns())
    began = time.monotonic()
    for number in range(int(rate * duration)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        arrivals.put(picture(random))
    for _ in threads:
        arrivals.put(None)
    for thread in threads:
        thread.join()
    return outcome.seconds, outcome.errors, time.monotonic() - began


class Outcome:
    """What became of the requests of all threads."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: dict[str, int] = {}
        self._lock = threading.Lock()

    def time(self, send: Send, data: bytes) -> None:
        began = time.monotonic()
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
                self.seconds.append(time.monotonic() - began)


def picture(random: np.random.Generator) -> bytes:
    """A JPEG that nobody has sent before."""
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def sender(name: str) -> Send:
    """Sends a picture and returns when its caption is there."""
    if name == "ours":
        return our_sender()

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


def our_sender() -> Send:
    """As a browser does it: the form, and the page that follows until the description is there."""
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(cookies)
    page = opener.open(URL, timeout=300).read().decode()
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert found, "the form has no token"
    token = found[1]

    def send(data: bytes) -> None:
        body = (
            f'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{token}\r\n'
            '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        ).encode()
        request = urllib.request.Request(f"{URL}/captions", data=body + data + b"\r\n--b--\r\n")
        request.add_header("Content-Type", "multipart/form-data; boundary=b")
        answer = opener.open(request, timeout=300)
        while 'data-status="waiting"' in (page := answer.read().decode()):
            time.sleep(0.1)
            answer = opener.open(answer.url, timeout=300)
        if 'data-status="failed"' in page:
            raise RuntimeError("no caption")

    return send


@contextmanager
def server(name: str, folder: Path, temporary: Path) -> Iterator[None]:
    here = Path(__file__).resolve()
    gunicorn = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{PORT}"]
    commands = {
        "ours": [*gunicorn, "-c", "gunicorn.conf.py", "wsgi:app"],
        "plain": [*gunicorn, "-k", "gthread", "--threads", "16", "--timeout", "600"]
        + ["http_servers:plain()"],
        "litserve": [sys.executable, str(here.parent / "http_litserve.py")],
    }
    environment = os.environ | {
        "CAPTIONAPP_INSTANCE": str(temporary / "instance"),
        "CAPTIONAPP_MODEL": str(folder),
        "CAPTIONAPP_RATE_LIMIT": "",
        "CAPTIONAPP_THREADS": "64",
        "CAPTIONAPP_NUM_BEAMS": "1",
        "CAPTIONAPP_MAX_NEW_TOKENS": str(TOKENS),
        "CAPTIONAPP_BATCH_SIZE": str(BATCH),
        "BENCHMARK_CHECKPOINT": str(folder),
        "BENCHMARK_TOKENS": str(TOKENS),
        "BENCHMARK_BATCH": str(BATCH),
        "BENCHMARK_PORT": str(PORT),
    }
    log = (temporary / f"{name}.log").open("wb")
    process = subprocess.Popen(
        commands[name],
        cwd=ROOT if name == "ours" else here.parent,  # where gunicorn finds its configuration
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        wait_until_ready(f"{URL}/{'readyz' if name == 'ours' else 'health'}", process)
        sender(name)(picture(np.random.default_rng(0)))  # the first one is slower everywhere
        yield
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            sys.exit("the server did not start")
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:  # not there yet, or 503
            time.sleep(0.25)
    sys.exit("the server did not become ready")


def random_checkpoint(folder: Path) -> Path:
    """BLIP-base's shape, with a vocabulary of numbers."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    torch.manual_seed(0)
    vision = {"initializer_range": 0.02}
    config = BlipConfig(text_config=dict(vision), vision_config=vision)
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    size = config.text_config.vocab_size
    words = {special.get(number, f"w{number}"): number for number in range(size)}
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(), BertTokenizerFast(vocab=words)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
