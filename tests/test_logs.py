from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from captionapp import logs
from captionapp.settings import Settings
from tests.conftest import draw, encoded

FILE_NAME = "grandma-at-the-lake.png"
PROMPT = "my secret prompt"
CORRECTION = "Aunt Berta with her new hip"


@pytest.fixture
def client(make_app: Any) -> FlaskClient:
    return make_app(CAPTIONAPP_LOG_FORMAT="json", CAPTIONAPP_LOG_LEVEL="debug").test_client()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def upload(client: FlaskClient, colour: str = "red") -> str:
    """Sends a picture; returns the path of its page."""
    picture = (io.BytesIO(encoded(draw(colour))), FILE_NAME)
    response = client.post(
        "/captions?campaign=word-in-query",
        data={"images": picture, "prompt": PROMPT},
        content_type="multipart/form-data",
    )
    assert response.status_code == 303
    return response.headers["Location"]


def test_one_line_a_request_says_what_was_done_and_how_long_each_step_took(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    image_id = upload(client).rsplit("/", 1)[-1]
    (line,) = [x for x in lines(capsys.readouterr().err) if x["event"] == "request"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/captions", 303)
    assert line["pictures"] == [image_id]
    assert {"decode", "store", "queue", "caption"} <= set(line["steps"])
    assert sum(line["steps"].values()) <= line["seconds"] + 0.05
    assert line["bytes_in"] > 100
    assert line["bytes_out"] > 0
    assert re.fullmatch("[0-9a-f]{32}", line["request_id"])
    assert line["timestamp"].endswith("Z")


def test_the_log_of_an_upload_and_an_answer_holds_nobodys_text(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    page = upload(client)
    html = client.get(page).text
    caption_id = re.search(r'name="caption_id"[^>]*value="(\w+)"', html)
    assert caption_id
    answer = {
        "caption_id": caption_id[1],
        "verdict": "corrected",
        "correction": CORRECTION,
        "reasons": ["inaccurate"],
    }
    assert client.post(f"{page}/feedback", data=answer).status_code == 303
    client.get("/history")
    broken = {"images": (io.BytesIO(b"no picture"), FILE_NAME)}
    client.post("/captions", data=broken, content_type="multipart/form-data")
    log = capsys.readouterr().err
    assert len([x for x in lines(log) if x["event"] == "request"]) == 5
    cookie = client.get_cookie("session")
    assert cookie
    for text in (FILE_NAME, PROMPT, CORRECTION, "a red ball", "word-in-query", cookie.value):
        assert text not in log


def test_an_exception_is_logged_with_its_traceback_and_the_request(
    make_app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    app = make_app(CAPTIONAPP_LOG_FORMAT="json", PROPAGATE_EXCEPTIONS=False)

    @app.get("/boom")
    def boom() -> str:
        raise ZeroDivisionError("as planned")

    response = app.test_client().get("/boom")
    assert response.status_code == 500
    error, request = lines(capsys.readouterr().err)
    assert "ZeroDivisionError: as planned" in error["exception"]
    assert error["level"] == "error"
    assert (request["route"], request["status"]) == ("/boom", 500)
    assert error["request_id"] == request["request_id"] == response.headers["X-Request-ID"]


def test_machines_do_not_fill_the_log(make_app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    client = make_app().test_client()
    client.get("/healthz")
    client.get("/metrics")
    assert capsys.readouterr().err == ""


def test_an_id_from_outside_counts_only_behind_a_proxy_and_if_harmless(make_app: Any) -> None:
    given = {"X-Request-ID": "edge-42"}
    assert (
        make_app().test_client().get("/healthz", headers=given).headers["X-Request-ID"] != "edge-42"
    )
    client = make_app(CAPTIONAPP_PROXIES=1).test_client()
    assert client.get("/healthz", headers=given).headers["X-Request-ID"] == "edge-42"
    strange = client.get("/healthz", headers={"X-Request-ID": "a b\x7f" + "c" * 100})
    assert re.fullmatch("[0-9a-f]{32}", strange.headers["X-Request-ID"])


def test_text_on_request_and_json_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = logging.LogRecord("captionapp.x", logging.INFO, "", 0, "hello %s", ("you",), None)
    assert json.loads(logs.formatter("auto").format(record))["event"] == "hello you"
    text = logs.formatter("text").format(record)
    assert "hello you" in text
    assert not text.startswith("{")


def test_tracebacks_in_text_show_no_variables() -> None:
    correction = CORRECTION
    try:
        raise ValueError(len(correction))
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("captionapp.x", logging.ERROR, "", 0, "failed", (), info)
    for form in ("text", "json"):
        formatted = logs.formatter(form).format(record)
        assert "ValueError" in formatted
        assert CORRECTION not in formatted


def test_configuring_again_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logs.configure(Settings(log_format="json"))
    logging.getLogger("captionapp.x").warning("once")
    assert len(lines(capsys.readouterr().err)) == 1


def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json", log_level="warning"))
    logging.getLogger("captionapp.x").info("not this")
    logging.getLogger("captionapp.x").warning("but this")
    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["but this"]
