from __future__ import annotations

import re

import pytest
from sqlalchemy import update

from captionapp.captioning.captioner import Caption, DecodeOptions
from captionapp.errors import FeedbackStoreError, QueueFull
from captionapp.tables import Picture
from tests.conftest import draw, encoded
from tests.waiting import until
from tests.web.sending import send

PASSWORD = ("anybody", "open sesame")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


def picture(app, workflow, colour: str, probability: float, version: str = "fake-1") -> str:
    """A picture that somebody else sent, with a caption of this probability; its id."""
    image_id = send(app.test_client(), encoded(draw(colour)), f"{colour}.png").rsplit("/", 1)[1]
    caption = Caption(f"a {colour} ball", probability, version, DecodeOptions(), 0.1)
    workflow.captions.add(image_id, caption)
    return image_id


def fields(page: str) -> dict[str, str]:
    """Hidden fields of the forms; both have the same."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


def test_the_least_sure_comes_first_and_an_answer_leads_to_the_next(app, client, workflow):
    picture(app, workflow, "red", 0.4)
    picture(app, workflow, "blue", 0.1)
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert "a blue ball" in page and "2 pictures without an answer" in page
    given = client.post(
        "/feedback/next",
        data=fields(page) | {"verdict": "corrected", "correction": "A blue <kite>"},
        auth=PASSWORD,
    )
    assert (given.status_code, given.location) == (303, "/feedback/next")
    (row,) = workflow.feedback.rows()
    assert (row.caption, row.feedback, row.image_name) == (
        "a blue ball",
        "A blue <kite>",
        "blue.png",
    )
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert "a red ball" in page and "a blue ball" not in page
    client.post("/feedback/next", data=fields(page) | {"verdict": "accepted"}, auth=PASSWORD)
    assert "has an answer" in client.get("/feedback/next", auth=PASSWORD).text


def test_a_blank_picture_has_a_hint_in_place_of_the_sentence(app, client, workflow):
    image_id = picture(app, workflow, "red", 0.4)
    with workflow.records.write() as session:
        session.execute(update(Picture).values(hint="blank"))
    page = client.get("/feedback/next", auth=PASSWORD).text
    shown = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert "all of one colour" in shown and ">a red ball<" not in shown
    assert ">a red ball<" in page
    assert re.search(r"<textarea[^>]*>\s*</textarea>", page)
    client.post("/feedback/next", data=fields(page) | {"verdict": "accepted"}, auth=PASSWORD)
    assert [row.image_id for row in workflow.feedback.rows()] == [image_id]


def test_the_field_has_the_focus_and_what_was_left_out_can_be_gone_back_to(app, client, workflow):
    picture(app, workflow, "red", 0.4)
    picture(app, workflow, "blue", 0.1)
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert len(re.findall(r"<textarea[^>]* autofocus>", page)) == 1
    assert "go-back" not in page
    page = client.get("/feedback/next?skip=1", auth=PASSWORD).text
    assert 'class="go-back" href="/feedback/next"' in page


def test_without_guesses_at_gender(make_app):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1], CAPTIONAPP_NEUTRAL=True)
    client, workflow = app.test_client(), app.extensions["captionapp"]
    image_id = picture(app, workflow, "red", 0.9)
    caption = Caption("a man on a bike", 0.1, "fake-1", DecodeOptions(), 0.1)
    workflow.captions.add(image_id, caption)
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert page.count("a person on a bike") == 3 and "a man on a bike" not in page
    given = fields(page) | {"verdict": "corrected", "correction": "a person on a bike"}
    assert client.post("/feedback/next", data=given, auth=PASSWORD).status_code == 422
    given["verdict"] = "accepted"
    assert client.post("/feedback/next", data=given, auth=PASSWORD).status_code == 303
    (row,) = workflow.feedback.rows()
    assert row.caption == row.feedback == "a man on a bike"


def test_leaving_one_out(app, client, workflow):
    picture(app, workflow, "red", 0.4)
    picture(app, workflow, "blue", 0.1)
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert 'href="/feedback/next?skip=1"' in page
    page = client.get("/feedback/next?skip=1", auth=PASSWORD).text
    assert "a red ball" in page and fields(page)["skip"] == "1"
    assert "2 pictures were left out" in client.get("/feedback/next?skip=2", auth=PASSWORD).text


def test_only_the_current_version_and_captions_of_its_own_count(app, client, workflow):
    image_id = picture(app, workflow, "red", 0.4)
    begun = Caption("my ball is red", 0.01, "fake-1", DecodeOptions(prompt="my ball"), 0.1)
    workflow.captions.add(image_id, begun)
    older = Caption("a ball of old", 0.01, "fake-0", DecodeOptions(), 0.1)
    workflow.captions.add(image_id, older)
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert "my ball" not in page and "ball of old" not in page


def test_what_cannot_be_kept_comes_back_with_the_text(app, client, workflow):
    picture(app, workflow, "red", 0.4)
    given = fields(client.get("/feedback/next", auth=PASSWORD).text)
    given |= {"verdict": "corrected", "correction": "bad \x07 bell"}
    answered = client.post("/feedback/next", data=given, auth=PASSWORD)
    assert answered.status_code == 422
    assert 'role="alert"' in answered.text and "bad \x07 bell" in answered.text
    assert not workflow.feedback.rows()


def test_a_full_disk_keeps_what_was_written(app, client, workflow, monkeypatch):
    picture(app, workflow, "red", 0.4)
    given = fields(client.get("/feedback/next", auth=PASSWORD).text)

    def fail(row):
        raise FeedbackStoreError("The disk is full.")

    monkeypatch.setattr(workflow.feedback, "append", fail)
    answered = client.post(
        "/feedback/next",
        data=given | {"verdict": "corrected", "correction": "a kite"},
        auth=PASSWORD,
    )
    assert answered.status_code == 503 and "a kite" in answered.text
    assert "Retry-After" in answered.headers


def test_an_unknown_picture_or_a_caption_of_another_is_not_found(app, client, workflow):
    first = picture(app, workflow, "red", 0.4)
    picture(app, workflow, "blue", 0.1)
    given = fields(client.get("/feedback/next", auth=PASSWORD).text) | {"verdict": "accepted"}
    for wrong in ("0" * 32, first):
        answered = client.post("/feedback/next", data=given | {"image_id": wrong}, auth=PASSWORD)
        assert answered.status_code == 404
    assert not workflow.feedback.rows()


def test_undescribed_pictures_are_described_on_a_click(make_app, app, client, workflow, captioner):
    picture(app, workflow, "red", 0.4)
    version = workflow.versions.current()
    renamed = type(version)("fake-2", version.folder, version.origin, version.created_at)
    workflow.versions.current = lambda: renamed
    page = client.get("/feedback/next", auth=PASSWORD).text
    assert "One stored picture has not been described" in page
    captioner.model_version = "fake-2"
    captioner.replies = ["a new ball"]
    assert client.post("/feedback/next/describe", auth=PASSWORD).status_code == 303
    until(lambda: "a new ball" in client.get("/feedback/next", auth=PASSWORD).text, 10)


def test_a_full_queue_is_said(app, client, workflow, monkeypatch):
    picture(app, workflow, "red", 0.4)

    def full(places):
        raise QueueFull("Too many wait.")

    monkeypatch.setattr(workflow.queue, "reserve", full)
    monkeypatch.setattr("captionapp.asking.undescribed", lambda workflow: ["0" * 32])
    answered = client.post("/feedback/next/describe", auth=PASSWORD, follow_redirects=True)
    assert "Too many wait." in answered.text


def test_the_operator_sees_any_picture(app, client, workflow):
    image_id = picture(app, workflow, "red", 0.4)
    stored = f"/feedback/pictures/{image_id}"
    for path in (stored, f"{stored}/view", f"{stored}/thumbnail"):
        answered = client.get(path, auth=PASSWORD)
        assert (answered.status_code, answered.mimetype) == (200, "image/webp")
        answered.close()
        refused = client.get(path)
        assert refused.status_code == 401 and "WWW-Authenticate" in refused.headers
    assert client.get(f"/feedback/pictures/{'0' * 32}", auth=PASSWORD).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "/feedback/next"), ("post", "/feedback/next"), ("post", "/feedback/next/describe")],
)
def test_it_is_the_operators(client, make_app, method, path):
    assert getattr(client, method)(path).status_code == 401
    hidden = getattr(make_app().test_client(), method)(path, auth=PASSWORD)
    assert hidden.status_code == 404


def test_answers_need_the_token(make_app):
    client = make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1], WTF_CSRF_ENABLED=True).test_client()
    for path in ("/feedback/next", "/feedback/next/describe"):
        assert client.post(path, auth=PASSWORD).status_code == 400
