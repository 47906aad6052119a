"""Many pictures at once, as cards: dropped, pasted, cancelled, come back to; and without script."""

from __future__ import annotations

import base64
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER
from tests.conftest import FakeCaptioner, draw, encoded

pytestmark = IN_A_BROWSER

STATUS_IS_LOGGED = ("the server responded with a status of",)


class Gate(FakeCaptioner):
    """Describes while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def caption(self, images: Any, options: Any) -> Any:
        assert self.open.wait(30)
        return super().caption(images, options)


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def gated(make_app: Any, gate: Gate) -> Any:
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_BATCH_SIZE=1)
    app.extensions["captionapp"].service._load = lambda _: gate
    return app


def picture(number: int) -> bytes:
    return encoded(draw(f"#{number * 40503 % 2**24:06x}", (64 + number % 7, 48)))


def named(count: int) -> list[tuple[str, bytes]]:
    return [(f"{n:02}.png", picture(n)) for n in range(1, count + 1)]


GIVE = """([kind, files, text, target]) => {
    const data = new DataTransfer();
    for (const [name, body] of files) {
        const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
        data.items.add(new File([bytes], name, {type: "image/png", lastModified: 1}));
    }
    if (text) data.setData("text/plain", text);
    const about = {bubbles: true, cancelable: true};
    const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: data, ...about})
        : new DragEvent(kind, {dataTransfer: data, ...about});
    document.querySelector(target).dispatchEvent(event);
}"""


def give(
    page: Page, kind: str, files: list[tuple[str, bytes]], text: str = "", target: str = "body"
) -> None:
    packed = [[name, base64.b64encode(body).decode()] for name, body in files]
    page.evaluate(GIVE, [kind, packed, text, target])


def cards(page: Page) -> Any:
    return page.locator("[data-cards] > li")


def in_state(page: Page, state: str) -> Any:
    return page.locator(f"[data-cards] > li[data-state={state}]")


def test_fifty_pictures_dropped_at_once_with_two_broken_ones(app, running, visit):
    visitor = visit(running(app))
    visitor.expected = STATUS_IS_LOGGED
    page = visitor.page
    page.goto("/")
    files = named(50)
    files[6] = ("07.png", b"no picture at all")
    files[30] = ("31.png", files[30][1][:60])
    give(page, "drop", files)
    expect(cards(page)).to_have_count(50)
    expect(in_state(page, "done")).to_have_count(48, timeout=60_000)
    names = page.locator("[data-cards] [data-name]").all_text_contents()
    assert names == [name for name, _ in files]
    expect(cards(page).nth(6)).to_contain_text("This is not a picture that can be read")
    expect(cards(page).nth(30)).to_contain_text("damaged or incomplete")
    expect(cards(page).nth(7).locator(".words")).to_have_text("a red ball")
    expect(page.locator("[data-summary]")).to_have_text("Described: 48 of 50. Not usable: 2.")
    expect(page.locator("#announcement")).to_have_text("Described: 48 of 50. Not usable: 2.")
    expect(page.get_by_role("button", name="Cancel the rest")).to_be_hidden()
    assert len(app.extensions["captionapp"].records.picture_ids()) == 48

    page.reload()  # the server knows them, and what was wrong with two
    expect(cards(page)).to_have_count(50)
    assert page.locator("[data-cards] [data-name]").all_text_contents() == names
    expect(cards(page).nth(6)).to_contain_text("This is not a picture that can be read")
    page.get_by_role("button", name="Clear the list").click()
    expect(page.get_by_label("Pictures", exact=True)).to_be_focused()
    page.reload()
    page.wait_for_load_state("networkidle")
    expect(page.locator("[data-tray]")).to_be_hidden()


def test_the_card_of_a_blank_picture_has_a_hint_in_place_of_the_sentence(app, running, visit):
    page = visit(running(app)).page
    page.goto("/")
    white = encoded(Image.new("RGB", (64, 48), "white"))
    give(page, "drop", [("white.png", white), ("ball.png", picture(1))])
    expect(in_state(page, "done")).to_have_count(2, timeout=60_000)
    blank, ball = cards(page).nth(0), cards(page).nth(1)
    expect(blank.get_by_text("all of one colour")).to_be_visible()
    expect(blank.locator(".words")).to_be_hidden()
    expect(ball.locator(".words")).to_have_text("a red ball")
    expect(ball.locator("[data-hint]")).to_be_hidden()


def test_the_same_without_script(make_app, running, visit, tmp_path):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_MAX_FILES=50)
    page = visit(running(app), java_script_enabled=False).page
    paths = []
    for name, body in named(50):
        broken = name in {"07.png", "31.png"}
        paths.append(tmp_path / name)
        paths[-1].write_bytes(b"no picture at all" if broken else body)
    page.goto("/")
    page.get_by_label("Pictures", exact=True).set_input_files(paths)
    page.get_by_role("button", name="Describe").click()
    expect(page).to_have_url(re.compile("/history$"))
    expect(page.get_by_text("48 pictures")).to_be_visible()
    expect(page.locator(".notice.problem")).to_have_count(2)
    expect(page.locator(".notice.problem").first).to_contain_text("07.png: This is not a picture")


def test_a_card_shows_its_place_and_a_batch_can_be_cancelled(gated, gate, running, visit):
    page = visit(running(gated)).page
    page.goto("/")
    give(page, "drop", named(12))
    expect(in_state(page, "describing")).to_have_count(1)
    expect(in_state(page, "queued")).to_have_count(11)
    expect(page.locator("[data-cards]")).to_contain_text("Place 1 in the queue")
    expect(page.locator("[data-cards]")).to_contain_text("Place 11 in the queue")
    expect(page.locator("progress[data-overall]")).to_be_visible()
    page.get_by_role("button", name="Cancel the rest").click()
    expect(in_state(page, "cancelled")).to_have_count(11)
    expect(page.locator("[data-heading]")).to_be_focused()
    gate.open.set()
    expect(in_state(page, "done")).to_have_count(1)
    assert len(gated.extensions["captionapp"].records.picture_ids()) == 1
    assert sum(count for count, _ in gate.calls) == 1

    give(page, "drop", named(12))  # a change of mind
    expect(in_state(page, "done")).to_have_count(12)
    expect(page.locator("[data-complaint]")).to_have_text("Here already, so not sent again: 1.")


def test_the_page_can_be_left_and_come_back_to(gated, gate, running, visit):
    page = visit(running(gated)).page
    page.goto("/")
    give(page, "drop", named(6))
    expect(in_state(page, "queued")).to_have_count(5)
    page.get_by_role("link", name="About").click()
    page.wait_for_url("**/about")
    page.get_by_role("link", name="Describe", exact=True).click()
    expect(in_state(page, "describing")).to_have_count(1)
    expect(page.locator("[data-cards]")).to_contain_text("Place 5 in the queue")
    gate.open.set()
    expect(in_state(page, "done")).to_have_count(6)
    assert page.locator("[data-cards] [data-name]").all_text_contents() == [n for n, _ in named(6)]
    # What is given now is another batch.
    give(page, "drop", [("new.png", picture(99))])
    expect(cards(page)).to_have_count(1)


def test_what_was_not_sent_before_the_page_was_left_is_said(make_app, gate, running, visit):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_QUEUE_SIZE=6, CAPTIONAPP_MAX_FILES=6)
    app.extensions["captionapp"].service._load = lambda _: gate
    page = visit(running(app)).page
    page.goto("/")
    give(page, "drop", named(8))
    expect(in_state(page, "waiting")).to_have_count(5)  # half of the queue is for others
    expect(page.locator("li[data-state=queued], li[data-state=describing]")).to_have_count(3)
    page.on("dialog", lambda dialog: dialog.accept())  # leaving is asked about
    page.goto("/about")
    page.goto("/")
    expect(cards(page)).to_have_count(3)
    expect(page.locator("[data-missing]")).to_contain_text("before the page was left: 5.")
    gate.open.set()
    give(page, "drop", named(8))
    expect(in_state(page, "done")).to_have_count(8)
    expect(cards(page)).to_have_count(8)  # the three that had arrived are not there twice
    expect(page.locator("[data-missing]")).to_be_hidden()
    page.reload()
    expect(cards(page)).to_have_count(8)
    expect(page.locator("[data-missing]")).to_be_hidden()


def test_what_was_cancelled_is_not_missing_when_more_was_given(make_app, gate, running, visit):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_QUEUE_SIZE=6, CAPTIONAPP_MAX_FILES=6)
    app.extensions["captionapp"].service._load = lambda _: gate
    page = visit(running(app)).page
    page.goto("/")
    give(page, "drop", named(8))
    expect(page.locator("li[data-state=queued], li[data-state=describing]")).to_have_count(3)
    page.get_by_role("button", name="Cancel the rest").click()
    gate.open.set()
    expect(page.get_by_role("button", name="Cancel the rest")).to_be_hidden()
    give(page, "drop", [("new.png", picture(99))])
    expect(page.locator("li[data-state=done]").last).to_contain_text("new.png")
    page.reload()
    expect(cards(page)).to_have_text(re.compile("new.png"))
    expect(page.locator("[data-missing]")).to_be_hidden()


def test_pasted_pictures_and_text(app, running, visit):
    page = visit(running(app)).page
    page.goto("/")
    give(page, "paste", [("image.png", picture(1))])
    expect(in_state(page, "done")).to_have_count(1)
    expect(cards(page).first).to_contain_text("Pasted picture")
    expect(page.locator("#announcement")).to_contain_text("a red ball")
    give(page, "paste", [], "only words")
    give(page, "paste", named(2)[1:], "with its picture", "#prompt")  # text is what is wanted
    expect(cards(page)).to_have_count(1)


def test_pictures_dropped_and_pasted_on_other_pages(app, running, visit):
    page = visit(running(app)).page
    page.goto("/history")
    give(page, "drop", named(2))
    expect(page.locator(".card")).to_have_count(2)
    page.locator(".card .print").first.click()
    page.wait_for_url("**/images/*")  # and for its scripts, which take what is given
    give(page, "paste", [("new.png", picture(99))])
    expect(page.locator("figcaption")).to_contain_text("new.png")
    page.wait_for_load_state()
    page.get_by_label("Or write a better description").fill("half a ")
    give(page, "drop", named(1))
    expect(page.locator("[data-hand-over]")).to_contain_text("Keep or take back first")
    expect(page.get_by_label("Or write a better description")).to_have_value("half a ")


def test_a_wrong_drop_is_explained(app, running, visit):
    page = visit(running(app)).page
    page.goto("/")
    give(page, "drop", [], "only words")
    expect(page.locator("[data-complaint]")).to_contain_text("There was no file in that")
    assert page.url.endswith("/")
    give(page, "drop", [("a.png", picture(1)), ("a.png", picture(1))])
    expect(page.locator("[data-complaint]")).to_have_text("Here already, so not sent again: 1.")
    expect(cards(page)).to_have_count(1)


def test_a_folder_brings_its_pictures_in_order(app, running, visit, tmp_path):
    page = visit(running(app)).page
    folder = tmp_path / "holiday"
    (folder / "more").mkdir(parents=True)
    for name in ("10.png", "9.png", "more/1.png"):
        (folder / name).write_bytes(picture(len(name) * 7 + ord(name[0])))
    (folder / "notes.txt").write_text("not for here")
    (folder / ".hidden.png").write_bytes(b"x")
    page.goto("/")
    page.locator("input[webkitdirectory]").set_input_files(folder)
    expect(in_state(page, "done")).to_have_count(3)
    expect(page.locator("[data-complaint]")).to_contain_text("no pictures: 2 files")


def test_too_large_a_file_is_not_even_sent(make_app, running, visit):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_MAX_FILE_MB=1)
    page = visit(running(app)).page
    page.goto("/")
    give(page, "drop", [("large.png", picture(1) + bytes(1_100_000)), ("good.png", picture(2))])
    expect(in_state(page, "done")).to_have_count(1)
    expect(cards(page).first).to_contain_text("more than 1 MB")
    page.reload()
    expect(cards(page)).to_have_count(1)
    expect(page.locator("[data-missing]")).to_be_hidden()


def test_a_busy_server_is_waited_for(make_app, gate, running, visit):
    app = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_RATE_LIMIT="4 per 3 second")
    visitor = visit(running(app))
    visitor.expected = STATUS_IS_LOGGED
    page = visitor.page
    page.goto("/")
    give(page, "drop", named(9))
    expect(page.locator("[data-summary]")).to_contain_text("It goes on by itself")
    expect(in_state(page, "done")).to_have_count(9, timeout=30_000)


def test_offline_in_the_middle(gated, gate, running, visit):
    visitor = visit(running(gated))
    visitor.expected = ("net::ERR_INTERNET_DISCONNECTED",)
    page = visitor.page
    page.goto("/")
    gate.open.set()
    page.context.set_offline(True)
    give(page, "drop", named(3))
    expect(page.locator("[data-summary]")).to_contain_text("The server cannot be reached")
    page.context.set_offline(False)
    expect(in_state(page, "done")).to_have_count(3)


def test_a_form_that_was_open_too_long_gets_a_new_token(app, running, visit):
    visitor = visit(running(app))
    visitor.expected = STATUS_IS_LOGGED
    page = visitor.page
    page.goto("/")
    page.context.clear_cookies()
    give(page, "drop", named(1))
    expect(in_state(page, "done")).to_have_count(1)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_an_example_is_one_click(app, running, visit, script):
    page = visit(running(app), java_script_enabled=script).page
    page.goto("/")
    page.get_by_role("button", name="A cat").click()
    if script:
        expect(in_state(page, "done")).to_have_count(1)
        page.get_by_role("link", name="Is it right?").click()
    expect(page).to_have_url(re.compile("/images/[0-9a-f]{32}$"))
    expect(page.locator("blockquote")).to_have_text("a (unsure) red ball")


def test_one_chosen_picture_leads_to_its_page(app, running, visit, photograph):
    page = visit(running(app)).page
    page.goto("/")
    page.get_by_label("Pictures", exact=True).set_input_files(photograph)
    page.get_by_role("button", name="Describe").click()
    expect(page).to_have_url(re.compile("/images/[0-9a-f]{32}$"))


def test_a_photograph_is_taken_with_one_tap_on_a_phone(app, running, visit, photograph: Path):
    page = visit(running(app), has_touch=True, is_mobile=True).page
    page.goto("/")
    expect(page.get_by_text("Take a photograph")).to_be_visible()
    page.locator("input[capture]").set_input_files(photograph)
    expect(in_state(page, "done")).to_have_count(1)


@pytest.mark.parametrize(("scheme", "width"), [("dark", 320), ("light", 1280)])
def test_cards_have_no_violation(gated, gate, running, visit, scheme, width):
    visitor = visit(
        running(gated),
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        bypass_csp=True,
    )
    visitor.expected = STATUS_IS_LOGGED
    page = visitor.page
    page.goto("/")

    def check() -> None:
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0

    give(page, "drop", [*named(4), ("broken.png", b"no picture")])
    expect(in_state(page, "queued")).to_have_count(3)
    expect(in_state(page, "refused")).to_have_count(1)
    check()
    page.get_by_role("button", name="Cancel the rest").click()
    expect(in_state(page, "cancelled")).to_have_count(3)
    gate.open.set()
    expect(in_state(page, "done")).to_have_count(1)
    check()
