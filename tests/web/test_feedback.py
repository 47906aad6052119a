from __future__ import annotations

import csv
import io
import re

import pytest

from captionapp.errors import FeedbackStoreError
from tests.test_feedback_filters import row
from tests.web.sending import send

PASSWORD = ("anybody", "open sesame")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1])


def caption_id(client, path: str) -> str:
    found = re.search(r'name="caption_id" value="(\w+)"', client.get(path).text)
    assert found
    return found[1]


def answer(client, path: str, **fields):
    return client.post(path + "/feedback", data={"caption_id": caption_id(client, path)} | fields)


def test_accepting_keeps_a_row_and_changes_the_label(client, workflow, png):
    path = send(client, png)
    given = answer(client, path, verdict="accepted")
    assert (given.status_code, given.location) == (303, path)
    page = client.get(path).text
    assert "Thank you" in page and "Written by a machine, confirmed by you" in page
    (row,) = workflow.feedback.rows()
    assert (row.verdict, row.caption, row.feedback) == ("accepted", "a red ball", "a red ball")


def test_correcting_keeps_the_text_and_shows_it_first(client, workflow, png):
    path = send(client, png)
    answer(client, path, verdict="corrected", correction="A <b>red</b> kite", reasons="too-long")
    page = client.get(path).text
    assert "Written by you" in page and "What the model wrote" in page
    assert "A &lt;b&gt;red&lt;/b&gt; kite" in page and "<b>red" not in page
    assert page.index("kite") < page.index("What the model wrote")
    assert "too long" in page
    (row,) = workflow.feedback.rows()
    assert row.feedback == "A <b>red</b> kite" and row.reasons == ("too-long",)


def test_correction_memory_shows_another_persons_text_as_a_persons(app, client, png):
    answer(client, send(client, png), verdict="corrected", correction="A kite")
    other = app.test_client()
    page = other.get(send(other, png)).text
    assert "Written by a person" in page and "A kite" in page and "a red ball" in page


def test_caption_and_version_come_from_the_record_and_never_from_the_form(client, workflow, png):
    path = send(client, png)
    answer(client, path, verdict="accepted", caption="forged", model_version="forged")
    (row,) = workflow.feedback.rows()
    assert (row.caption, row.model_version) == ("a red ball", "fake-1")


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "corrected", "correction": ""},
        {"verdict": "corrected", "correction": "x" * 1001},
        {"verdict": "corrected", "correction": "bad \x07 bell"},
        {"verdict": "maybe", "correction": "A kite"},
        {"verdict": "corrected", "correction": "A kite", "reasons": "ugly"},
        {"verdict": "corrected", "correction": "A kite", "caption_id": ""},
    ],
)
def test_what_cannot_be_kept_comes_back_with_the_text(client, workflow, png, fields):
    given = answer(client, send(client, png), **fields)
    assert given.status_code == 422
    assert 'role="alert"' in given.text
    if fields["correction"] == "A kite":
        assert "A kite</textarea>" in given.text
    assert workflow.feedback.rows() == []


def test_caption_of_another_picture_is_refused(client, workflow, png):
    path = send(client, png)
    assert answer(client, path, verdict="accepted", caption_id="0" * 32).status_code == 404
    assert workflow.feedback.rows() == []


def test_unwritable_store_is_a_503_with_the_text_still_there(client, workflow, monkeypatch, png):
    def refuse(_: object) -> None:
        raise FeedbackStoreError("feedback.csv cannot be written.")

    path = send(client, png)
    monkeypatch.setattr(workflow.feedback, "append", refuse)
    given = answer(client, path, verdict="corrected", correction="A kite")
    assert given.status_code == 503
    assert given.headers["Retry-After"] == "30"
    assert "was not kept" in given.text and "A kite</textarea>" in given.text


