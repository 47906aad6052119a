"""gunicorn as a process, with a real checkpoint behind it: a tiny one, made for the tests."""

from __future__ import annotations

import csv
import html
import http.cookiejar
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import draw, encoded
from tests.waiting import until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent


class Answer:
    def __init__(self, response: Any) -> None:
        self.status: int = response.status
        self.url: str = response.url
        self.headers = response.headers
        self.text: str = response.read().decode()


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Browser:
    """Keeps cookies, and sends forms with the token of their page."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.follow_redirects(True)

    def follow_redirects(self, follow: bool) -> None:
        handlers: list[Any] = [urllib.request.HTTPCookieProcessor(self.cookies)]
        if not follow:
            handlers.append(NoRedirects())
        self.opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Answer:
        return self._open(urllib.request.Request(self.base + path))

    def post(self, path: str, fields: dict[str, str], file: bytes | None = None) -> Answer:
        boundary = uuid.uuid4().hex
        body = io.BytesIO()
        for name, value in fields.items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            body.write(f"{head}{value}\r\n".encode())
        if file is not None:
            head = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n'
            )
            body.write(f"{head}\r\n".encode() + file + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._open(urllib.request.Request(self.base + path, body.getvalue(), headers))

    def upload(self, picture: bytes) -> Answer:
        return self.post("/captions", {"csrf_token": field(self.get("/"), "csrf_token")}, picture)

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with self.opener.open(request, timeout=60) as response:
                return Answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error)


def field(page: Answer, name: str) -> str:
    """Value of the first input of this name."""
    for tag in re.findall(r"<input[^>]*>", page.text):
        if f'name="{name}"' in tag:
            value = re.search(r'value="([^"]*)"', tag)
            assert value
            return html.unescape(value[1])
    raise AssertionError(f"there is no field {name} on {page.url}")


class Server:
    """A gunicorn with this project's configuration."""

    def __init__(self, instance: Path, log: Path, *args: str, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.base = f"http://127.0.0.1:{free.getsockname()[1]}"
        environment = {x: y for x, y in os.environ.items() if not x.startswith("CAPTIONAPP_")}
        environment |= {"CAPTIONAPP_INSTANCE": str(instance), "CAPTIONAPP_RATE_LIMIT": ""}
        environment |= {f"CAPTIONAPP_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--bind", self.base.removeprefix("http://"), *args],
                cwd=ROOT,
                env=environment,
                stderr=stream,
            )

    def browser(self) -> Browser:
        return Browser(self.base)

    def status(self, path: str) -> int:
        try:
            return self.browser().get(path).status
        except OSError:
            return 0

    def until_alive(self) -> None:
        until(lambda: self.status("/healthz") == 200 or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.log.read_text()

    def until_ready(self) -> None:
        self.until_alive()
        until(lambda: self.status("/readyz") == 200, 90)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def workers_that_answered(self) -> set[str]:
        """Process ids in the names of the files that the metrics of each worker are in."""
        folder = self.metrics_folder()
        return {file.stem.rsplit("_", 1)[-1] for file in folder.glob("counter_*.db")}

    def metrics_folder(self) -> Path:
        temporary = Path(tempfile.gettempdir())
        (folder,) = temporary.glob(f"captionapp-metrics-{self.process.pid}-*")
        return folder

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(90)


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path) -> Iterator[Any]:
    servers: list[Server] = []

    def start(*args: str, **settings: str) -> Server:
        settings = {"model": str(checkpoint), "torch_threads": "1"} | settings
        server = Server(tmp_path / "instance", tmp_path / "log", *args, **settings)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def sample(text: str, name: str) -> float:
    """Sum over the labels."""
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


