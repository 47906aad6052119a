from __future__ import annotations

import gc
import io
import threading
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from captionapp.errors import ModelUnavailable, QueueFull, StorageFull
from tests.conftest import FakeCaptioner, draw, encoded


def files(*named: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    return {"images": [(io.BytesIO(data), name) for name, data in named]} | fields


def body(*named: tuple[str, bytes]) -> dict[str, Any]:
    """The same as bytes: for large requests the test client leaves temporary files open."""
    parts = MultiDict(("images", FileStorage(io.BytesIO(data), name)) for name, data in named)
    boundary, data = encode_multipart(parts)
    return {"data": data, "content_type": f"multipart/form-data; boundary={boundary}"}


def test_first_page_states_limits_and_works_without_script(client):
    page = client.get("/")
    assert page.status_code == 200
    assert 'action="/captions"' in page.text and 'enctype="multipart/form-data"' in page.text
    assert "20\N{NO-BREAK SPACE}MB" in page.text.replace("&nbsp;", "\N{NO-BREAK SPACE}")
    assert "32 at a time" in page.text


def test_one_picture_leads_to_its_page_with_its_description(client, png):
    sent = client.post("/captions", data=files(("ball.png", png)))
    assert sent.status_code == 303
    assert sent.location.startswith("/images/")
    page = client.get(sent.location)
    assert "a red ball" in page.text
    assert "Written by a machine, not yet checked" in page.text
    assert "50%" in page.text
    assert "fake-1" in page.text


def test_prompt_begins_the_description(client, png, captioner):
    sent = client.post("/captions", data=files(("ball.png", png), prompt="a drawing of"))
    assert "a drawing of a red ball" in client.get(sent.location).text
    assert captioner.calls[0][1].prompt == "a drawing of"


def test_several_pictures_lead_to_history(client, png):
    other = encoded(draw("blue"))
    sent = client.post("/captions", data=files(("one.png", png), ("two.png", other)))
    assert (sent.status_code, sent.location) == (303, "/history")
    page = client.get("/history").text
    assert "one.png" in page and "two.png" in page


def test_the_same_picture_twice_is_one(client, png):
    sent = client.post("/captions", data=files(("one.png", png), ("two.png", png)))
    assert sent.location.startswith("/images/")


def test_broken_file_among_good_ones_is_named_on_the_next_page(client, png):
    sent = client.post("/captions", data=files(("good.png", png), ("<b>bad.png", b"not one")))
    assert sent.status_code == 303
    page = client.get(sent.location).text
    assert "&lt;b&gt;bad.png:" in page and "<b>bad" not in page


def test_many_broken_files_do_not_overflow_the_cookie(client, png):
    broken = [("x" * 300 + f"{n}.png", b"no picture %d" % n) for n in range(20)]
    sent = client.post("/captions", data=files(("good.png", png), *broken))
    assert len(sent.headers["Set-Cookie"]) < 4000
    assert "15 more files could not be used" in client.get(sent.location).text


def test_only_broken_files_bring_the_form_back_with_reasons(client, captioner):
    sent = client.post("/captions", data=files(("a.png", b"nothing"), ("b.png", b"")))
    assert sent.status_code == 422
    assert "a.png:" in sent.text and 'action="/captions"' in sent.text
    assert captioner.calls == []


def test_nothing_chosen(client):
    sent = client.post("/captions", data={}, content_type="multipart/form-data")
    assert sent.status_code == 422
    assert "Choose at least one picture" in sent.text


def test_too_many_files_name_the_limit(make_app, png):
    client = make_app(CAPTIONAPP_MAX_FILES=2).test_client()
    sent = client.post("/captions", data=files(*[(f"{n}.png", png) for n in range(3)]))
    assert sent.status_code == 422
    assert "At most 2 pictures" in sent.text and "these were 3" in sent.text


# Werkzeug leaves the files of a body it gives up on to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_far_too_many_parts_are_refused_with_the_limit(make_app, png):
    client = make_app(CAPTIONAPP_MAX_FILES=2).test_client()
    sent = client.post("/captions", data=files(*[(f"{n}.png", b"x") for n in range(80)]))
    gc.collect()
    assert sent.status_code == 413
    assert "At most 2 pictures" in sent.text


def test_file_over_its_limit_is_named_and_not_read_to_its_end(make_app, png):
    client = make_app(CAPTIONAPP_MAX_FILE_MB=1).test_client()
    large = ("large.png", png + bytes(1_500_000))
    sent = client.post("/captions", **body(large, ("good.png", png)))
    assert sent.status_code == 303
    assert "large.png:" in client.get(sent.location).text


def test_request_over_its_limit_gets_a_page(make_app):
    client = make_app(CAPTIONAPP_MAX_FILE_MB=1, CAPTIONAPP_MAX_FILES=1).test_client()
    sent = client.post("/captions", **body(("large.png", bytes(3_000_000))))
    assert sent.status_code == 413
    assert "At most 1 pictures of 1 MB" in sent.text


@pytest.mark.parametrize("prompt", ["x" * 201, "a\x00b"])
def test_prompt_out_of_bounds(client, png, captioner, prompt):
    sent = client.post("/captions", data=files(("ball.png", png), prompt=prompt))
    assert sent.status_code == 422
    assert "beginning" in sent.text.lower() and 'role="alert"' in sent.text
    assert captioner.calls == []


@pytest.mark.parametrize(
    "error",
    [
        ModelUnavailable("The checkpoint is broken.", retry_after=12.2),
        QueueFull("Too many wait.", retry_after=3),
    ],
)
def test_unavailable_model_is_a_503_page_and_nothing_is_stored(
    client, workflow, monkeypatch, png, error
):
    def refuse(*_: object, **__: object) -> None:
        raise error

    target = "reserve" if isinstance(error, QueueFull) else None
    monkeypatch.setattr(
        workflow.queue if target else workflow.service, target or "captioner", refuse
    )
    sent = client.post("/captions", data=files(("ball.png", png)))
    assert sent.status_code == 503
    assert sent.headers["Retry-After"] == ("3" if target else "13")
    assert str(error) in sent.text and "Nothing of what you sent was stored" in sent.text
    assert "sent no pictures yet" in client.get("/history").text


def test_a_load_that_fails_is_unavailable_and_never_a_caption(workflow, client, png):
    def fail(_: object) -> None:
        raise OSError("weights are torn")

    workflow.service._load = fail
    sent = client.post("/captions", data=files(("ball.png", png)))
    assert sent.status_code == 503
    assert int(sent.headers["Retry-After"]) >= 1
    assert "Nothing of what you sent was stored" in sent.text and "Traceback" not in sent.text
    assert workflow.store.size_bytes() == 0
    assert "sent no pictures yet" in client.get("/history").text


def test_no_room_is_said_so(client, workflow, monkeypatch, png):
    def refuse(*_: object, **__: object) -> None:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(workflow.store, "add", refuse)
    sent = client.post("/captions", data=files(("ball.png", png)))
    assert sent.status_code == 507
    assert "The disk is full." in sent.text


def test_a_slow_description_does_not_hold_the_request(make_app, png):
    app = make_app(CAPTIONAPP_WAIT_SECONDS=0)
    go = threading.Event()

    class Slow(FakeCaptioner):
        def caption(self, images: Any, options: Any) -> Any:
            assert go.wait(10)
            return super().caption(images, options)

    slow = Slow()
    app.extensions["captionapp"].service._load = lambda _: slow
    client = app.test_client()
    try:
        sent = client.post("/captions", data=files(("ball.png", png)))
        page = client.get(sent.location).text
        assert 'data-status="waiting"' in page and f'<a href="{sent.location}">Look again' in page
        assert 'name="verdict"' not in page
        assert '<a href="/history">Look again' in client.get("/history").text
    finally:
        go.set()
    image_id = sent.location.rsplit("/", 1)[-1]
    app.extensions["captionapp"].wait(image_id, None, 10)
    page = client.get(sent.location).text
    assert "a red ball" in page and "Look again" not in page
