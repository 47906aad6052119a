from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from captionapp import detached
from captionapp.errors import TrainingBusy
from captionapp.training.config import Progress
from captionapp.training.runs import RunState, TrainingRuns
from captionapp.web import events
from captionapp.web.training import described, duration

PASSWORD = ("anybody", "open sesame")
RUN = "20261101-100000-ab12"
PROGRESS = {
    "step": 30,
    "steps": 120,
    "epoch": 1.5,
    "loss": 2.25,
    "held_out_loss": None,
    "pictures_per_second": 12.5,
    "seconds_left": 75.0,
}


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


def trace(app, status: str, message: str = "", version: str | None = None, run: str = RUN) -> Path:
    """A run as its process leaves it; this process pretends to be the one that trains."""
    folder = Path(app.instance_path) / "training" / run
    folder.mkdir(parents=True, exist_ok=True)
    state = {"status": status, "started_at": "2026-11-01T10:00:00Z", "message": message}
    state |= {"version": version} | detached.identity(os.getpid())
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "progress.json").write_text(json.dumps(PROGRESS))
    return folder


@pytest.fixture
def started(monkeypatch):
    """What trainings were started, without starting any."""
    calls = []

    def start(self, arguments, resume=None):
        calls.append((list(arguments), resume))
        return None

    monkeypatch.setattr(TrainingRuns, "start_detached", start)
    return calls


def test_a_training_is_started_by_a_button(client, started):
    page = client.get("/models", auth=PASSWORD).text
    assert "Start a training" in page and "data-events" not in page and "training.js" not in page
    given = client.post("/models/training", auth=PASSWORD)
    assert (given.status_code, given.location) == (303, "/models")
    assert started == [([], None)]


def test_what_must_not_be_unlearnt_goes_along(make_app, tmp_path, started):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", CAPTIONAPP_RETAIN=str(tmp_path))
    app.test_client().post("/models/training", auth=("o", "x"))
    assert started == [(["--retain", str(tmp_path)], None)]
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", CAPTIONAPP_RETAIN=str(tmp_path / "gone"))
    client = app.test_client()
    refused = client.post("/models/training", auth=("o", "x"), follow_redirects=True)
    assert "CAPTIONAPP_RETAIN" in refused.text and "is not a folder" in refused.text
    assert len(started) == 1


@pytest.mark.parametrize(
    "error", [TrainingBusy("A training is under way."), OSError(28, "No space left on device")]
)
def test_what_keeps_it_from_starting_is_said(client, monkeypatch, error):
    def fail(self, arguments, resume=None):
        raise error

    monkeypatch.setattr(TrainingRuns, "start_detached", fail)
    page = client.post("/models/training", auth=PASSWORD, follow_redirects=True).text
    assert 'role="alert"' in page
    assert "under way" in page or "No space left" in page


def test_a_training_is_seen_without_script_and_stopped(app, client):
    folder = trace(app, "running")
    page = client.get("/models", auth=PASSWORD).text
    assert '<noscript data-again="/models"><p><a href="/models">Look again' in page
    assert 'data-events="/models/training/events"' in page and "training.js" in page
    assert 'value="30" max="120"' in page and "1:15 min left" in page
    assert "Start a training" not in page
    run = re.search(r'name="run" value="([^"]+)"', page)
    assert run
    client.post("/models/training/stop", data={"run": run[1]}, auth=PASSWORD)
    assert (folder / "stop").exists()
    page = client.get("/models", auth=PASSWORD).text
    assert "saving and stopping" in page and "Stop it" not in page


@pytest.mark.parametrize("run", ["", "../../etc", "20261101-100000-0000"])
def test_a_run_that_is_none_cannot_be_stopped(app, client, run):
    folder = trace(app, "running")
    stopped = client.post("/models/training/stop", data={"run": run}, auth=PASSWORD)
    assert stopped.status_code == 404
    assert not (folder / "stop").exists()


