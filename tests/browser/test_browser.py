"""A person in front of a real browser: with script and without, light and dark."""

from __future__ import annotations

import csv
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER, look_again, without_scripts
from tests.conftest import FakeCaptioner, draw, encoded

pytestmark = IN_A_BROWSER

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "open sesame"
OPERATOR = {"username": "operator", "password": PASSWORD}


@pytest.fixture
def app(make_app: Any) -> Any:
    return make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_ADMIN_PASSWORD=PASSWORD)


def rows(app: Any) -> list[dict[str, str]]:
    path = Path(app.instance_path) / "feedback.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def describe(page: Page, *files: Path) -> None:
    page.goto("/")
    page.get_by_label("Pictures", exact=True).set_input_files(list(files))
    page.get_by_role("button", name="Describe").click()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_upload_read_correct_and_find_the_row(app, running, visit, photograph, script):
    page = visit(running(app), java_script_enabled=script).page
    describe(page, photograph)
    expect(page).to_have_url(re.compile("/images/[0-9a-f]{32}$"))
    expect(page.locator("blockquote")).to_have_text("a (unsure) red ball")
    expect(page.get_by_text("Written by a machine, not yet checked")).to_be_visible()
    width = page.locator("figure img").evaluate("image => image.naturalWidth") if script else 960
    assert width == 960

    page.get_by_label("Or write a better description").fill("A boat on a lake, “evening”")
    page.get_by_label("inaccurate").check()
    page.get_by_role("button", name="Keep my description").click()
    expect(page.get_by_text("Thank you.")).to_be_visible()
    expect(page.locator("blockquote")).to_have_text("A boat on a lake, “evening”")
    (row,) = rows(app)
    assert row["caption"] == "a red ball"
    assert row["feedback"] == "A boat on a lake, “evening”"
    assert (row["verdict"], row["reasons"]) == ("corrected", "inaccurate")


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_accept_then_delete(app, running, visit, photograph, script):
    page = visit(running(app), java_script_enabled=script).page
    describe(page, photograph)
    page.get_by_role("button", name="Yes, it is right").click()
    expect(page.get_by_text("Written by a machine, confirmed by you")).to_be_visible()
    assert [row["verdict"] for row in rows(app)] == ["accepted"]
    page.get_by_role("link", name="History").click()
    page.get_by_role("button", name="Delete evening <hill>.jpg").click()
    expect(page.get_by_text("There are no pictures here any more.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".wall img")).to_be_visible()


class Waiting(FakeCaptioner):
    """Describes only once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def caption(self, images: Any, options: Any) -> Any:
        assert self.go.wait(30)
        return super().caption(images, options)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_description_on_its_way_arrives(make_app, running, visit, photograph, script):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_WAIT_SECONDS=0)
    waiting = Waiting()
    app.extensions["captionapp"].service._load = lambda _: waiting
    page = visit(running(app), java_script_enabled=script).page
    try:
        describe(page, photograph)
        expect(page.get_by_role("heading", name="The description is on its way")).to_be_visible()
    finally:
        waiting.go.set()
    if not script:
        look_again(page, page.locator("blockquote"))
    expect(page.locator("blockquote")).to_have_text("a (unsure) red ball", timeout=15_000)
    if script:
        expect(page.get_by_text("A description has arrived.")).to_be_attached()
        expect(page.locator("[data-words] .word")).to_have_text(["a", "red", "ball"])
        veil = encoded(draw())  # the server, which may not wait here, has none so soon
        page.route("**/attention/*", lambda route: route.fulfill(body=veil))
        page.get_by_role("link", name="red", exact=True).focus()
        expect(page.locator(".looking .veil")).to_have_count(1)


def test_script_shows_previews_and_copies(app, running, visit, photograph):
    visitor = visit(running(app), permissions=["clipboard-read", "clipboard-write"])
    page = visitor.page
    page.goto("/")
    page.get_by_label("Pictures", exact=True).set_input_files(photograph)
    preview = page.locator("[data-previews] img")
    expect(preview).to_be_visible()
    expect(page.locator("[data-previews]")).to_contain_text("evening <hill>.jpg")
    expect(preview).not_to_have_js_property("naturalWidth", 0)
    page.get_by_role("button", name="Describe").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "a red ball"


def test_keyboard_reaches_everything(app, running, visit):
    page = visit(running(app)).page
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Pictures", exact=True)).to_be_focused()


@pytest.mark.parametrize(("scheme", "width"), [("dark", 320), ("light", 1280)])
def test_no_page_has_an_accessibility_violation(
    app, running, visit, photograph, tmp_path, monkeypatch, scheme, width
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    visitor = visit(
        running(app),
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        bypass_csp=True,  # for axe's own script; the other tests keep the policy
        http_credentials={**OPERATOR, "send": "always"},
    )
    visitor.expected = ("the server responded with a status of",)  # the error pages below
    page = visitor.page
    seen: list[str] = []

    def check(name: str) -> None:
        results = Axe().run(page)
        assert results.violations_count == 0, f"{name}:\n{results.generate_report()}"
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0, f"{name} is wider than the window"
        seen.append(name)

    page.goto("/")
    check("upload")
    describe(page, broken)
    check("upload with a problem")
    describe(page, photograph, broken)
    expect(page.locator("li[data-state=done]")).to_be_visible()
    check("cards")
    page.get_by_role("link", name="Is it right?").click()
    page.get_by_label("Or write a better description").fill("A boat on a lake")
    page.get_by_role("button", name="Keep my description").click()
    check("picture, corrected")
    for path in ("/history", "/about", "/feedback", "/nowhere", "/images/" + "0" * 32):
        page.goto(path)
        check(path)
    page.locator("main a").first.click()
    page.context.clear_cookies()
    page.get_by_label("Pictures", exact=True).set_input_files(photograph)
    page.get_by_role("button", name="Describe").click()
    check("expired form")
    expect(page.get_by_text("The form was open for too long")).to_be_visible()
    assert len(seen) == 10


# The other pairs than with scripts: each two of scheme, width and script meet.
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_no_page_without_script_has_a_violation(app, running, visit, photograph, scheme, width):
    visitor = visit(
        running(app),
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        bypass_csp=True,
    )
    visitor.expected = ("the server responded with a status of",)  # the page that is not there
    page = visitor.page
    without_scripts(page)
    describe(page, photograph)
    expect(page.locator("blockquote")).to_be_visible()
    picture = page.url
    page.goto(picture)
    why = page.locator("a.looked").first.get_attribute("href")
    opened = f"/history?at={picture.rsplit('/', 1)[1]}"
    for path in ("/", picture, why, "/history", opened, "/history/keys", "/about", "/nowhere"):
        page.goto(path)
        assert page.evaluate("document.scripts.length") == 0
        results = Axe().run(page)
        assert results.violations_count == 0, f"{path}:\n{results.generate_report()}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_waiting_and_failed_pictures_have_no_violation(
    make_app, captioner, running, visit, photograph, scheme
):
    app = make_app(CAPTIONAPP_WAIT_SECONDS=0, WTF_CSRF_ENABLED=True)
    waiting = Waiting()
    waiting.replies = [RuntimeError("broken")]
    app.extensions["captionapp"].service._load = lambda _: waiting
    page = visit(running(app), color_scheme=scheme, bypass_csp=True).page
    try:
        describe(page, photograph)
        for path in (page.url, "/history"):
            page.goto(path)
            assert Axe().run(page).violations_count == 0
            expect(page.locator("p.working")).to_be_visible()
    finally:
        waiting.go.set()
    expect(page.locator(".notice.problem")).to_be_visible()
    page.locator(".wall a").first.click()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert Axe().run(page).violations_count == 0


@pytest.mark.model
def test_the_shipped_model_describes_a_picture(tmp_path, running, visit, photograph):
    if not (ROOT / "fine-tuned-model" / "model.safetensors").exists():
        pytest.fail("fine-tuned-model/ holds no checkpoint")
    from captionapp import create_app

    app = create_app({"TESTING": True, "CAPTIONAPP_WAIT_SECONDS": 120})
    try:
        page = visit(running(app)).page
        page.set_default_timeout(120_000)
        describe(page, photograph)
        expect(page).to_have_url(re.compile("/images/[0-9a-f]{32}$"), timeout=120_000)
        text = page.locator("blockquote").inner_text()
        assert len(text.split()) >= 3
        expect(page.get_by_text("shipped-").first).to_be_visible()
    finally:
        app.extensions["captionapp"].close(timeout=30)
