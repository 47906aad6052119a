from __future__ import annotations

import io
import logging

import pytest

from captionapp import errors as domain
from captionapp.web import errors
from captionapp.web.errors import status_of


def test_missing_page(client):
    missing = client.get("/nowhere")
    assert missing.status_code == 404
    assert "There is nothing here" in missing.text and '<a href="/"' in missing.text


def test_wrong_method_names_the_right_ones(client):
    refused = client.post("/about", data={})
    assert refused.status_code == 405
    assert "GET" in refused.headers["Allow"]


def test_wrong_type_of_request(client):
    refused = client.post("/captions", json={"images": []})
    assert refused.status_code == 415
    assert "form on the first page" in refused.text


@pytest.mark.parametrize("token", [None, "", "forged"])
def test_a_form_without_a_good_token_does_nothing_and_says_why(make_app, png, token):
    client = make_app(WTF_CSRF_ENABLED=True).test_client()
    fields = {} if token is None else {"csrf_token": token}
    refused = client.post("/captions", data={"images": (io.BytesIO(png), "a.png")} | fields)
    assert refused.status_code == 400
    assert "reload the page and send the form again" in refused.text
    assert "sent no pictures yet" in client.get("/history").text


def test_every_form_carries_its_token(make_app, png):
    client = make_app(WTF_CSRF_ENABLED=True).test_client()

    def token(page: str) -> str:
        return page.split('name="csrf_token" type="hidden" value="')[1].split('"')[0]

    first = client.get("/").text
    sent = client.post(
        "/captions",
        data={"images": (io.BytesIO(png), "a.png"), "csrf_token": token(first)},
    )
    assert sent.status_code == 303
    page = client.get(sent.location).text
    assert page.count('method="post"') == page.count('name="csrf_token"') > 2
    history = client.get("/history").text
    assert history.count('method="post"') == history.count('name="csrf_token"') > 0
    gone = client.post(sent.location + "/delete", data={"csrf_token": token(page)})
    assert gone.status_code == 303


def test_unforeseen_error_is_logged_and_says_nothing(make_app, monkeypatch, caplog):
    app = make_app(TESTING=False)

    def fail(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(app.extensions["captionapp"], "pictures", fail)
    with caplog.at_level(logging.ERROR):
        broken = app.test_client().get("/history")
    assert broken.status_code == 500
    assert "Something went wrong on our side" in broken.text
    assert "secret" not in broken.text and "Traceback" not in broken.text
    assert any(record.exc_info for record in caplog.records)


def test_a_client_that_prefers_json_gets_json(client):
    answer = client.get("/nowhere", headers={"Accept": "application/json"})
    assert answer.status_code == 404
    assert answer.json["error"]["status"] == 404
    assert answer.json["error"]["title"] == "There is nothing here"


def test_too_many_requests(make_app, png):
    client = make_app(CAPTIONAPP_RATE_LIMIT="2 per minute").test_client()
    for _ in range(2):
        assert client.post("/captions", data={"prompt": "a"}).status_code == 422
    refused = client.post("/images/" + "0" * 32 + "/feedback", data={})
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "A little slower" in refused.text
    assert client.get("/").status_code == 200  # reading goes on


def test_guessing_the_password_is_slowed_down(make_app):
    client = make_app(
        CAPTIONAPP_RATE_LIMIT="2 per minute", CAPTIONAPP_ADMIN_PASSWORD="open sesame"
    ).test_client()
    statuses = [client.get("/feedback", auth=("x", f"guess {n}")).status_code for n in range(3)]
    assert statuses == [401, 401, 429]


def test_a_body_still_arriving_is_read_before_the_refusal(make_app):
    """Else the browser shows "connection reset" and not the page."""
    app = make_app(CAPTIONAPP_MAX_FILE_MB=1, CAPTIONAPP_MAX_FILES=1)
    body = io.BytesIO(bytes(3_000_000))
    with app.test_client() as client:
        refused = client.post(
            "/captions",
            input_stream=body,
            content_length=3_000_000,
            content_type="multipart/form-data; boundary=x",
        )
        assert refused.status_code == 413
        assert body.tell() == 3_000_000


def test_a_body_is_not_read_without_end(make_app, monkeypatch):
    monkeypatch.setattr(errors, "DISCARD_BYTES", 1_000_000)
    app = make_app(CAPTIONAPP_MAX_FILE_MB=1, CAPTIONAPP_MAX_FILES=1)
    body = io.BytesIO(bytes(3_000_000))
    refused = app.test_client().post(
        "/captions",
        input_stream=body,
        content_length=3_000_000,
        content_type="multipart/form-data; boundary=x",
    )
    assert refused.status_code == 413
    assert body.tell() < 2_000_000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (domain.QueueFull("x"), 503),
        (domain.ModelUnavailable("x"), 503),
        (domain.FeedbackStoreError("x"), 503),
        (domain.StorageFull("x"), 507),
        (domain.NotFound("x"), 404),
        (domain.UnknownVersion("x"), 404),
        (domain.TooLarge("x"), 413),
        (domain.InvalidImage("x"), 422),
        (domain.InvalidFeedback("x"), 422),
        (domain.TrainingBusy("x"), 409),
        (domain.TaskBusy("x"), 409),
        (domain.PointerMoved("x"), 409),
        (domain.InvalidDataset("x"), 500),
    ],
)
def test_status_of_domain_errors(error, status):
    assert status_of(error) == status
