from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from PIL import Image

from captionapp.errors import AddressRefused, FetchBusy, QueueFull
from captionapp.web.intake import MAX_ASKED
from tests.conftest import FakeCaptioner, draw, encoded
from tests.waiting import until

BATCH = "b" * 32
JSON = {"Accept": "application/json"}


@pytest.fixture
def gate(app, workflow):
    """Descriptions are made once ``set()``."""
    go = threading.Event()

    class Gate(FakeCaptioner):
        def caption(self, images: Any, options: Any) -> Any:
            assert go.wait(30)
            return super().caption(images, options)

    gate = Gate()
    workflow.service._load = lambda _: gate
    workflow.queue._batch_size = 1
    yield go
    go.set()


def send(client, data: bytes, place: int = 0, name: str = "ball.png", **fields: Any) -> Any:
    form = {"images": (io.BytesIO(data), name), "batch": BATCH, "place": place, "total": 4}
    return client.post("/captions", data=form | fields, headers=JSON)


def status(client, *image_ids: str) -> Any:
    answer = client.get("/captions/status", query_string={"image": list(image_ids)})
    assert answer.status_code == 200
    return answer.json


def test_a_picture_is_answered_at_once_and_asked_after(client, workflow, gate, png):
    sent = send(client, png)
    assert sent.status_code == 202
    (picture,) = sent.json["pictures"]
    image_id = picture["image_id"]
    assert picture["status"] in {"queued", "describing"}
    assert picture["description"] is None
    assert picture["thumbnail"] == f"/images/{image_id}/thumbnail"
    second = send(client, encoded(draw("blue")), 1).json["pictures"][0]["image_id"]
    until(lambda: status(client, image_id)["pictures"][0]["status"] == "describing")
    (waiting,) = status(client, second)["pictures"]
    assert (waiting["status"], waiting["ahead"]) == ("queued", 0)

    gate.set()
    until(lambda: status(client, second)["pictures"][0]["status"] == "done")
    (done,) = status(client, image_id)["pictures"]
    assert done["url"] == f"/images/{image_id}"
    assert done["description"] == {
        "text": "a red ball",
        "source": "machine",
        "label": "Written by a machine, not yet checked",
        "checked": False,
    }


def test_a_card_of_a_blank_picture_says_so(client, workflow, png):
    blank, other = (
        send(client, data).json["pictures"][0]["image_id"]
        for data in (encoded(Image.new("RGB", (200, 100), "white")), png)
    )
    until(lambda: {one["status"] for one in status(client, blank, other)["pictures"]} == {"done"})
    first, second = status(client, blank, other)["pictures"]
    assert "all of one colour" in first["hint"] and second["hint"] == ""
    assert first["description"]["text"] == "a red ball"
    form = {"verdict": "accepted", "caption_id": workflow.picture(blank, None).caption.id}
    client.post(f"/images/{blank}/feedback", data=form)
    assert status(client, blank)["pictures"][0]["hint"] == ""


def test_the_last_batch_comes_back_in_its_order(client, png):
    blue = encoded(draw("blue"))
    assert send(client, blue, 2, "blue.png").status_code == 202
    assert send(client, png, 0, "red.png").status_code == 202
    broken = send(client, b"words", 1, "<notes>.txt")
    assert broken.status_code == 422
    assert broken.json["error"]["message"].startswith("This is not a picture")
    last = status(client)
    assert (last["batch"], last["missing"]) == (BATCH, 1)
    assert [one["place"] for one in last["pictures"]] == [0, 1, 2]
    assert [one["name"] for one in last["pictures"]] == ["red.png", "<notes>.txt", "blue.png"]
    refused = last["pictures"][1]
    assert refused["status"] == "refused" and "not a picture" in refused["problem"]


def test_what_is_given_again_stands_where_it_stood_first(client, png):
    for place, data in enumerate([png, encoded(draw("blue")), png]):
        send(client, data, place)
    last = status(client)
    assert [one["place"] for one in last["pictures"]] == [0, 1]
    assert last["missing"] == 1  # it has arrived, twice; the fourth has not


def test_why_a_file_was_refused_is_said_in_the_language_of_who_asks(client):
    assert send(client, b"words", name="notes.txt").status_code == 422
    (refused,) = client.get("/captions/status", headers={"Accept-Language": "de"}).json["pictures"]
    assert "kein Bild" in refused["problem"]


def test_a_browser_is_told_of_its_own_pictures_only(app, client, png):
    image_id = send(client, png).json["pictures"][0]["image_id"]
    other = app.test_client()
    assert status(other, image_id)["pictures"] == [{"image_id": image_id, "status": "gone"}]
    assert status(other) == {"batch": None, "missing": 0, "pictures": []}
    assert other.post("/captions/cancel", data={"batch": BATCH}, headers=JSON).json == {
        "cancelled": []
    }


def test_what_was_deleted_is_gone_and_in_no_batch(client, png):
    image_id = send(client, png).json["pictures"][0]["image_id"]
    client.post(f"/images/{image_id}/delete")
    assert status(client, image_id)["pictures"] == [{"image_id": image_id, "status": "gone"}]


def test_a_question_about_too_many(client):
    asked = {"image": [f"{n:032x}" for n in range(MAX_ASKED + 1)]}
    assert client.get("/captions/status", query_string=asked).status_code == 400
    asked["image"].pop()
    assert client.get("/captions/status", query_string=asked).status_code == 200


