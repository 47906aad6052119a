from __future__ import annotations

import re
from pathlib import Path

import pytest

from captionapp.votes import Tally, Votes
from tests.conftest import draw, encoded
from tests.web.sending import send
from tests.web.versions import add_version, keep, report

PASSWORD = ("anybody", "open sesame")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


@pytest.fixture
def pictures(app):
    """Ids of two stored pictures that another browser sent."""
    other = app.test_client()
    return [
        send(other, encoded(draw(colour)), f"{colour}.png").rsplit("/", 1)[1]
        for colour in ("red", "blue")
    ]


@pytest.fixture
def compared(app, pictures):
    """A version ``trained-1`` compared with the current one on these pictures."""
    instance = Path(app.instance_path)
    add_version(instance, "trained-1", "fake-1")
    said = [
        (pictures[0], "a ball", "NEW <b>one", "OLD one"),
        (pictures[1], "a ball", "NEW two", "OLD two"),
        ("0" * 32, "gone", "NEW three", "OLD three"),
    ]
    keep(instance, report("trained-1", "fake-1", said, [(1.0, 0.5)] * 3))


def fields(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


def captions(page: str) -> list[str]:
    return re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", page)


def vote(client, page: str, choice: str, changed: dict[str, str] | None = None):
    data = fields(page) | {"choice": choice} | (changed or {})
    return client.post("/compare", data=data, auth=PASSWORD)


def test_nothing_to_compare(client):
    assert "nothing to compare yet" in client.get("/compare", auth=PASSWORD).text


def test_votes_are_rows_of_what_was_shown(client, workflow, compared):
    wanted = Tally()
    for choice in ("a", "b"):
        page = client.get("/compare", auth=PASSWORD).text
        shown = captions(page)
        assert sorted(text[:3] for text in shown) == ["NEW", "OLD"]
        assert page == client.get("/compare", auth=PASSWORD).text  # a reload does not reshuffle
        given = vote(client, page, choice)
        assert (given.status_code, given.location) == (303, "/compare")
        chosen = shown[0 if choice == "a" else 1]
        new = chosen.startswith("NEW")
        wanted = Tally(wanted.candidate + new, wanted.current + (not new))
        assert Votes(workflow.records).tally("trained-1", "fake-1") == wanted
        client.get("/compare", auth=PASSWORD)  # the flashed message is read
    page = client.get("/compare", auth=PASSWORD).text
    assert "nothing left to compare" in page
    assert f"{wanted.candidate} for <code>trained-1</code>" in page
    report_page = client.get("/models/trained-1", auth=PASSWORD).text
    assert f"Blind votes: {wanted.candidate} for it, {wanted.current} for the other" in report_page


def test_the_page_does_not_tell_whose_words_they_are(client, compared):
    page = client.get("/compare", auth=PASSWORD).text
    first, second = page.split("<h2>B</h2>")
    for version in ("trained-1", "fake-1"):
        assert version not in second
        assert version not in first.split("<h2>A</h2>")[1]
    assert "a ball" not in page  # nor what a person said
    assert "&lt;b&gt;one" in page or "two" in page


def test_both_and_neither_count(client, workflow, compared):
    for choice in ("both", "neither"):
        vote(client, client.get("/compare", auth=PASSWORD).text, choice)
    assert Votes(workflow.records).tally("trained-1", "fake-1") == Tally(0, 0, 1, 1)


@pytest.mark.parametrize(
    "changed",
    [{"choice": "c"}, {"mark": "0" * 16}, {"image_id": "9" * 32}, {"image_id": ""}],
)
def test_a_vote_that_does_not_fit_is_not_kept(client, workflow, compared, changed):
    page = client.get("/compare", auth=PASSWORD).text
    given = vote(client, page, "a", changed)
    assert given.status_code == 303
    assert 'role="alert"' in client.get("/compare", auth=PASSWORD).text
    assert Votes(workflow.records).tally("trained-1", "fake-1") == Tally()


def test_an_evaluation_meanwhile_makes_the_vote_void(app, client, workflow, pictures, compared):
    page = client.get("/compare", auth=PASSWORD).text
    said = [(pictures[0], "a ball", "NEWER", "OLD one")]
    keep(Path(app.instance_path), report("trained-1", "fake-1", said, [(1.0, 0.5)]))
    vote(client, page, "a")
    assert "evaluated again" in client.get("/compare", auth=PASSWORD).text
    assert Votes(workflow.records).tally("trained-1", "fake-1") == Tally()


def test_a_version_that_is_named(app, client, compared):
    add_version(Path(app.instance_path), "trained-2", "fake-1")
    assert "has not been compared" in client.get("/compare?version=trained-2", auth=PASSWORD).text
    page = client.get("/compare?version=trained-1", auth=PASSWORD).text
    assert 'action="/compare?version=trained-1"' in page
    assert client.get("/compare?version=nobody", auth=PASSWORD).status_code == 404


def test_it_is_the_operators(client, make_app):
    assert client.get("/compare").status_code == 401
    assert client.post("/compare", data={"choice": "a"}).status_code == 401
    assert make_app().test_client().get("/compare", auth=PASSWORD).status_code == 404


def test_votes_need_the_token(make_app):
    client = make_app(CAPTIONAPP_ADMIN_PASSWORD="x", WTF_CSRF_ENABLED=True).test_client()
    assert client.post("/compare", data={"choice": "a"}, auth=("o", "x")).status_code == 400


def test_without_one_against_the_current_version_another_comparison_is_offered(
    app, client, pictures
):
    instance = Path(app.instance_path)
    for name, current in (("trained-1", "fake-1"), ("trained-2", "fake-0")):
        add_version(instance, name, current)
        said = [(pictures[0], "a ball", f"of {name}", f"of {current}")]
        keep(instance, report(name, current, said, [(1.0, 0.5)]))
    assert "of trained-1" in client.get("/compare", auth=PASSWORD).text
    (instance / "models" / "trained-1" / "evaluation.json").unlink()
    assert "of trained-2" in client.get("/compare", auth=PASSWORD).text
