"""gunicorn as a process, with a real checkpoint behind it: a tiny one, made for the tests."""

from __future__ import annotations

import csv
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import draw, encoded
from tests.gunicorn_server import Server, field
from tests.waiting import until

pytestmark = pytest.mark.server


def sample(text: str, name: str) -> float:
    """Sum over the labels."""
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


def test_from_the_start_to_a_row_of_feedback(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
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


def test_stopping_answers_the_caption_in_flight(start_server: Callable[..., Server]) -> None:
    server = start_server()
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
    again = start_server()
    again.until_ready()
    browser.base = again.base
    page = browser.get(sent.headers["Location"])
    assert page.status == 200
    assert field(page, "caption_id")


def test_a_reload_fails_no_request(start_server: Callable[..., Server]) -> None:
    server = start_server()
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
            until(lambda: len(answered) > 10)
            before = server.workers_that_answered()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.workers_that_answered() > before)
            seen = len(answered)
            until(lambda: len(answered) > seen + 10)
        finally:
            finished.set()  # or the streams would go on, and the pool wait for them
        for one in streams:
            one.result()  # raises what failed
    assert set(answered) == {200}
    assert server.stop() == 0


def test_two_workers_share_pictures_and_add_up_their_numbers(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(workers="2")
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
    start_server: Callable[..., Server],
    args: tuple[str, ...],
    settings: dict[str, str],
    sentence: str,
) -> None:
    server = start_server(*args, **settings)
    assert server.process.wait(120) != 0
    log = server.log.read_text()
    assert sentence in log
    assert "Traceback" not in log


def test_what_only_a_worker_finds_stops_the_start_too(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "secret_key").touch()
    server = start_server()
    assert server.process.wait(120) != 0
    log = server.log.read_text()
    assert "secret_key is empty" in log
    assert "Traceback" not in log


def test_a_missing_model_is_a_503_and_not_the_end(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    server = start_server(model=str(tmp_path / "empty"))
    server.until_alive()
    browser = server.browser()
    until(lambda: "no checkpoint" in browser.get("/readyz").text)
    answer = browser.upload(encoded(draw()))
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.status("/healthz") == 200
    assert server.stop() == 0


def test_a_reload_with_broken_settings_leaves_the_server_as_it_is(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    server.until_alive()
    (tmp_path / "instance" / "config.py").write_text("CAPTIONAPP_THREADS = 'many'\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded: CAPTIONAPP_THREADS is 'many'" in server.log.read_text())
    assert server.status("/healthz") == 200
    assert server.process.poll() is None
