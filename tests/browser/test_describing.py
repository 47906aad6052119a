"""Alternatives, and where the model looked: pointed at, focused, and without script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER
from tests.conftest import FakeCaptioner

pytestmark = IN_A_BROWSER


@pytest.fixture
def captioner() -> FakeCaptioner:
    return FakeCaptioner(replies=["a red ball", ["a red ball", "a round thing"]])


def picture_page(page: Page, photograph: Path) -> None:
    page.goto("/")
    files = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photograph.read_bytes()}
    token = page.locator("[name=csrf_token]").first.input_value()
    sent = {"csrf_token": token, "images": files}
    page.goto(page.request.post("/captions", multipart=sent).url)


def test_pointing_at_a_word_or_focusing_it_lays_a_veil_over_the_picture(
    app: Any, running: Any, visit: Any, photograph: Path
) -> None:
    page = visit(running(app)).page
    picture_page(page, photograph)
    veil = page.locator(".looking .veil")
    page.get_by_role("link", name="red", exact=True).hover()
    expect(veil).to_have_attribute("src", re.compile("/attention/1.png$"))
    same = "[a, b] = document.querySelectorAll('.looking img')"
    boxes = page.evaluate(
        f"{same}, [a, b].map((one) => Math.round(one.getBoundingClientRect().width))"
    )
    assert boxes[0] == boxes[1]
    page.get_by_role("heading", level=1).hover()
    expect(veil).to_have_count(0)
    page.get_by_role("link", name="ball", exact=True).focus()
    expect(veil).to_have_attribute("src", re.compile("/attention/2.png$"))
    page.keyboard.press("Escape")
    expect(veil).to_have_count(0)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_alternatives_are_asked_for_and_one_is_chosen(
    app: Any, running: Any, visit: Any, photograph: Path, script: bool
) -> None:
    page = visit(running(app), java_script_enabled=script).page
    picture_page(page, photograph)
    page.get_by_text("Describe it in another way").click()
    page.get_by_role("button", name="Describe it this way").click()
    page.get_by_role("listitem").filter(has_text="a round thing").get_by_role("button").click()
    expect(page.get_by_text("Written by a machine, confirmed by you")).to_be_visible()
    expect(page.locator("blockquote")).to_have_text("a (unsure) round thing")


def test_without_script_a_word_leads_to_where_the_model_looked(
    app: Any, running: Any, visit: Any, photograph: Path
) -> None:
    page = visit(running(app), java_script_enabled=False).page
    picture_page(page, photograph)
    page.get_by_role("link", name="red", exact=True).click()
    expect(page.get_by_role("heading", name="Why these words?")).to_be_visible()
    expect(page.locator(".looking .veil")).to_be_visible()
