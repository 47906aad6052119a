from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from captionapp import atomic, detached
from captionapp.version_tasks import VersionTasks
from tests.web.versions import add_version, keep, report

PASSWORD = ("anybody", "open sesame")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


@pytest.fixture
def instance(app) -> Path:
    return Path(app.instance_path)


@pytest.fixture
def commands(monkeypatch):
    """The commands that tasks would run; each ends at once, having printed nothing."""
    calls = []

    def start(arguments, instance, log):
        calls.append(list(arguments))
        log.write_text("")
        return {"pid": 0, "pid_since": 0.0}

    monkeypatch.setattr(detached, "start", start)
    return calls


def pictures(count: int) -> list[tuple[str, str, str, str]]:
    return [(f"{n:032x}", f"said {n}", f"new {n}", f"old {n}") for n in range(count)]


def test_versions_with_lineage_figures_and_who_is_current(client, instance):
    add_version(instance, "trained-1", "fake-1")
    add_version(instance, "trained-2", "trained-1")
    keep(instance, report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3))
    page = client.get("/models", auth=PASSWORD).text
    assert "because none was promoted yet" in page
    assert re.search("Better than <code>fake-1</code>.*CIDEr 1.500 to 0.500 on 3", page, re.S)
    page = client.get("/models/trained-2", auth=PASSWORD).text
    assert "<code>fake-1</code> → <code>trained-1</code> → <code>trained-2</code>" in page
    assert "has not been compared" in page
    assert client.get("/models/nobody", auth=PASSWORD).status_code == 404


def test_a_lineage_that_goes_in_circles_ends(client, instance):
    add_version(instance, "one", "two")
    add_version(instance, "two", "one")
    assert client.get("/models/one", auth=PASSWORD).status_code == 200


def test_a_report_shows_wins_losses_and_ties_in_pictures(client, instance):
    add_version(instance, "trained-1", "fake-1")
    said = [
        ("1" * 32, "a <raccoon>", "a raccoon", "a dog"),
        ("2" * 32, "a boat", "", "a ship"),
        ("3" * 32, "a hat", "a cap", "a cap"),
    ]
    scores = [(3.0, 0.25), (0.0, 0.75), (0.5, 0.5)]
    keep(instance, report("trained-1", "fake-1", said, scores, refusals=("it <forgets>",)))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert "One win, one tie, one loss: on 3 pictures" in page and "it &lt;forgets&gt;" in page
    assert "a &lt;raccoon&gt;" in page and "a dog" in page and "a ship" not in page
    assert f'src="/feedback/pictures/{"1" * 32}/thumbnail"' in page
    page = client.get("/models/trained-1?show=losses", auth=PASSWORD).text
    assert "a ship" in page and "(nothing)" in page and "a dog" not in page
    page = client.get("/models/trained-1?show=ties", auth=PASSWORD).text
    assert page.count("a cap<") == 2
    assert client.get("/models/trained-1?show=nonsense", auth=PASSWORD).status_code == 200


def test_many_pictures_are_pages_with_the_largest_difference_first(client, instance):
    add_version(instance, "trained-1", "fake-1")
    scores = [(1.0 + n / 10, 0.5) for n in range(13)]
    keep(instance, report("trained-1", "fake-1", pictures(13), scores))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert "new 12<" in page and "new 0<" not in page and "Page 1 of 2" in page
    assert "new 0<" in client.get("/models/trained-1?page=2", auth=PASSWORD).text


def test_cannot_tell_is_said(client, instance):
    add_version(instance, "trained-1", "fake-1")
    values = {"probability_better": None, "verdict": "cannot tell"}
    keep(instance, report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3, **values))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert (
        "cannot be told whether it is better" in page and "3 held-out corrections are too" in page
    )


def test_an_evaluation_is_started_and_waited_for(client, instance, commands, monkeypatch):
    add_version(instance, "trained-1", "fake-1")
    given = client.post("/models/trained-1/evaluate", auth=PASSWORD)
    assert (given.status_code, given.location) == (303, "/models/trained-1")
    assert commands == [["model", "evaluate", "trained-1"]]
    assert "ended before it was finished" in client.get("/models/trained-1", auth=PASSWORD).text
    monkeypatch.setattr(detached, "lives", lambda known: True)
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert 'data-status="waiting"' in page and ">Look again<" in page
    assert "Put it into service" not in page
    page = client.get("/models/trained-1?show=losses", auth=PASSWORD).text
    assert '<a href="/models/trained-1?show=losses">Look again' in page
    busy = client.post("/models/trained-1/evaluate", auth=PASSWORD, follow_redirects=True)
    assert "one at a time" in busy.text and len(commands) == 1
    monkeypatch.undo()
    values = {"created_at": "2999-01-01T00:00:00Z"}
    keep(instance, report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3, **values))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert 'role="alert"' not in page and 'data-status="done"' in page


