"""Alternatives, beginnings, words to avoid and lengths, asked for on a picture's page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from captionapp.errors import InvalidOptions
from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, draw, encoded, serve
from tests.web.sending import send

TEXTS = ["a red ball", "a round thing on grass", "a fruit in a field"]


@pytest.fixture
def captioner() -> FakeCaptioner:
    return FakeCaptioner(replies=["a ball", TEXTS])


@pytest.fixture
def address(client: FlaskClient, png: bytes) -> str:
    return send(client, png)


def ask(client: FlaskClient, address: str, **fields: Any) -> Any:
    return client.post(f"{address}/describe", data={"alternatives": "5", **fields})


def words(page: str) -> list[str]:
    """The description, then what stands in the lists, as text."""
    found = re.findall(r'class="words[^>]*>(.*?)</(?:p|blockquote)>', page, re.DOTALL)
    said = [re.sub(r'<span class="unseen".*?</span>', "", one) for one in found]
    return [re.sub(r"<[^>]*>", "", one).strip() for one in said]


def caption_id(page: str, text: str) -> str:
    """The one that the button beside this text accepts."""
    found = re.search(re.escape(text) + r'</p>.*?name="caption_id" value="(\w+)"', page, re.DOTALL)
    assert found
    return found[1]


def test_alternatives_are_asked_for_and_shown(
    client: FlaskClient, address: str, captioner: FakeCaptioner
) -> None:
    answer = ask(client, address, prompt="I see", avoid="dog, Man", length="short")
    assert answer.status_code == 303
    assert answer.location == f"{address}#alternatives"
    used = captioner.calls[-1][1]
    assert (used.prompt, used.avoid, used.length, used.alternatives) == (
        "I see",
        ("dog", "man"),
        "short",
        5,
    )
    page = client.get(address).text
    assert words(page) == [*(f"I see {text}" for text in TEXTS), "a ball"]
    assert [f"{share}% sure" in page for share in (25, 17)] == [True, True]
    for kept in ('value="I see"', 'value="dog, man"', '<option selected value="short">'):
        assert kept in page


def test_an_alternative_can_be_accepted_and_is_the_description_then(
    client: FlaskClient, address: str, workflow: Workflow
) -> None:
    ask(client, address)
    chosen = caption_id(client.get(address).text, TEXTS[1])
    client.post(f"{address}/feedback", data={"caption_id": chosen, "verdict": "accepted"})
    (row,) = workflow.feedback.rows()
    assert (row.caption, row.feedback, row.verdict) == (TEXTS[1], TEXTS[1], "accepted")
    page = client.get(address).text
    assert words(page) == [TEXTS[1], TEXTS[0], TEXTS[2], "a ball"]
    assert "Written by a machine, confirmed by you" in page
    assert f'name="caption_id" value="{chosen}"' in page  # and a correction is one of it
    assert TEXTS[1] in client.get("/history").text
    assert TEXTS[1] in client.get("/history?verdict=accepted").text


def test_an_earlier_description_can_be_accepted(client: FlaskClient, address: str) -> None:
    ask(client, address)
    earlier = caption_id(client.get(address).text, "a ball")
    client.post(f"{address}/feedback", data={"caption_id": earlier, "verdict": "accepted"})
    assert words(client.get(address).text) == ["a ball", *TEXTS]


def test_asking_again_shows_what_is_new(
    client: FlaskClient, address: str, captioner: FakeCaptioner
) -> None:
    ask(client, address)
    captioner.replies = ["a toy"]
    ask(client, address, alternatives="1", avoid="ball")
    assert words(client.get(address).text)[0] == "a toy"
    made = len(captioner.calls)
    ask(client, address)  # it is known
    assert len(captioner.calls) == made
    assert words(client.get(address).text) == [*TEXTS, "a toy", "a ball"]


def test_what_another_browser_asked_for_is_not_shown(
    client: FlaskClient, app: Any, address: str, png: bytes
) -> None:
    ask(client, address, prompt="my aunt Berta is")
    other = app.test_client()
    assert send(other, png) == address
    assert words(other.get(address).text) == ["a ball"]
    assert "Berta" not in other.get(address).text


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"alternatives": "6"}, "1 to 5 texts"),
        ({"alternatives": ""}, "Say how many texts you want"),
        ({"alternatives": "many"}, "integer"),
        ({"length": "endless"}, "short or medium"),
        ({"avoid": "x" * 41}, "at most 40 characters"),
        ({"avoid": ",".join(map(str, range(21)))}, "At most 20 words"),
        ({"prompt": "x" * 201}, "at most 200 characters"),
    ],
)
def test_what_cannot_be_asked_for_is_said_and_nothing_is_lost(
    client: FlaskClient,
    address: str,
    captioner: FakeCaptioner,
    fields: dict[str, str],
    message: str,
) -> None:
    answer = ask(client, address, **{"prompt": "a view of", **fields})
    assert answer.status_code == 422
    assert message in answer.text
    assert fields.get("prompt", "a view of") in answer.text
    assert words(answer.text) == ["a ball"]
    assert len(captioner.calls) == 1


def test_a_wish_that_the_model_cannot_meet_leaves_the_description_there(
    client: FlaskClient, address: str, captioner: FakeCaptioner
) -> None:
    captioner.replies = [InvalidOptions("prompt", "The beginning is too long for this model.")]
    ask(client, address, prompt="a very long story")
    page = client.get(address).text
    assert "The beginning is too long for this model." in page
    assert words(page) == ["a ball"]


def test_nobody_asks_about_pictures_of_others(app: Any, address: str) -> None:
    assert ask(app.test_client(), address).status_code == 404
    assert ask(app.test_client(), address, alternatives="9").status_code == 404


def test_what_was_asked_for_is_not_what_the_version_says_by_itself(
    client: FlaskClient, address: str, workflow: Workflow
) -> None:
    """Neither training nor the questions to the operator are about it."""
    ask(client, address)
    image_id = address.rsplit("/", 1)[1]
    assert workflow.captions.by("fake-1") == {image_id: "a ball"}
    (newest,) = workflow.captions.newest("fake-1")
    assert newest.text == "a ball"


def test_a_picture_that_goes_takes_its_alternatives_along(
    client: FlaskClient, address: str, workflow: Workflow
) -> None:
    ask(client, address)
    image_id = address.rsplit("/", 1)[1]
    with client.session_transaction() as session:
        workflow.let_go(image_id, session["contributor"])
    assert workflow.captions.of([image_id]) == {}
    with workflow.records.read() as reading:
        assert workflow.asked.earlier(reading, [image_id], session["contributor"]) == {}


def test_descriptions_are_shown_without_guesses_at_gender_and_kept_as_they_were(
    client: FlaskClient, png: bytes, captioner: FakeCaptioner, workflow: Workflow
) -> None:
    captioner.replies = ["a man and his dog", ["a man and his dog", "a woman runs"]]
    address = send(client, png)
    assert words(client.get(address).text) == ["a man and his dog"]
    assert client.post(f"{address}/neutral", data={"neutral": "1"}).status_code == 303
    ask(client, address)
    page = client.get(address).text
    assert words(page)[:2] == ["a person and their dog", "a person runs"]
    assert "his" not in re.findall(r"<textarea.*?</textarea>", page, re.DOTALL)[0]
    assert "a person and their dog" in client.get("/history").text
    image_id = address.rsplit("/", 1)[1]
    kept = {one.text for them in workflow.captions.of([image_id]).values() for one in them}
    assert kept == {"a man and his dog", "a woman runs"}

    form = re.search(r'class="answer".*?name="caption_id" value="(\w+)"', page, re.DOTALL)
    assert form
    main = form[1]
    answer = {"caption_id": main, "verdict": "corrected"}
    same = client.post(
        f"{address}/feedback", data=answer | {"correction": "a person and their dog"}
    )
    assert same.status_code == 422  # nothing was corrected
    client.post(f"{address}/feedback", data=answer | {"correction": "a person and a cat"})
    client.post(f"{address}/feedback", data=answer | {"correction": "a man and his dog"})
    client.post(f"{address}/feedback", data=answer | {"verdict": "accepted"})
    model = "a man and his dog"
    assert [(row.verdict, row.caption, row.feedback) for row in workflow.feedback.rows()] == [
        ("corrected", model, "a person and a cat"),
        ("accepted", model, model),  # the model's own word put back
        ("accepted", model, model),
    ]
    page = client.get(address).text
    assert "You said that “a person and their dog” is right." in page
    client.post(f"{address}/neutral", data={"neutral": ""})
    assert words(client.get(address).text)[0] == model


def test_the_operator_chooses_how_it_begins(make_app: Any, png: bytes) -> None:
    captioner = FakeCaptioner(replies=["she runs"])
    app = make_app(CAPTIONAPP_NEUTRAL=True)
    serve(app.extensions["captionapp"], captioner)
    client = app.test_client()
    address = send(client, png)
    assert words(client.get(address).text) == ["they run"]
    client.post(f"{address}/neutral", data={"neutral": ""})
    assert words(client.get(address).text) == ["she runs"]


def test_a_picture_that_shows_nothing_says_so_and_is_described_all_the_same(
    client: FlaskClient, png: bytes
) -> None:
    address = send(client, encoded(Image.new("RGB", (200, 100), "white")))
    page = client.get(address).text
    assert "all of one colour" in page
    assert words(page) == ["a ball"]
    assert ask(client, address).status_code == 303
    assert "all of one colour" in client.get("/history").text
    small = send(client, encoded(draw(size=(40, 20))))
    assert "The picture is very small" in client.get(small).text
    assert "is a guess" not in client.get(send(client, png)).text


#: What is read of a part of a page at first: without what stands in closed <details>.
CLOSED = re.compile(r"<details(?![^>]* open>).*?</details>", re.DOTALL)


def at_first(page: str) -> str:
    main = page[page.index("<main") : page.index("</main>")]
    return CLOSED.sub("", main)


def test_the_hint_stands_in_place_of_the_sentence_until_a_person_has_said_something(
    client: FlaskClient,
) -> None:
    address = send(client, encoded(Image.new("RGB", (200, 100), "white")))
    for path in (address, "/history"):
        page = client.get(path).text
        assert "all of one colour" in at_first(page) and "a ball" not in at_first(page), path
        assert "What the model wrote all the same" in page and "a ball" in page
    page = client.get(address).text
    assert "How sure the model was" not in at_first(page)
    assert "The model’s text is right" in at_first(page)
    form = {"caption_id": caption_id_of(page), "verdict": "corrected", "correction": "Snow"}
    client.post(f"{address}/feedback", data=form)
    for path in (address, "/history"):
        page = client.get(path).text
        assert "Snow" in at_first(page) and "all of one colour" not in page, path


def test_a_guess_can_be_confirmed(client: FlaskClient) -> None:
    address = send(client, encoded(Image.new("RGB", (200, 100), "white")))
    form = {"caption_id": caption_id_of(client.get(address).text), "verdict": "accepted"}
    client.post(f"{address}/feedback", data=form)
    assert "a ball" in at_first(client.get("/history").text)
    assert "all the same" not in client.get(address).text


def caption_id_of(page: str) -> str:
    return re.findall(r'name="caption_id" value="(\w+)"', page)[0]
