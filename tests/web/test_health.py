from __future__ import annotations

import threading
from typing import Any

from flask.testing import FlaskClient

from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner
from tests.waiting import until


def test_healthz_answers_without_the_model(client: FlaskClient, workflow: Workflow) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")
    assert workflow.service.state == "idle"


def test_readyz_starts_the_load_and_turns_when_a_caption_was_made(
    client: FlaskClient, workflow: Workflow, captioner: FakeCaptioner
) -> None:
    may_load = threading.Event()

    def load(_: Any) -> FakeCaptioner:
        assert may_load.wait(10)
        return captioner

    workflow.service._load = load  # type: ignore[assignment]
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "loaded" in response.json["reason"]
    assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/readyz").status_code == 503  # asking again does not disturb
    may_load.set()
    until(workflow.service.ready)
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json == {"model_version": "fake-1"}
    assert captioner.calls  # a real caption, not only the weights
    assert workflow.service.load_count == 1


def test_readyz_says_why_the_load_failed(client: FlaskClient, workflow: Workflow) -> None:
    def load(_: Any) -> FakeCaptioner:
        raise OSError("the disk is gone")

    workflow.service._load = load  # type: ignore[assignment]
    client.get("/readyz")
    until(lambda: workflow.service.state == "failed")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json["reason"] not in ("", "The model is being loaded.")
    assert 1 <= int(response.headers["Retry-After"]) <= 30


def test_a_model_that_cannot_caption_is_not_ready(
    client: FlaskClient, workflow: Workflow, captioner: FakeCaptioner
) -> None:
    captioner.replies = [RuntimeError("broken")]
    client.get("/readyz")
    until(lambda: workflow.service.state == "failed" or bool(captioner.calls))
    assert client.get("/readyz").status_code == 503


def test_metrics_tell_requests_by_rule(client: FlaskClient) -> None:
    client.get("/images/" + "0" * 32)
    client.get("/wp-admin?x=1")
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain")
    assert 'route="/images/<image_id>",status="404"} 1.0' in response.text
    assert 'route="(none)",status="404"} 1.0' in response.text
    assert "wp-admin" not in response.text


def test_machines_get_no_cookie_and_are_not_counted(make_app: Any) -> None:
    client = make_app(CAPTIONAPP_RATE_LIMIT="2 per hour").test_client()
    for path in ("/healthz", "/readyz", "/metrics") * 3:
        response = client.get(path)
        assert response.status_code in (200, 503)
        assert "Set-Cookie" not in response.headers
