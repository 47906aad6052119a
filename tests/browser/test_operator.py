"""The operator in front of a real browser: filters, charts, trainings, reports, votes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from captionapp import detached
from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.training.runs import TrainingRuns
from captionapp.votes import Votes
from tests.browser.conftest import IN_A_BROWSER, without_scripts
from tests.browser.scenes import landscape
from tests.conftest import draw, encoded
from tests.test_feedback_filters import row
from tests.test_feedback_insights import accepted
from tests.web.sending import send
from tests.web.test_training import PROGRESS, RUN
from tests.web.versions import add_version, keep, report

pytestmark = IN_A_BROWSER

PASSWORD = "open sesame"
#: Milliseconds.
SOON = 20_000
# Not sent unless asked for, as a browser does it.
OPERATOR = {"username": "operator", "password": PASSWORD}
SCRIPT = pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])


@pytest.fixture
def app(make_app: Any) -> Any:
    return make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_ADMIN_PASSWORD=PASSWORD)


@pytest.fixture
def pictures(make_app: Any, app: Any) -> list[str]:
    """Ids of three stored pictures that other browsers sent, the second one least sure of."""
    plain = make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD)  # the same instance, without tokens
    scenes = [landscape(), draw("red", (400, 300)), draw("white", (300, 400))]
    ids = [
        send(plain.test_client(), encoded(scene), f"scene {n}.png").rsplit("/", 1)[1]
        for n, scene in enumerate(scenes)
    ]
    captions = app.extensions["captionapp"].captions
    for image_id, probability in zip(ids, (0.6, 0.2, 0.4), strict=True):
        said = Caption(f"a ball, {probability:.0%}", probability, "fake-1", DecodeOptions(), 0.1)
        captions.add(image_id, said)
    return ids


@pytest.fixture
def versions(app: Any, pictures: list[str]) -> list[str]:
    """Two trained versions; the first has been compared with the current one, and was refused."""
    instance = Path(app.instance_path)
    names = ["trained-20261101-1000-ab12", "trained-20261102-1000-cd34"]
    add_version(instance, names[0], "fake-1")
    add_version(instance, names[1], names[0])
    said = [
        (pictures[0], "a boat on a lake in the evening", "a boat on a lake", "a dog in snow"),
        (pictures[1], "a red ball", "a red ball on a meadow", "a ball"),
        (pictures[2], "a white ball", "a dog", "a white ball"),
    ]
    scores = [(2.5, 0.1), (1.5, 0.75), (0.0, 3.0)]
    refused = ("it is worse on 40 retained pictures: CIDEr 0.512 against 0.641, 20.1% less",)
    keep(instance, report(names[0], "fake-1", said, scores, refusals=refused))
    app.extensions["captionapp"].versions.set_current(names[1], names[0], "better", forced=True)
    return names


@pytest.fixture
def answers(app: Any) -> None:
    days = [f"2026-11-{day:02}T12:00:00Z" for day in (1, 2, 2, 3, 7, 9, 9, 12)]
    rows = [
        accepted(id=str(n), created_at=day) if n % 3 else row(id=str(n), created_at=day)
        for n, day in enumerate(days)
    ]
    app.extensions["captionapp"].feedback.extend(rows)


def trace(app: Any, status: str, step: int = 30) -> None:
    """A run as its process leaves it; this process pretends to be the one that trains."""
    folder = Path(app.instance_path) / "training" / RUN
    folder.mkdir(parents=True, exist_ok=True)
    state = {"status": status, "started_at": "2026-11-01T10:00:00Z", "message": ""}
    version = "trained-20261101-1000-ab12" if status == "done" else None
    state |= {"version": version} | detached.identity(os.getpid())
    for name, content in (("progress", PROGRESS | {"step": step}), ("state", state)):
        (folder / f"{name}.new").write_text(json.dumps(content))
        os.replace(folder / f"{name}.new", folder / f"{name}.json")


def check(page: Page, name: str) -> None:
    """No violation, and nothing wider than the window."""
    results = Axe().run(page)
    assert results.violations_count == 0, f"{name}:\n{results.generate_report()}"
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0, f"{name} is wider than the window"
    if os.environ.get("SCREENSHOTS"):
        path = Path(os.environ["SCREENSHOTS"]) / f"{name.strip('/').replace('/', '-')}.png"
        page.screenshot(path=path, full_page=True)


@pytest.mark.parametrize(
    ("scheme", "width", "script"),  # each two of them meet
    [
        ("dark", 320, True),
        ("light", 1280, True),
        ("light", 320, False),
        ("dark", 1280, False),
    ],
)
def test_no_page_has_an_accessibility_violation(
    app, running, visit, versions, answers, scheme, width, script
):
    visitor = visit(
        running(app),
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        bypass_csp=True,  # for axe's own script; the other tests keep the policy
        http_credentials={**OPERATOR, "send": "always"},
    )
    visitor.expected = ("the server responded with a status of",)  # the filter that is none
    page = visitor.page
    if not script:
        without_scripts(page)
    for path in (
        *("/feedback", "/feedback?text=nothing", "/feedback?verdict=maybe", "/feedback/next"),
        *("/insights", "/models", f"/models/{versions[0]}", f"/models/{versions[1]}"),
        *(f"/models/{versions[0]}?show=losses", f"/models/{versions[0]}/promote"),
        *("/models/rollback", "/compare", f"/compare?version={versions[1]}"),
    ):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        check(page, f"{scheme}-{width}{path.replace('?', '-')}")
    trace(app, "running")
    page.goto("/models")
    check(page, f"{scheme}-{width}-training")


@SCRIPT
def test_a_training_is_watched_live_and_stopped(app, running, visit, versions, script):
    trace(app, "running", 30)
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto("/models")
    expect(page.get_by_text("Step 30 of 120")).to_be_visible()
    loaded = page.evaluate("performance.timeOrigin") if script else None
    trace(app, "running", 90)
    if not script:
        page.get_by_role("link", name="Look again").click()
    expect(page.get_by_text("Step 90 of 120")).to_be_visible(timeout=SOON)
    if script:
        assert page.locator("progress").evaluate("bar => bar.value / bar.max") == 0.75
        assert page.evaluate("performance.timeOrigin") == loaded  # nothing was loaded again
    page.get_by_role("button", name="Stop it").click()
    expect(page.get_by_text("The training is saving and stopping")).to_be_visible()
    assert (Path(app.instance_path) / "training" / RUN / "stop").exists()
    trace(app, "done", 120)
    if not script:
        page.get_by_role("link", name="Look again").click()
    expect(page.get_by_text("The last training is done")).to_be_visible(timeout=SOON)
    expect(page.get_by_role("button", name="Start a training")).to_be_visible()


@SCRIPT
def test_a_training_is_started(app, running, visit, monkeypatch, script):
    def start(self: TrainingRuns, arguments: Any, resume: Any = None) -> None:
        trace(app, "running", 1)

    monkeypatch.setattr(TrainingRuns, "start_detached", start)
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto("/models")
    page.get_by_role("button", name="Start a training").click()
    expect(page.get_by_text("Step 1 of 120")).to_be_visible()


@SCRIPT
def test_an_evaluation_arrives(app, running, visit, versions, monkeypatch, script):
    lives = [True]
    monkeypatch.setattr(detached, "lives", lambda known: lives[0])

    def start(arguments: Any, instance: Path, log: Path) -> dict[str, Any]:
        log.write_text("Error: There are no held-out answers to judge a version by.\n")
        return {"pid": 0, "pid_since": 0.0}

    monkeypatch.setattr(detached, "start", start)
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto(f"/models/{versions[0]}")
    page.get_by_role("button", name="Compare it again").click()
    expect(page.get_by_text("It is being compared with the current version.")).to_be_visible()
    lives[0] = False
    if not script:
        page.get_by_role("link", name="Look again").click()
    expect(page.get_by_text("There are no held-out answers")).to_be_visible(timeout=SOON)
    expect(page.get_by_role("button", name="Compare it again")).to_be_visible()


@SCRIPT
def test_wins_and_losses_are_seen_in_pictures(app, running, visit, versions, script):
    visitor = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR)
    page = visitor.page
    page.goto(f"/models/{versions[0]}")  # the first page that the operator opens
    expect(page.get_by_text("a boat on a lake", exact=True)).to_be_visible()
    expect(page.locator(".pairs li")).to_have_count(2)
    page.get_by_role("link", name="Losses (1)").click()
    expect(page.locator(".pairs li")).to_have_count(1)
    if script:
        expect(page.locator(".pairs img").first).not_to_have_js_property("naturalWidth", 0)


@SCRIPT
def test_a_blind_vote(app, running, visit, versions, script):
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto("/compare")
    for _ in range(3):
        if script:
            expect(page.locator(".print img")).not_to_have_js_property("naturalWidth", 0)
        page.get_by_role("button", name="A is better").click()
        expect(page.get_by_text("Your vote is kept.")).to_be_visible()
    expect(page.get_by_role("heading", name="nothing left to compare")).to_be_visible()
    votes = Votes(app.extensions["captionapp"].records)
    assert votes.tally(versions[0], "fake-1").votes == 3


@SCRIPT
def test_answering_where_it_helps(app, running, visit, pictures, script):
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto("/feedback/next")
    expect(page.locator("blockquote")).to_have_text("a ball, 20%")
    if script:
        expect(page.locator(".print img")).to_have_js_property("naturalWidth", 400)
    page.get_by_label("Or write a better description").fill("A red ball on a meadow")
    page.get_by_role("button", name="Keep my description").click()
    expect(page.locator("blockquote")).to_have_text("a ball, 40%")
    page.get_by_role("link", name="Leave this one out").click()
    expect(page.locator("blockquote")).to_have_text("a ball, 60%")
    page.get_by_role("button", name="Yes, it is right").click()
    expect(page.get_by_text("That was the last one.")).to_be_visible()
    rows = app.extensions["captionapp"].feedback.rows()
    assert [(one.image_id, one.verdict) for one in rows] == [
        (pictures[1], "corrected"),
        (pictures[0], "accepted"),
    ]


def test_answering_without_the_mouse(app, running, visit, pictures):
    page = visit(running(app), http_credentials=OPERATOR).page
    page.goto("/feedback/next")
    field = page.get_by_label("Or write a better description")

    def ready(said: str) -> None:
        expect(page.locator("blockquote")).to_have_text(said)
        expect(field).to_be_focused()
        expect(page.locator(".hints")).to_be_visible()  # the script is there

    ready("a ball, 20%")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed")
    page.keyboard.type(" and a kite")
    page.keyboard.press("Enter")
    ready("a ball, 40%")
    page.keyboard.press("Alt+ArrowDown")
    ready("a ball, 60%")
    page.keyboard.press("Alt+ArrowUp")
    ready("a ball, 40%")
    page.keyboard.press("Control+Enter")
    ready("a ball, 60%")
    rows = app.extensions["captionapp"].feedback.rows()
    assert [row.feedback for row in rows] == ["a ball, 20% and a kite", "a ball, 40%"]


@SCRIPT
def test_a_rollback_takes_two_clicks(app, running, visit, versions, script):
    page = visit(running(app), java_script_enabled=script, http_credentials=OPERATOR).page
    page.goto("/models")
    page.get_by_role("button", name="Go back to the version before").click()
    page.get_by_role("button", name="Yes, go back to it").click()
    expect(page.get_by_text(f"{versions[0]} is the current version again.")).to_be_visible()
    pointer = app.extensions["captionapp"].versions.pointer
    assert pointer.last().version == versions[0]


def test_filters_by_keyboard(app, running, visit, answers):
    page = visit(running(app), http_credentials=OPERATOR).page
    page.goto("/feedback")
    page.get_by_label("Verdict").select_option("it is right")
    page.get_by_label("From").fill("2026-11-09")
    page.get_by_label("Text").fill("dog")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 of 8 answers")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download these").click()
    assert Path(download.value.path()).read_text(encoding="utf-8-sig").count("accepted") == 2
