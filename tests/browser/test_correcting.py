"""Corrections in the gallery: fifty in a row, word by word, late and refused ones."""

from __future__ import annotations

from typing import Any

from flask import Flask
from playwright.sync_api import expect

from captionapp.errors import FeedbackStoreError
from tests.browser.conftest import IN_A_BROWSER, field, said
from tests.conftest import HeldCaptioner, serve
from tests.hanging import ANNA
from tests.waiting import until

pytestmark = IN_A_BROWSER


def describe_again(app: Flask, held: HeldCaptioner) -> list[str]:
    """Have a newer version describe all pictures once it is let go; returns their ids."""
    workflow = app.extensions["captionapp"]
    held.model_version = "fake-2"
    serve(workflow, held)
    image_ids = [view.image_id for view in workflow.pictures(ANNA).items]
    for image_id in image_ids:
        workflow.again(image_id, ANNA)
    return image_ids


def test_fifty_corrections_by_keyboard(app, open_gallery):
    page = open_gallery(50)
    page.keyboard.press("c")
    for number in range(1, 51):
        expect(field(page)).to_have_value(f"ball number {number}")
        expect(field(page)).to_be_focused()
        # A page that has just come has the field before it has the keys; they are told of then.
        expect(page.locator(".correct[open] .hints")).to_be_visible()
        page.keyboard.press("Control+A")
        page.keyboard.type(f"kite {number}")
        page.keyboard.press("Enter")
    expect(page.get_by_text("every description here has an answer")).to_be_visible()
    assert said(app) == [f"kite {number}" for number in range(1, 51)]
    assert page.locator("[data-count=corrected]").inner_text() == "50"


def test_twenty_six_by_keyboard_without_script(app, open_gallery):
    page = open_gallery(26, java_script_enabled=False)
    page.get_by_role("button", name="Correct one after the other").click()
    for number in range(1, 27):
        expect(field(page)).to_have_value(f"ball number {number}")
        expect(field(page)).to_be_focused()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(f"kite {number}")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        if number < 26:
            expect(page.get_by_text("Before this:")).to_contain_text(f"kite {number}")
    expect(page.get_by_text("every description here has an answer")).to_be_visible()
    assert said(app) == [f"kite {number}" for number in range(1, 27)]


def test_back_over_several_pictures_without_script(open_gallery):
    page = open_gallery(3, java_script_enabled=False)
    page.get_by_role("button", name="Correct one after the other").click()
    for number in (1, 2):
        expect(field(page)).to_have_value(f"ball number {number}")
        page.locator(".correct[open]").get_by_role("link", name="Leave this one out").click()
    for number in (3, 2):
        expect(field(page)).to_have_value(f"ball number {number}")
        page.locator(".correct[open]").get_by_role("link", name="Back").click()
    expect(field(page)).to_have_value("ball number 1")


def test_accept_skip_and_back_while_correcting(app, open_gallery):
    page = open_gallery(4)
    page.keyboard.press("c")
    page.keyboard.press("Control+Enter")
    expect(field(page)).to_have_value("ball number 2")
    page.keyboard.press("Enter")  # nothing was changed
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed")
    page.keyboard.press("Alt+ArrowDown")
    expect(field(page)).to_have_value("ball number 3")
    page.keyboard.press("Alt+ArrowUp")
    expect(field(page)).to_have_value("ball number 2")
    page.keyboard.press("End")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("on a line of its own")
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("ball number 3")
    page.keyboard.press("Escape")
    expect(field(page)).to_have_count(0)
    until(lambda: len(said(app)) == 2)
    assert said(app) == ["ball number 1", "ball number 2\non a line of its own"]
    expect(page.locator("[data-count=unanswered]")).to_have_text("2")


def test_an_answer_that_is_refused_comes_back_with_its_text(app, open_gallery):
    page = open_gallery(3, expected=("status of 503", "status of 422"))
    workflow = app.extensions["captionapp"]
    append = workflow.feedback.append

    def fail(row: Any) -> None:
        raise FeedbackStoreError("The disk is full.")

    workflow.feedback.append = fail
    page.keyboard.press("c")
    page.keyboard.type(" and a kite")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The disk is full.")
    expect(field(page)).to_have_value("ball number 1 and a kite")
    expect(field(page)).to_be_focused()
    workflow.feedback.append = append
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("ball number 2")
    until(lambda: said(app) == ["ball number 1 and a kite"])