@pytest.mark.parametrize("status", ["failed", "stopped", "interrupted"])
def test_what_ended_early_says_why_and_can_go_on(app, client, started, status):
    folder = trace(app, status, "The disk <is> full.")
    (folder / "plan.json").write_text("{}")
    page = client.get("/models", auth=PASSWORD).text
    assert "The disk &lt;is&gt; full." in page and "Resume the last one" in page
    client.post("/models/training", data={"resume": RUN}, auth=PASSWORD)
    assert started == [([], RUN)]


def test_what_ended_before_it_had_a_plan_cannot_go_on(app, client):
    """As one with too few corrections does."""
    trace(app, "failed", "There are 3 corrected pictures.")
    page = client.get("/models", auth=PASSWORD).text
    assert "3 corrected pictures" in page and "Resume the" not in page
    before = trace(app, "stopped", run="20261031-100000-ab12")  # that can
    (before / "plan.json").write_text("{}")
    page = client.get("/models", auth=PASSWORD).text
    assert f'name="resume" value="{before.name}"' in page


def test_a_training_that_is_done_leads_to_its_version(app, client):
    trace(app, "done", version="trained-1")
    page = client.get("/models", auth=PASSWORD).text
    assert 'href="/models/trained-1"' in page and "Resume the" not in page


def test_events_tell_of_a_run_until_it_ends(app, client, monkeypatch):
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.01)
    folder = trace(app, "running")
    response = client.get("/models/training/events", auth=PASSWORD)
    assert response.mimetype == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    parts = iter(response.response)
    next(parts)
    first = next(parts).decode()
    assert first.startswith("event: news\n") and first.endswith("\n\n")
    news = json.loads(first.split("data: ")[1])
    assert (news["status"], news["step"], news["steps"]) == ("running", 30, 120)
    (folder / "progress.json").write_text(json.dumps(PROGRESS | {"step": 60}))
    assert json.loads(next(parts).decode().split("data: ")[1])["step"] == 60
    trace(app, "done", version="trained-1")
    assert [part.decode().split("\n")[0] for part in parts][-1] == "event: end"
    response.close()


def test_events_without_a_run_end_at_once(client):
    assert "event: end" in client.get("/models/training/events", auth=PASSWORD).text


def test_too_many_watchers_are_sent_away(make_app):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", CAPTIONAPP_THREADS=4)
    trace(app, "running")
    client = app.test_client()
    first = client.get("/models/training/events", auth=("o", "x"))
    assert client.get("/models/training/events", auth=("o", "x")).status_code == 503
    first.close()
    again = client.get("/models/training/events", auth=("o", "x"))
    assert again.status_code == 200
    again.close()


def test_words_of_a_progress():
    state = RunState(RUN, "running", "", Progress(**PROGRESS | {"held_out_loss": 2.5}), "", None, 1)
    said = described(state)["figures"]
    assert said.startswith("Step 30 of 120, pass 1.5, loss 2.250, loss on watched pictures 2.500")
    assert said.endswith("about 1:15 min left.")
    begun = RunState(RUN, "running", "", None, "", None, 1)
    assert described(begun)["steps"] is None and "being read" in described(begun)["figures"]
    assert [duration(seconds) for seconds in (-1, 59.6, 3600, 5400)] == [
        "0:00 min",
        "1:00 min",
        "1:00 h",
        "1:30 h",
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/models/training"),
        ("post", "/models/training/stop"),
        ("get", "/models/training/events"),
    ],
)
def test_it_is_the_operators(client, make_app, started, method, path):
    assert getattr(client, method)(path).status_code == 401
    hidden = make_app().test_client()
    assert getattr(hidden, method)(path, auth=PASSWORD).status_code == 404
    assert not started


@pytest.mark.parametrize("path", ["/models/training", "/models/training/stop"])
def test_buttons_need_the_token(make_app, started, path):
    client = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", WTF_CSRF_ENABLED=True).test_client()
    assert client.post(path, auth=("o", "x")).status_code == 400
    assert not started
