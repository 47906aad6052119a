from __future__ import annotations

import html
import re

import pytest

from captionapp.errors import FeedbackStoreError
from tests.conftest import draw, encoded
from tests.hanging import ANNA, hang
from tests.web.sending import answer, send


def moments(page: str) -> list[str]:
    return re.findall(r'name="moment" value="([^"]+)"', page)


def shown(page: str) -> list[int]:
    """The numbers of the pictures on a page, in their order."""
    return [int(number) for number in re.findall(r'alt="(\d+)\.png"', page)]


def link(page: str, kind: str) -> str:
    (found,) = re.findall(rf'rel="{kind}" href="([^"]+)"', page)
    return html.unescape(found)


def test_deleted_pictures_come_back_after_a_reload(client, png):
    path = send(client, png)
    client.post(path + "/delete")
    (moment,) = moments(client.get("/history").text)
    assert moments(client.get("/history").text) == [moment]
    back = client.post("/history/undo", data={"moment": moment})
    image_id = path.rsplit("/", 1)[1]
    assert (back.status_code, back.location) == (303, f"/history#picture-{image_id}")
    page = client.get("/history").text
    assert path in page and moments(page) == []
    assert client.get(path).status_code == 200
    late = client.post("/history/undo", data={"moment": moment}, follow_redirects=True)
    assert "too late" in late.text


def test_deleting_and_undoing_keep_the_place(app, anna):
    image_ids = hang(app, 30)
    behind = link(anna.get("/history").text, "next")
    page = anna.get(behind).text

    def delete(page: str, number: int) -> str:
        (address,) = re.findall(rf'action="(/images/{image_ids[number - 1]}/delete[^"]*)"', page)
        return anna.post(html.unescape(address)).location

    assert delete(page, 27) == f"{behind}#picture-{image_ids[27]}"
    assert delete(page, 30) == f"{behind}#picture-{image_ids[28]}"
    page = anna.get(behind).text
    assert shown(page) == [25, 26, 28, 29]
    (undo,) = set(re.findall(r'action="(/history/undo[^"]*)"', page))
    for moment, number in zip(moments(page), (30, 27), strict=True):
        back = anna.post(html.unescape(undo), data={"moment": moment})
        assert back.location == f"{behind}#picture-{image_ids[number - 1]}"

    # A card that was put anew, as after an answer in place, knows where it stands.
    page = anna.get(behind).text
    (address,) = re.findall(rf'data-card="([^"]*picture={image_ids[26]}[^"]*)"', page)
    card = anna.get(html.unescape(address)).text
    assert delete(card, 27) == f"{behind}#picture-{image_ids[27]}"

    # Where a form is open it stays so, and where it was the page begins once it is gone.
    opened = f"/history?at={image_ids[9]}&back={image_ids[8]}"
    assert delete(anna.get(opened).text, 12) == f"{opened}#picture-{image_ids[12]}"
    assert delete(anna.get(opened).text, 10) == f"{opened}#picture-{image_ids[10]}"
    assert shown(anna.get(opened).text)[:2] == [11, 13]


def test_only_the_browser_that_deleted_can_take_it_back(app, client, png):
    path = send(client, png)
    client.post(path + "/delete")
    (moment,) = moments(client.get("/history").text)
    stranger = app.test_client()
    assert moments(stranger.get("/history").text) == []
    stranger.post("/history/undo", data={"moment": moment})
    assert client.get(path).status_code == 404


def test_pages_lead_to_each_other(app, anna):
    hang(app, 30)
    first = anna.get("/history").text
    assert "1–24 of 30" in first and shown(first) == list(range(1, 25))
    second = anna.get(link(first, "next")).text
    assert "25–30 of 30" in second and shown(second) == list(range(25, 31))
    assert shown(anna.get(link(second, "prev")).text) == shown(first)
    assert shown(anna.get("/history?before=end").text) == list(range(7, 31))
    assert shown(anna.get("/history?after=nonsense&page=x").text) == shown(first)


def test_where_everything_has_gone_the_page_beside_it_is_shown(app, anna):
    image_ids = hang(app, 25)
    behind = link(anna.get("/history").text, "next")
    assert shown(anna.get(behind).text) == [25]
    anna.post(f"/images/{image_ids[-1]}/delete")
    page = anna.get(behind).text
    assert shown(page) == list(range(1, 25)) and "1–24 of 24" in page
    assert "None of them" not in page
    anna.post("/history/undo", data={"moment": moments(page)[0]})
    before = link(anna.get(behind).text, "prev")
    anna.post("/history/selection", data={"picture": image_ids[:24], "do": "delete"})
    assert shown(anna.get(before).text) == [25]


