"""The words of a description: which the model was unsure of, and where it looked."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from captionapp.workflow import Workflow
from tests.conftest import FakeCaptioner, serve
from tests.web.sending import send


@pytest.fixture
def address(client: FlaskClient, png: bytes) -> str:
    return send(client, png)


@pytest.fixture
def veils(client: FlaskClient, address: str) -> list[str]:
    """Addresses of the veils of the words on the picture's page."""
    return re.findall(r'data-veil="([^"]+)"', client.get(address).text)


def test_the_words_are_links_and_the_unsure_one_is_marked(
    client: FlaskClient, address: str, veils: list[str]
) -> None:
    page = client.get(address).text
    unsure = '<mark>a</mark><span class="unseen" lang="en"> (unsure)</span>'
    words = [unsure, "red", "ball"]
    assert re.findall(r'class="looked"[^>]*>(.+?)</a>', page, re.DOTALL) == words
    (why,) = re.findall(r'href="([^"]+word=0)"', page)
    german = client.get(why, headers={"Accept-Language": "de"}).text
    assert german.count('<mark>a</mark><span class="unseen" lang="de"> (unsicher)</span>') == 2
    assert "Of the marked words the model was unsure." in page
    assert [re.sub(r".*/attention/", "", one) for one in veils] == ["0.png", "1.png", "2.png"]


def test_a_veil_is_a_picture_that_may_be_kept(
    client: FlaskClient, veils: list[str], captioner: FakeCaptioner
) -> None:
    answers = [client.get(veil) for veil in veils]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert Image.open(io.BytesIO(answers[0].data)).mode == "LA"
    assert len({answer.data for answer in answers}) == 3
    assert answers[0].headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert answers[0].headers["X-Robots-Tag"] == "noindex"
    assert captioner.looked == ["a red ball"]


def test_without_script_a_word_leads_to_its_page(
    client: FlaskClient, address: str, veils: list[str]
) -> None:
    (link,) = re.findall(r'href="([^"]+word=1)"', client.get(address).text)
    page = client.get(link).text
    assert f'class="veil" src="{veils[1]}"' in page
    assert "Bright is where the model looked when it wrote “red”" in page
    assert re.findall(r'class="looked"[^>]*aria-current="true">(\w+)<', page) == ["red"]
    assert re.findall(r"</meter> (\d+%)", page) == ["5%", "80%", "80%"]
    assert "“a”" in client.get(link.split("?")[0]).text  # the one it was least sure of


@pytest.mark.parametrize("word", ["word=99", "word=-1", "word=x", ""])
def test_any_word_leads_to_a_page(client: FlaskClient, veils: list[str], word: str) -> None:
    why = veils[0].replace("attention/0.png", f"why?{word}")
    assert client.get(why).status_code == 200


@pytest.mark.parametrize("path", ["attention/3.png", "attention/x.png", "attention/-1.png"])
def test_no_such_word(client: FlaskClient, veils: list[str], path: str) -> None:
    assert client.get(veils[0].replace("attention/0.png", path)).status_code == 404


def test_nobody_else_sees_where_it_looked(
    app: Any, veils: list[str], captioner: FakeCaptioner
) -> None:
    stranger = app.test_client()
    for path in (veils[0], veils[0].replace("attention/0.png", "why")):
        assert stranger.get(path).status_code == 404
    assert captioner.looked == []


def test_another_picture_has_no_such_caption(client: FlaskClient, veils: list[str]) -> None:
    other = re.sub(r"captions/\w+", "captions/" + "0" * 32, veils[0])
    assert client.get(other).status_code == 404


def test_what_an_older_version_wrote_is_not_explained_by_a_newer(
    client: FlaskClient, address: str, veils: list[str], workflow: Workflow
) -> None:
    newer = FakeCaptioner("fake-2")
    serve(workflow, newer)
    workflow.service._captioner = newer
    page = client.get(address).text
    assert "data-veil" not in page and "<mark>a</mark>" in page
    assert client.get(veils[0]).status_code == 409
    why = client.get(veils[0].replace("attention/0.png", "why"))
    assert "Another version of the model wrote this." in why.text


def test_what_a_person_wrote_has_no_links(client: FlaskClient, address: str) -> None:
    (caption_id,) = set(re.findall(r'name="caption_id" value="(\w+)"', client.get(address).text))
    answer = {"caption_id": caption_id, "verdict": "corrected", "correction": "my own words"}
    client.post(f"{address}/feedback", data=answer)
    assert "data-veil" not in client.get(address).text