def test_operator_reads_the_answers_page_by_page(client, png, monkeypatch):
    monkeypatch.setattr("captionapp.web.feedback.ROWS_PER_PAGE", 2)
    path = send(client, png, "<i>ball.png")
    for text in ("first kite", "second kite", "<u>third kite"):
        answer(client, path, verdict="corrected", correction=text)
    page = client.get("/feedback", auth=PASSWORD).text
    assert "3 answers" in page and "&lt;u&gt;third kite" in page and "first kite" not in page
    assert "<i>ball" not in page
    assert "first kite" in client.get("/feedback?page=2", auth=PASSWORD).text
    assert 'href="/feedback"' in page


def test_download_runs_nothing_in_a_spreadsheet(client, png):
    answer(client, send(client, png), verdict="corrected", correction='=cmd|"/c calc", é')
    answered = client.get("/feedback/download", auth=PASSWORD)
    assert answered.mimetype == "text/csv"
    assert "attachment" in answered.headers["Content-Disposition"]
    (row,) = csv.DictReader(io.StringIO(answered.data.decode("utf-8-sig"), newline=""))
    assert row["feedback"] == '\'=cmd|"/c calc", é'


@pytest.mark.parametrize("path", ["/feedback", "/feedback/download"])
@pytest.mark.parametrize("auth", [None, ("anybody", "wrong"), ("open sesame", ""), ("x", "é")])
def test_operators_pages_ask_for_the_password(client, path, auth):
    refused = client.get(path, auth=auth)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert "operator" in refused.text


@pytest.mark.parametrize("path", ["/feedback", "/feedback/download"])
def test_operators_pages_do_not_exist_without_a_password(make_app, path):
    client = make_app().test_client()
    assert client.get(path).status_code == 404
    assert client.get(path, auth=("anybody", "")).status_code == 404


def keep(workflow, *rows):
    workflow.feedback.extend([row(id=str(n), **values) for n, values in enumerate(rows)])


def test_filters_keep_what_is_asked_for(client, workflow):
    keep(workflow, {"feedback": "a cat naps"}, {"feedback": "a fox", "model_version": "v2"})
    page = client.get("/feedback?text=CAT&version=v1&verdict=corrected", auth=PASSWORD).text
    assert "1 of 2 answers" in page and "a cat naps" in page and "a fox" not in page
    assert 'value="CAT"' in page and re.search(r'<option selected value="v1"', page)
    assert 'href="/feedback/download?' in page and "text=CAT" in page
    assert "is like that" in client.get("/feedback?text=horse", auth=PASSWORD).text


def test_the_download_holds_what_is_filtered(client, workflow):
    keep(workflow, {"feedback": "a cat naps"}, {"feedback": "a fox"})
    answered = client.get("/feedback/download?text=fox", auth=PASSWORD)
    rows = list(csv.DictReader(io.StringIO(answered.data.decode("utf-8-sig"), newline="")))
    assert [one["feedback"] for one in rows] == ["a fox"]


def test_pages_of_a_filter_keep_the_filter(client, workflow, monkeypatch):
    monkeypatch.setattr("captionapp.web.feedback.ROWS_PER_PAGE", 1)
    keep(workflow, {}, {}, {"feedback": "a fox"})
    page = client.get("/feedback?text=cat", auth=PASSWORD).text
    assert re.search(r'rel="next" href="/feedback\?page=2&amp;text=cat"', page)


@pytest.mark.parametrize(
    "query", ["first=never", "last=2026-13-01", "verdict=maybe", "reason=ugly", "text=" + "x" * 201]
)
def test_a_filter_that_makes_no_sense_shows_nothing_and_says_so(client, workflow, query):
    keep(workflow, {"feedback": "a cat naps"})
    answered = client.get(f"/feedback?{query}", auth=PASSWORD)
    assert answered.status_code == 422
    assert 'role="alert"' in answered.text and "a cat naps" not in answered.text
    assert client.get(f"/feedback/download?{query}", auth=PASSWORD).status_code == 422