def test_search_filter_and_order(app, anna, workflow):
    image_ids = hang(app, 12)
    answer(anna, workflow, image_ids[2], "A kite")
    answer(anna, workflow, image_ids[3])
    assert shown(anna.get("/history?text=KITE").text) == [3]
    assert shown(anna.get("/history?text=ball+1").text) == [1, 10, 11, 12]
    assert shown(anna.get("/history?verdict=corrected").text) == [3]
    assert shown(anna.get("/history?verdict=accepted").text) == [4]
    page = anna.get("/history?verdict=unanswered&sort=oldest").text
    assert shown(page) == [12, 11, 10, 9, 8, 7, 6, 5, 2, 1]
    counts = re.findall(r'data-count="(\w*)">(\d+)<', page)
    assert counts == [("", "12"), ("unanswered", "10"), ("accepted", "1"), ("corrected", "1")]
    assert shown(anna.get("/history?sort=least-sure").text) == list(range(1, 13))
    assert shown(anna.get("/history?sort=name").text) == list(range(1, 13))
    assert "None of them" in anna.get("/history?text=zebra").text
    assert shown(anna.get("/history?last=2020-01-01").text) == []


@pytest.mark.parametrize(
    "query", ["verdict=maybe", "sort=random", "first=yesterday", "text=" + "x" * 201]
)
def test_a_filter_that_makes_no_sense_is_named_and_shows_nothing(app, anna, query):
    hang(app, 1)
    answered = anna.get(f"/history?{query}")
    assert answered.status_code == 422
    assert 'role="alert"' in answered.text and shown(answered.text) == []


def test_after_an_answer_the_next_one_is_open(app, anna, workflow):
    image_ids = hang(app, 4)
    answer(anna, workflow, image_ids[1])
    first = answer(anna, workflow, image_ids[0], "A kite", "&text=ball")
    assert first.status_code == 303
    there = anna.get(first.location)
    assert there.status_code == 302
    assert there.location == f"/history?text=ball&at={image_ids[2]}&back={image_ids[0]}"
    page = anna.get(there.location).text
    assert shown(page) == [3, 4]  # it begins with the one that is open
    assert page.count('<details class="correct quiet" open>') == 1
    assert "autofocus" in page and "A kite" in page and "Written by you" in page
    assert [row.feedback for row in workflow.feedback.rows()] == ["ball number 2", "A kite"]


def test_back_leads_over_several_pictures(app, anna, workflow):
    image_ids = hang(app, 4)
    answer(anna, workflow, image_ids[1], "A kite")
    answer(anna, workflow, image_ids[2], "A kite", "&verdict=unanswered")
    page = anna.get(f"/history?verdict=unanswered&at={image_ids[3]}&back={image_ids[2]}").text
    for number in (3, 2, 1):
        (address,) = re.findall(r'class="go-back" href="([^"]+)"', page)
        page = anna.get(html.unescape(address)).text
        assert shown(page)[0] == number and address.startswith("/history?verdict=unanswered")
    assert "go-back" not in page and "Before this" not in page


def test_leaving_out_goes_on_and_the_end_is_said(app, anna, workflow):
    first, second = hang(app, 2)
    there = anna.get(f"/history/next?after={first}").location
    assert f"at={second}" in there
    end = anna.get(f"/history/next?after={second}", follow_redirects=True).text
    assert "Some were left out" in end
    begin = anna.get("/history/next").location
    assert f"at={first}" in begin
    answer(anna, workflow, first)
    answer(anna, workflow, second)
    end = anna.get("/history/next", follow_redirects=True).text
    assert "every description here has an answer" in end


def test_an_answer_that_cannot_be_kept_comes_back_in_place(app, anna, workflow, monkeypatch):
    first, second = hang(app, 2)
    for text, status in (("bad \x07 bell", 422), ("ball number 2", 422)):
        answered = answer(anna, workflow, second, text)
        assert answered.status_code == status
        assert 'role="alert"' in answered.text and text in answered.text
        assert shown(answered.text) == [2] and "<h1>History</h1>" in answered.text

    def fail(row):
        raise FeedbackStoreError("The disk is full.")

    monkeypatch.setattr(workflow.feedback, "append", fail)
    answered = answer(anna, workflow, first, "A kite")
    assert answered.status_code == 503 and "A kite" in answered.text
    assert "Retry-After" in answered.headers