def test_what_is_written_in_a_card_stays_when_its_answer_arrives_late(app, open_gallery):
    page = open_gallery(2)
    held: list[Any] = []
    page.route("**/history/cards*", lambda route: held.append(route))
    page.keyboard.press("c")
    page.keyboard.press("Control+Enter")
    expect(field(page)).to_have_value("ball number 2")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.type(" and a kite")
    card = page.locator(".card").first
    expect(card).to_have_attribute("data-answered", "yes")
    while not held:
        page.wait_for_timeout(50)
    with page.expect_response("**/history/cards*"):
        held[0].continue_()
    page.evaluate("new Promise((done) => setTimeout(done, 100))")
    expect(field(page)).to_have_value("ball number 1 and a kite")


def test_what_arrives_leaves_what_was_written_chosen_and_where_the_keyboard_is(
    app, open_gallery, held
):
    page = open_gallery(3, path="/about")
    describe_again(app, held)
    page.goto("/history")
    expect(page.locator(".working")).to_have_count(4)  # one is above the cards
    page.keyboard.press("c")
    page.keyboard.type(" and a kite")
    page.get_by_label("Choose 2.png").check()
    page.keyboard.press("j")  # to the third, away from what is half written
    focused = page.locator(".card:has(.print:focus)")
    expect(focused).to_contain_text("ball number 3")
    held.go.set()
    expect(focused).to_contain_text("a red ball")
    expect(page.locator(".card").nth(1)).to_contain_text("a red ball")
    expect(page.get_by_label("Choose 2.png")).to_be_checked()
    expect(page.get_by_text("One chosen")).to_be_visible()
    expect(field(page)).to_have_value("ball number 1 and a kite")


def test_a_description_arrives_after_an_answer_to_the_one_before_was_refused(
    app, open_gallery, held, monkeypatch
):
    page = open_gallery(1, path="/about", expected=("status of 503",))
    (image_id,) = describe_again(app, held)

    def fail(row: Any) -> None:
        raise FeedbackStoreError("The disk is full.")

    monkeypatch.setattr(app.extensions["captionapp"].feedback, "append", fail)
    page.goto(f"/images/{image_id}")
    page.get_by_role("button", name="Yes, it is right").click()
    expect(page.get_by_role("alert")).to_contain_text("The disk is full.")
    held.go.set()
    expect(page.locator("blockquote")).to_have_text("a (unsure) red ball")


def test_words_are_struck_and_replaced(app, open_gallery):
    page = open_gallery(2)
    page.keyboard.press("c")
    expect(page.locator(".correct[open] .word")).to_have_count(3)
    page.keyboard.press("Shift+Tab")
    word = page.locator(".word:focus")
    expect(word).to_have_text("ball")
    page.keyboard.press("ArrowRight")
    expect(word).to_have_text("number")
    page.keyboard.press("Delete")
    expect(field(page)).to_have_value("ball 1")
    expect(page.get_by_role("button", name="number, struck")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.type("round kite")
    page.keyboard.press("Enter")  # the word is done, the description is not sent
    expect(field(page)).to_have_value("round kite 1")
    page.keyboard.press("End")
    page.keyboard.type("one")
    page.keyboard.press("Escape")
    expect(field(page)).to_have_value("round kite 1")
    page.get_by_role("button", name="1", exact=True).click()
    page.get_by_role("button", name="Strike it").click()
    expect(field(page)).to_have_value("round kite")
    assert said(app) == []
    field(page).press("Enter")
    until(lambda: said(app) == ["round kite"])


def test_one_word_after_the_other_is_replaced_with_the_mouse(open_gallery):
    page = open_gallery(1)
    page.locator(".correct summary").click()
    page.get_by_role("button", name="ball", exact=True).click()
    page.keyboard.type("round kite")
    page.get_by_role("button", name="number", exact=True).click()
    page.keyboard.type("no.")
    page.get_by_role("button", name="1", exact=True).click()
    page.get_by_role("button", name="Strike it").click()
    expect(field(page)).to_have_value("round kite no.")


def test_words_on_the_page_of_a_picture(app, open_gallery):
    page = open_gallery(1)
    page.locator(".card .print").click()
    page.get_by_role("group", name="Word by word").get_by_role("button", name="ball").press(
        "Delete"
    )
    expect(page.get_by_label("Or write a better description")).to_have_value("number 1")
    page.get_by_role("button", name="Keep my description").click()
    expect(page.get_by_text("Thank you.")).to_be_visible()
    assert said(app) == ["number 1"]


def test_correcting_begins_anew_where_a_picture_was_opened_by_its_address(open_gallery):
    page = open_gallery(2, path="/about")
    page.goto("/history/next")
    expect(field(page)).to_be_focused()
    page.keyboard.press("Escape")
    expect(field(page)).to_have_count(0)
    page.keyboard.press("c")
    expect(field(page)).to_have_value("ball number 1")