def test_cancelling_a_batch(client, workflow, gate, png):
    first = send(client, png).json["pictures"][0]["image_id"]
    until(lambda: status(client, first)["pictures"][0]["status"] == "describing")
    second = send(client, encoded(draw("blue")), 1).json["pictures"][0]["image_id"]
    cancelled = client.post("/captions/cancel", data={"batch": BATCH}, headers=JSON)
    assert cancelled.json == {"cancelled": [second]}
    assert [one["status"] for one in status(client, first, second)["pictures"]] == [
        "describing",
        "gone",
    ]
    assert status(client)["missing"] == 0  # what was not sent any more is not missed


def test_cancelling_without_script(client, workflow, gate, png):
    first = send(client, png).json["pictures"][0]["image_id"]
    until(lambda: status(client, first)["pictures"][0]["status"] == "describing")
    send(client, encoded(draw("blue")), 1)
    assert 'action="/captions/cancel"' in client.get("/history").text
    sent = client.post("/captions/cancel")
    assert (sent.status_code, sent.location) == (303, "/history")
    page = client.get("/history").text
    assert "1 description was cancelled" in page
    assert "You cancelled this before it was described" in page
    client.post("/captions/cancel")
    assert "Nothing was waiting any more" in client.get("/history").text


def test_a_batch_of_no_name(client, png):
    assert send(client, png, batch="../../etc").status_code == 422
    assert send(client, png, place="-1").status_code == 422
    assert client.post("/captions/cancel", data={"batch": "x"}, headers=JSON).status_code == 422


def test_nothing_of_the_session_is_sent_again(client, png):
    """Answers that overtake each other must not bring an old session back."""
    client.get("/")
    assert "Set-Cookie" not in send(client, png).headers
    assert "Set-Cookie" not in client.get("/captions/status").headers


def test_a_full_queue_says_when_to_come_again(client, workflow, monkeypatch, png):
    def refuse(places: int) -> None:
        raise QueueFull("Too many wait.", retry_after=3)

    monkeypatch.setattr(workflow.queue, "reserve", refuse)
    sent = send(client, png)
    assert (sent.status_code, sent.headers["Retry-After"]) == (503, "3")
    assert sent.json["error"]["message"] == "Too many wait."
    assert status(client)["pictures"] == []


@pytest.mark.parametrize("key", ["cat", "astronaut", "coffee", "rocket"])
def test_every_example_is_a_picture(client, key):
    assert f'value="{key}"' in client.get("/").text
    sent = client.post("/captions", data={"example": key})
    assert sent.status_code == 303
    assert "a red ball" in client.get(sent.location).text


def test_an_example_that_there_is_not(client):
    assert client.post("/captions", data={"example": "../icon.svg"}).status_code == 422


class Fetcher:
    def __init__(self, reply: bytes | Exception) -> None:
        self.reply = reply
        self.asked: list[str] = []

    @staticmethod
    def name_of(address: str) -> str:
        return address.rsplit("/", 1)[-1]

    def fetch(self, address: str) -> bytes:
        self.asked.append(address)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def test_addresses_are_off_by_default(client, workflow):
    assert workflow.fetcher is None
    assert 'name="address"' not in client.get("/").text
    sent = client.post("/captions", data={"address": "https://example.org/ball.png"})
    assert sent.status_code == 422 and "Choose at least one picture" in sent.text


@pytest.fixture
def fetching(make_app):
    return make_app(CAPTIONAPP_FETCH_ADDRESSES=True)


def test_a_picture_is_fetched_and_described(fetching, png):
    client = fetching.test_client()
    fetching.extensions["captionapp"].fetcher = fetcher = Fetcher(png)
    assert 'name="address"' in client.get("/").text
    sent = client.post("/captions", data={"address": " https://example.org/ball.png "})
    assert sent.status_code == 303
    assert fetcher.asked == ["https://example.org/ball.png"]
    assert "ball.png" in client.get("/history").text


def test_no_place_in_the_queue_is_kept_while_a_picture_is_fetched(fetching, png):
    workflow = fetching.extensions["captionapp"]
    taken = []

    class Slow(Fetcher):
        def fetch(self, address: str) -> bytes:
            taken.append(workflow.queue._taken)
            return super().fetch(address)

    workflow.fetcher = Slow(png)
    data = {"address": "https://example.org/ball.png"}
    assert fetching.test_client().post("/captions", data=data).status_code == 303
    assert taken == [0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(AddressRefused("Nobody is there."), 422), (FetchBusy("Too many.", 5), 503)],
)
def test_an_address_that_brings_nothing(fetching, error, expected):
    client = fetching.test_client()
    fetching.extensions["captionapp"].fetcher = Fetcher(error)
    sent = client.post("/captions", data={"address": "https://example.org/<b>.png"})
    assert sent.status_code == expected
    assert str(error) in sent.text and "<b>" not in sent.text


def test_a_private_address_is_refused_by_the_real_fetcher(fetching):
    client = fetching.test_client()
    sent = client.post("/captions", data={"address": "http://127.0.0.1/a.png"})
    assert sent.status_code == 422
    assert "not on the public internet" in sent.text
    assert 'value="http://127.0.0.1/a.png"' in sent.text  # what was typed is still there