def test_the_picture_that_is_open_needs_not_be_among_those_wanted(app, anna, workflow):
    first, second = hang(app, 2)
    answer(anna, workflow, first, "A kite")
    page = anna.get(f"/history?verdict=unanswered&at={first}").text
    assert shown(page) == [1, 2]
    assert "1–2 of" not in page
    assert shown(anna.get(f"/history?at={'0' * 32}").text) == [1, 2]


def test_cards_alone(app, anna):
    first, second = hang(app, 2)
    page = anna.get(f"/history/cards?picture={second}&picture={first}&picture={'0' * 32}").text
    assert shown(page) == [2, 1] and "<html" not in page
    assert shown(app.test_client().get(f"/history/cards?picture={first}").text) == []


def test_a_card_knows_whether_it_was_answered(app, anna, workflow):
    first, second, _ = hang(app, 3)
    answer(anna, workflow, first)
    answer(anna, workflow, second, "A kite")
    for image_id, state in ((first, "accepted"), (second, "corrected")):
        page = anna.get(f"/history?verdict={state}").text
        assert f'id="picture-{image_id}"' in page
        assert 'data-answered="yes"' in page and 'data-answered="no"' not in page
        assert 'class="accept"' not in page and "Change it" in page
    page = anna.get("/history?verdict=unanswered").text
    assert 'data-answered="no"' in page and 'class="accept"' in page


def test_others_see_and_change_nothing(app, anna, workflow):
    (first,) = hang(app, 1)
    stranger = app.test_client()
    assert shown(stranger.get(f"/history?at={first}").text) == []
    stranger.post("/history/selection", data={"picture": [first], "do": "delete"})
    stranger.post("/history/selection", data={"everything": "1", "do": "delete"})
    assert shown(anna.get("/history").text) == [1]
    taken = stranger.post(
        "/history/selection", data={"picture": [first], "do": "download", "form": "spreadsheet"}
    )
    assert "1.png" not in taken.text
    assert answer(stranger, workflow, first).status_code == 404


def test_deleting_what_was_chosen_returns_to_the_same_list(app, anna):
    image_ids = hang(app, 4)
    gone = anna.post(
        "/history/selection?sort=oldest", data={"picture": image_ids[:2], "do": "delete"}
    )
    assert (gone.status_code, gone.location) == (303, "/history?sort=oldest")
    page = anna.get(gone.location).text
    assert shown(page) == [4, 3] and "2 pictures are deleted" in page
    gone = anna.post("/history/selection?text=3", data={"everything": "1", "do": "delete"})
    page = anna.get("/history").text
    assert shown(page) == [4] and len(moments(page)) == 2
    anna.post("/history/undo", data={"moment": moments(page)[1]})
    assert shown(anna.get("/history").text) == [1, 2, 4]


def test_nothing_chosen_is_said(app, anna):
    hang(app, 1)
    answered = anna.post("/history/selection", data={"do": "delete"}, follow_redirects=True)
    assert "Choose some pictures first" in answered.text and shown(answered.text) == [1]
    (first,) = hang(app, 1)
    odd = {"picture": [first], "do": "download", "form": "exe"}
    assert anna.post("/history/selection", data=odd).status_code == 404


def test_keys_without_script(client):
    page = client.get("/history/keys")
    assert page.status_code == 200 and "<kbd>?</kbd>" in page.text


def test_a_page_that_waits_can_be_looked_at_again(app, anna, workflow):
    first, second = hang(app, 2)
    held = workflow.records.held(first, ANNA)
    workflow.jobs.job_records.begin(first, held.options, 60)
    assert '<a href="/history?sort=oldest">Look again' in anna.get("/history?sort=oldest").text
    assert 'http-equiv="refresh"' not in anna.get("/history").text  # WCAG 2.2.1
    opened = f"/history?at={first}&back={second}"
    assert f'<a href="{html.escape(opened)}">Look again' in anna.get(opened).text


def test_changes_need_the_token(make_app, png):
    client = make_app(WTF_CSRF_ENABLED=True).test_client()
    for path in ("/history/selection", "/history/undo"):
        assert client.post(path, data={"do": "delete"}).status_code == 400


def test_names_are_escaped(client, png):
    send(client, encoded(draw("blue")), "'<img src=x onerror=alert(1)>.png")
    assert "<img src=x" not in client.get("/history").text