def test_what_became_current_meanwhile_is_not_compared_with_itself(
    client, workflow, instance, commands, monkeypatch
):
    add_version(instance, "trained-1", "fake-1")
    current = workflow.versions.get("trained-1")
    monkeypatch.setattr(workflow.versions, "current", lambda: current)
    given = client.post("/models/trained-1/evaluate", auth=PASSWORD, follow_redirects=True)
    assert "trained-1 is the current version already" in given.text and commands == []


def test_a_promotion_is_confirmed_first(client, instance, commands):
    add_version(instance, "trained-1", "fake-1")
    page = client.get("/models/trained-1/promote", auth=PASSWORD).text
    assert "instead of <code>fake-1</code>" in page and "The gate is asked first" in page
    assert "anyway" not in page and commands == []
    given = client.post("/models/trained-1/promote", auth=PASSWORD)
    assert (given.status_code, given.location) == (303, "/models/trained-1")
    assert commands == [["model", "promote", "trained-1"]]


def test_votes_that_a_promotion_asks_for_are_said(make_app):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1], CAPTIONAPP_MIN_VOTES=7)
    instance = Path(app.instance_path)
    add_version(instance, "trained-1", "fake-1")
    keep(instance, report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3))
    client = app.test_client()
    assert "asks for 7" in client.get("/models/trained-1", auth=PASSWORD).text
    assert "people preferred it" in client.get("/models/trained-1/promote", auth=PASSWORD).text


def test_a_refusal_is_shown_and_gone_over_with_a_written_reason_only(client, instance, commands):
    add_version(instance, "trained-1", "fake-1")
    client.post("/models/trained-1/promote", auth=PASSWORD)
    log = instance / "evaluations" / "task.log"
    log.write_text("Error: trained-1 was not promoted: it is <worse>; it forgets.\n")
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert "was not promoted: it is &lt;worse&gt;; it forgets." in page and 'role="alert"' in page
    page = client.get("/models/trained-1/promote", auth=PASSWORD).text
    assert "Promote it anyway" in page and "it is &lt;worse&gt;" in page
    for reason in ("", " \n ", "x" * 501):
        given = client.post(
            "/models/trained-1/promote", data={"force": "1", "reason": reason}, auth=PASSWORD
        )
        assert given.status_code == 422 and 'role="alert"' in given.text
    assert len(commands) == 1
    client.post(
        "/models/trained-1/promote",
        data={"force": "1", "reason": "the demo\nis today\x00"},
        auth=PASSWORD,
    )
    assert commands[1] == ["model", "promote", "trained-1", "--force=the demo is today"]


def test_a_report_that_refuses_offers_the_way_over_it(client, instance):
    add_version(instance, "trained-1", "fake-1")
    made = report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3, refusals=("too few",))
    keep(instance, made)
    page = client.get("/models/trained-1/promote", auth=PASSWORD).text
    assert "<li>too few</li>" in page and "Promote it anyway" in page
    old = report("trained-1", "fake-0", pictures(3), [(1.0, 0.5)] * 3, refusals=("too few",))
    keep(instance, old)  # against a version that is not current any more
    assert "too few" not in client.get("/models/trained-1/promote", auth=PASSWORD).text


def test_a_promotion_that_happened_is_said(client, workflow, instance, commands, monkeypatch):
    version = add_version(instance, "trained-1", "fake-1").name
    client.post("/models/trained-1/promote", auth=PASSWORD)
    workflow.versions.set_current(version, "fake-1", "better <by> far")
    monkeypatch.setattr(workflow.versions, "current", lambda: workflow.versions.get(version))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert "It is the current version now" in page and "better &lt;by&gt; far" in page
    page = client.get("/models", auth=PASSWORD).text
    assert "better &lt;by&gt; far" in page and "Go back to the version before" in page
    assert (
        "the current version already" in client.get("/models/trained-1/promote", auth=PASSWORD).text
    )


def test_a_rollback_is_confirmed_and_happens_once(client, workflow, instance):
    for name in ("trained-1", "trained-2", "trained-3"):
        add_version(instance, name, "fake-1")
    workflow.versions.set_current("trained-1", "", "first")
    workflow.versions.set_current("trained-2", "trained-1", "second")
    workflow.versions.set_current("trained-3", "trained-2", "third", forced=True)
    page = client.get("/models/rollback", auth=PASSWORD).text
    assert "Go back to <code>trained-2</code>?" in page
    assert "Forced:" in page and "third" in page
    given = client.post("/models/rollback", data={"from": "trained-3"}, auth=PASSWORD)
    assert (given.status_code, given.location) == (303, "/models")
    assert workflow.versions.pointer.last().version == "trained-2"
    again = client.post(
        "/models/rollback", data={"from": "trained-3"}, auth=PASSWORD, follow_redirects=True
    )
    assert "Another version is current by now: trained-2" in again.text
    assert workflow.versions.pointer.last().version == "trained-2"


