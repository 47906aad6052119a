"""The gallery by keyboard: chosen, deleted and brought back, searched, and taken away."""

from __future__ import annotations

import csv
import io
import re
import zipfile

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import IN_A_BROWSER, field, said

pytestmark = IN_A_BROWSER


def test_after_a_deletion_the_keyboard_is_at_the_next_picture(open_gallery):
    page = open_gallery(30)
    page.get_by_role("link", name="Next page").click()

    def arrived(pictures: str) -> None:
        expect(page.get_by_text(pictures)).to_be_visible()
        page.wait_for_load_state()

    arrived("25–30 of 30")
    for key in ("j", "j", "Delete"):
        page.keyboard.press(key)
    arrived("25–29 of 29")
    page.keyboard.press("e")
    expect(field(page)).to_have_value("ball number 27")
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    arrived("25–30 of 30")
    page.keyboard.press("e")
    expect(field(page)).to_have_value("ball number 26")


def test_single_keys_move_accept_choose_delete_and_undo(app, open_gallery):
    page = open_gallery(3)
    for key in "jjk":
        page.keyboard.press(key)
    focused = page.locator(".card:has(:focus) img")
    expect(focused).to_have_attribute("alt", "1.png")
    page.keyboard.press("a")
    expect(focused).to_have_attribute("alt", "2.png")
    expect(page.locator(".card").first).to_contain_text("confirmed by you")
    page.keyboard.press("x")
    expect(page.get_by_text("One chosen")).to_be_visible()
    page.keyboard.press("Delete")
    expect(page.get_by_text("One picture is deleted.")).to_be_visible()
    expect(page.locator(".card")).to_have_count(2)
    page.reload()
    page.keyboard.press("u")
    expect(page.locator(".card")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("jax?")  # letters are letters while something is written
    expect(page.get_by_role("searchbox")).to_have_value("jax?")
    assert said(app) == ["ball number 1"]


def test_keys_where_there_are_no_pictures(open_gallery):
    page = open_gallery(1)
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    expect(page.get_by_text("There are no pictures here any more.")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys of the gallery")).to_be_visible()
    page.keyboard.press("Escape")
    for key in "jckeax/":  # nothing to do, and nothing to complain of
        page.keyboard.press(key)
    page.keyboard.press("u")
    expect(page.locator(".card")).to_have_count(1)
    page.goto("/history?text=nowhere")
    expect(page.get_by_text("None of them is like that.")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_keys_are_listed(open_gallery, script):
    page = open_gallery(1, java_script_enabled=script)
    if script:
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keys of the gallery")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Single letters do something").uncheck()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        page.keyboard.press("?")
        expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_text("the description is right, and on")).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_some_are_chosen_and_taken_away(app, open_gallery, script):
    page = open_gallery(4, java_script_enabled=script)
    page.get_by_label("Choose 2.png").check()
    if script:
        page.get_by_label("Choose 4.png").click(modifiers=["Shift"])
        expect(page.get_by_text("3 chosen")).to_be_visible()
        page.get_by_label("Choose 3.png").uncheck()
    else:
        page.get_by_label("Choose 4.png").check()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(taken.value.path()) as archive:
        table = csv.DictReader(io.StringIO(archive.read("metadata.csv").decode()))
        assert [row["caption"] for row in table] == ["ball number 2", "ball number 4"]
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".card")).to_have_count(2)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".card")).to_have_count(4)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_search_filter_and_order(open_gallery, script):
    page = open_gallery(30, java_script_enabled=script)
    page.get_by_role("searchbox").fill("number 2")
    page.get_by_label("Order").select_option("oldest first")
    page.get_by_role("button", name="Show these").click()
    expect(page.locator(".card img").first).to_have_attribute("alt", "29.png")
    expect(page.get_by_text("1–12 of 12")).to_be_visible()
    page.get_by_role("link", name=re.compile("Corrected")).click()
    expect(page.get_by_text("None of them is like that.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_text("25–30 of 30")).to_be_visible()


@pytest.mark.parametrize(("scheme", "width"), [("dark", 320), ("light", 1280)])
def test_the_gallery_has_no_violation(app, open_gallery, scheme, width):
    viewport = {"width": width, "height": 800}
    page = open_gallery(26, color_scheme=scheme, viewport=viewport, bypass_csp=True)

    def check(name: str) -> None:
        results = Axe().run(page)
        assert results.violations_count == 0, f"{name}:\n{results.generate_report()}"
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0, f"{name} is wider than the window"

    check("gallery")
    page.get_by_label("Choose 1.png").check()
    check("chosen")
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    check("open, with a problem")
    page.locator(".word").first.focus()
    page.keyboard.press("Delete")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    check("a word is replaced")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("keys")
    page.goto("/history/keys")
    check("page of the keys")
    page.goto("/history")
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    check("deleted")


def test_it_prints_as_a_contact_sheet(open_gallery):
    page = open_gallery(3)
    page.emulate_media(media="print")
    expect(page.locator(".card img").first).to_be_visible()
    expect(page.locator(".pick").first).to_be_hidden()
    expect(page.locator("#selection")).to_be_hidden()
