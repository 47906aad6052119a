"""What the programs that measure over HTTP share: servers, a browser, a checkpoint."""

from __future__ import annotations

import contextlib
import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
PORT = int(os.environ.get("BENCHMARK_PORT", "8765"))
URL = f"http://127.0.0.1:{PORT}"
TOKENS = 20
BATCH = 8


class Browser:
    """Sends pictures by the form, with its cookie and its token."""

    def __init__(self) -> None:
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies, _StayHere())
        found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', self.read("/"))
        assert found, "the form has no token"
        self._token = found[1]

    def send(self, data: bytes) -> str:
        """The address of the picture's page. An answer of 400 or more is raised as HTTPError."""
        body = (
            f'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{self._token}\r\n'
            '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        ).encode()
        request = urllib.request.Request(f"{URL}/captions", data=body + data + b"\r\n--b--\r\n")
        request.add_header("Content-Type", "multipart/form-data; boundary=b")
        with self._opener.open(request, timeout=300) as answer:
            location: str = answer.headers["Location"]
        return location

    def describe(self, data: bytes) -> None:
        """Send a picture, and return when its page has the description."""
        where = self.send(data)
        while 'data-status="waiting"' in (page := self.read(where)):
            time.sleep(0.1)
        if 'data-status="failed"' in page:
            raise RuntimeError("no caption")

    def read(self, path: str) -> str:
        """The page at this path."""
        with self._opener.open(f"{URL}{path}", timeout=300) as answer:
            text: str = answer.read().decode()
        return text


class _StayHere(urllib.request.HTTPErrorProcessor):
    """A redirection is an answer."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response if response.status == 303 else super().http_response(request, response)


@contextmanager
def serving(
    name: str, folder: Path, temporary: Path, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``ours``, ``plain`` or ``litserve`` on this checkpoint, from when it can caption."""
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
        "CAPTIONAPP_THREADS": str(4 * BATCH),  # what ``flask model benchmark`` recommends
        "CAPTIONAPP_NUM_BEAMS": "1",
        "CAPTIONAPP_MAX_NEW_TOKENS": str(TOKENS),
        "CAPTIONAPP_BATCH_SIZE": str(BATCH),
        "BENCHMARK_CHECKPOINT": str(folder),
        "BENCHMARK_TOKENS": str(TOKENS),
        "BENCHMARK_BATCH": str(BATCH),
        "BENCHMARK_PORT": str(PORT),
    }
    with (temporary / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            commands[name],
            cwd=ROOT if name == "ours" else here.parent,  # where gunicorn finds its configuration
            env=environment | settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until_ready(f"{URL}/{'readyz' if name == 'ours' else 'health'}", process)
            yield process
        finally:
            process.terminate()
            process.wait(60)
            with contextlib.suppress(ProcessLookupError):  # LitServe leaves its workers
                os.killpg(process.pid, signal.SIGKILL)


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """That a server and the processes it has started have used so far."""
    root = psutil.Process(process.pid)
    times = [one.cpu_times() for one in [root, *root.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if process.poll() is not None:
            sys.exit("the server did not start")
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:  # not there yet, or 503
            time.sleep(0.05)
    sys.exit("the server did not become ready")


def random_checkpoint(folder: Path, shape: str = "base") -> Path:
    """BLIP-base's or -large's shape, with random weights and a vocabulary of numbers."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    torch.manual_seed(0)
    vision: dict[str, Any] = {"initializer_range": 0.02}
    text: dict[str, Any] = {"initializer_range": 0.02}
    if shape == "large":
        vision |= {"hidden_size": 1024, "intermediate_size": 4096}
        vision |= {"num_hidden_layers": 24, "num_attention_heads": 16}
        text |= {"encoder_hidden_size": 1024}
    config = BlipConfig(text_config=text, vision_config=vision)
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    size = config.text_config.vocab_size
    words = {special.get(number, f"w{number}"): number for number in range(size)}
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(), BertTokenizerFast(vocab=words)).save_pretrained(folder)
    return folder