def test_a_rollback_that_the_disk_refuses_is_said(client, workflow, instance, monkeypatch):
    for name in ("trained-1", "trained-2"):
        add_version(instance, name, "fake-1")
    workflow.versions.set_current("trained-1", "", "first")
    workflow.versions.set_current("trained-2", "trained-1", "second")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "write", full)
    page = client.post(
        "/models/rollback", data={"from": "trained-2"}, auth=PASSWORD, follow_redirects=True
    )
    said = "The rollback could not be stored: No space left on device."
    assert page.status_code == 200 and said in page.text
    assert workflow.versions.pointer.last().version == "trained-2"


def test_what_was_served_names_what_each_version_took_over_from(client, workflow, instance):
    for name in ("trained-1", "trained-2"):
        add_version(instance, name, "fake-1")
    workflow.versions.set_current("trained-1", "shipped-1", "better")
    workflow.versions.set_current("trained-2", "trained-1", "better still")
    workflow.versions.set_current("trained-1", "shipped-1", "rollback from trained-2")
    page = client.get("/models", auth=PASSWORD).text
    moves = page[page.index("What was served") :]
    rows = re.findall(r"<td><code>(.*?)</code></td>\s*<td><code>(.*?)</code></td>", moves)
    assert rows == [
        ("trained-1", "trained-2"),
        ("trained-2", "trained-1"),
        ("trained-1", "shipped-1"),
    ]


def test_nothing_to_roll_back_to(client):
    assert "nothing to go back to" in client.get("/models/rollback", auth=PASSWORD).text
    posted = client.post("/models/rollback", auth=PASSWORD, follow_redirects=True)
    assert 'role="alert"' in posted.text


def test_a_pointer_that_cannot_be_read_is_said(client, workflow, instance, monkeypatch):
    (instance / "models").mkdir()
    (instance / "models" / "current.json").write_text("{")
    monkeypatch.setattr(
        workflow.versions, "current", type(workflow.versions).current.__get__(workflow.versions)
    )
    page = client.get("/models", auth=PASSWORD)
    assert page.status_code == 200 and "cannot be read" in page.text


def test_a_task_of_another_version_is_not_this_ones(client, instance, commands):
    add_version(instance, "trained-1", "fake-1")
    add_version(instance, "trained-2", "fake-1")
    client.post("/models/trained-1/promote", auth=PASSWORD)
    assert VersionTasks(instance).latest().version == "trained-1"
    assert 'role="alert"' not in client.get("/models/trained-2", auth=PASSWORD).text


@pytest.mark.parametrize("version", ["nobody", "--force=yes"])
@pytest.mark.parametrize("action", ["evaluate", "promote"])
def test_only_versions_that_are_there_reach_a_command(client, commands, version, action):
    assert client.post(f"/models/{version}/{action}", auth=PASSWORD).status_code == 404
    assert commands == []


PAGES = [
    ("get", "/models"),
    ("get", "/models/trained-1"),
    ("get", "/models/trained-1/promote"),
    ("get", "/models/rollback"),
    ("post", "/models/trained-1/promote"),
    ("post", "/models/trained-1/evaluate"),
    ("post", "/models/rollback"),
]


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_it_is_the_operators(client, make_app, instance, commands, method, path):
    add_version(instance, "trained-1", "fake-1")
    assert getattr(client, method)(path).status_code == 401
    hidden = make_app().test_client()
    assert getattr(hidden, method)(path, auth=PASSWORD).status_code == 404
    assert commands == []


@pytest.mark.parametrize("path", [path for method, path in PAGES if method == "post"])
def test_buttons_need_the_token(make_app, commands, path):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", WTF_CSRF_ENABLED=True)
    add_version(Path(app.instance_path), "trained-1", "fake-1")
    assert app.test_client().post(path, auth=("o", "x")).status_code == 400
    assert commands == []


def test_pages_have_no_inline_script_or_style(client, instance):
    add_version(instance, "trained-1", "fake-1")
    keep(instance, report("trained-1", "fake-1", pictures(3), [(1.0, 0.5)] * 3))
    for path in ("/models", "/models/trained-1", "/compare", "/models/trained-1/promote"):
        page = client.get(path, auth=PASSWORD).text
        assert "style=" not in page and "<style" not in page and "onclick" not in page
        assert page.count("<script") == page.count('<script type="module" src=')


def test_details_of_a_version_are_what_its_file_says(client, instance):
    details = {
        "parent": "fake-1",
        "config": {"epochs": 3},
        "retain": {"folder": "/data/<kept>"},
        "data": {"corrected": 12, "watched": 2},
        "data_fingerprint": "abcdef0123456789" * 4,
        "seconds": 90,
    }
    folder = add_version(instance, "trained-1")
    content = json.loads((folder / "version.json").read_text()) | {"details": details}
    (folder / "version.json").write_text(json.dumps(content))
    page = client.get("/models/trained-1", auth=PASSWORD).text
    assert "12 corrected, 2 watched" in page and "/data/&lt;kept&gt;" in page
    assert "1.5 minutes" in page and "abcdef0123456789<" in page and "<code>epochs</code>" in page