def test_from_the_start_to_a_row_of_feedback(start: Any, tmp_path: Path) -> None:
    server = start()
    server.until_alive()
    assert server.status("/readyz") == 503  # loading torch takes longer than a request
    server.until_ready()

    browser = server.browser()
    page = browser.upload(encoded(draw()))
    assert page.status == 200
    assert re.search("/images/[0-9a-f]{32}$", page.url)
    form = {
        "csrf_token": field(page, "csrf_token"),
        "caption_id": field(page, "caption_id"),
        "verdict": "corrected",
        "correction": "a red ball on a meadow",
    }
    assert browser.post(page.url.removeprefix(server.base) + "/feedback", form).status == 200
    with (tmp_path / "instance" / "feedback.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["feedback"] == "a red ball on a meadow"
    assert row["model_version"].startswith("tiny-")

    assert browser.post("/captions", {}, encoded(draw())).status == 400  # without a token

    assert server.stop() == 0
    lines = server.lines()  # each is JSON, gunicorn's own too
    assert any(line["logger"] == "gunicorn.error" for line in lines)
    (upload,) = [x for x in lines if x.get("route") == "/captions" and x["status"] == 303]
    assert upload["pictures"] == [row["image_id"]]
    assert upload["steps"]["caption"] > 0
    assert "meadow" not in server.log.read_text()
    assert not list(Path(tempfile.gettempdir()).glob(f"*-{server.process.pid}-*"))


def test_stopping_answers_the_caption_in_flight(start: Any) -> None:
    server = start()
    server.until_alive()
    with ThreadPoolExecutor() as pool:
        browser = server.browser()
        browser.follow_redirects(False)
        answer = pool.submit(browser.upload, encoded(draw()))
        token_page = '"route": "/"'  # the upload's form was fetched: its picture is next
        until(lambda: token_page in server.log.read_text())
        time.sleep(0.3)
        assert not answer.done()
        assert server.status("/readyz") == 503  # the model is still being loaded
        server.process.send_signal(signal.SIGTERM)
        sent = answer.result(60)
    assert (sent.status, sent.headers["Location"][:8]) == (303, "/images/")
    assert server.process.wait(60) == 0
    (upload,) = [x for x in server.lines() if x.get("route") == "/captions"]
    assert upload["status"] == 303
    assert upload["steps"]["caption"] > 0
    again = start()
    again.until_ready()
    browser.base = again.base
    page = browser.get(sent.headers["Location"])
    assert page.status == 200
    assert field(page, "caption_id")


def test_a_reload_fails_no_request(start: Any) -> None:
    server = start()
    server.until_ready()
    answered: list[int] = []
    finished = threading.Event()

    def stream(first: int) -> None:
        browser = server.browser()
        number = first
        while not finished.is_set():
            answered.append(browser.get("/healthz").status)
            answered.append(browser.upload(encoded(draw(f"#{number:06x}"))).status)
            number += 1

    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, first * 10_000) for first in range(3)]
        try:
            until(lambda: len(answered) > 10, 60)
            before = server.workers_that_answered()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.workers_that_answered() > before, 60)
            seen = len(answered)
            until(lambda: len(answered) > seen + 10, 60)
        finally:
            finished.set()  # or the streams would go on, and the pool wait for them
        for one in streams:
            one.result()  # raises what failed
    assert set(answered) == {200}
    assert server.stop() == 0


def test_two_workers_share_pictures_and_add_up_their_numbers(start: Any) -> None:
    server = start(workers="2")
    server.until_ready()
    browser = server.browser()
    browser.upload(encoded(draw("black")))  # from here on the browser has its id
    colours = [f"#{number:02x}4080" for number in range(0, 240, 30)]
    with ThreadPoolExecutor(4) as pool:  # more than one at a time, so that both workers get some
        token = field(browser.get("/"), "csrf_token")
        pages = list(
            pool.map(
                lambda c: browser.post("/captions", {"csrf_token": token}, encoded(draw(c))),
                colours,
            )
        )
    assert {page.status for page in pages} == {200}
    assert len({page.url for page in pages}) == len(colours)
    for page in pages:
        for _ in range(4):
            seen = browser.get(page.url.removeprefix(server.base))
            assert seen.status == 200
            assert field(seen, "caption_id") == field(page, "caption_id")
    assert len(server.workers_that_answered()) == 2
    text = browser.get("/metrics").text
    assert sample(text, "captionapp_pictures_total") == len(colours) + 1
    assert sample(text, "captionapp_captions_total") == len(colours) + 1
    posts = r'captionapp_requests_total\{method="POST",route="/captions",status="303"\}'
    assert re.search(rf"{posts} {len(colours) + 1}\.0", text)
    assert sample(text, "captionapp_queue_depth") == 0
    assert sample(browser.get("/metrics").text, "captionapp_model_loaded") in (1, 2)


@pytest.mark.parametrize(
    ("args", "settings", "sentence"),
    [
        ((), {"threads": "many"}, "Error: CAPTIONAPP_THREADS is 'many'"),
        (("--preload",), {}, "preload cannot be used"),
    ],
)
def test_what_cannot_work_stops_the_start_with_a_sentence(
    start: Any, args: tuple[str, ...], settings: dict[str, str], sentence: str
) -> None:
    server = start(*args, **settings)
    assert server.process.wait(30) != 0
    log = server.log.read_text()
    assert sentence in log
    assert "Traceback" not in log


def test_what_only_a_worker_finds_stops_the_start_too(start: Any, tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "secret_key").touch()
    server = start()
    assert server.process.wait(30) != 0
    log = server.log.read_text()
    assert "secret_key is empty" in log
    assert "Traceback" not in log


def test_a_missing_model_is_a_503_and_not_the_end(start: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = start(model=str(tmp_path / "empty"))
    server.until_alive()
    browser = server.browser()
    until(lambda: "no checkpoint" in browser.get("/readyz").text)
    answer = browser.upload(encoded(draw()))
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.status("/healthz") == 200
    assert server.stop() == 0


def test_a_reload_with_broken_settings_leaves_the_server_as_it_is(
    start: Any, tmp_path: Path
) -> None:
    server = start()
    server.until_alive()
    (tmp_path / "instance" / "config.py").write_text("CAPTIONAPP_THREADS = 'many'\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded: CAPTIONAPP_THREADS is 'many'" in server.log.read_text())
    assert server.status("/healthz") == 200
    assert server.process.poll() is None
