"""Whose language a page speaks, and that a choice is remembered."""

from __future__ import annotations

import pytest

from captionapp.errors import InvalidImage
from captionapp.sentences import Sentence
from captionapp.web import language
from captionapp.web.language import translated

GERMAN = {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}
OTHER = {"Accept-Language": "fr-FR,fr;q=0.9"}


@pytest.mark.parametrize(
    ("headers", "code"), [({}, "en"), (OTHER, "en"), (GERMAN, "de")], ids=["none", "other", "de"]
)
def test_the_browser_decides_as_long_as_nobody_has_chosen(client, headers, code):
    answer = client.get("/about", headers=headers)
    assert f'<html lang="{code}" dir="ltr">' in answer.text
    assert answer.headers["Content-Language"] == code
    assert "lang=" not in "".join(answer.headers.getlist("Set-Cookie"))


def test_a_choice_goes_over_the_browser_and_is_remembered(client):
    assert '<html lang="en"' in client.get("/about?lang=en", headers=GERMAN).text
    assert '<html lang="en"' in client.get("/history", headers=GERMAN).text
    answer = client.get("/?lang=de")
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith("lang=")]
    assert "Max-Age=31536000" in cookie and "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert '<html lang="de"' in client.get("/history").text


@pytest.mark.parametrize("value", ["xx", "", "../../etc", "de_DE"])
def test_a_language_there_is_not_is_none(client, value):
    answer = client.get("/about", query_string={"lang": value})
    assert answer.status_code == 200 and '<html lang="en"' in answer.text
    client.set_cookie("lang", value)
    assert '<html lang="en"' in client.get("/about").text


def test_the_footer_leads_to_the_same_page_in_the_other_language(client):
    assert 'href="?page=2&amp;lang=de"' in client.get("/history?page=2&lang=en").text
    assert (
        'href="?_scheme=x&amp;endpoint=y&amp;lang=de"' in client.get("/?_scheme=x&endpoint=y").text
    )
    assert 'href="?lang=de"' in client.get("/nowhere").text
    assert 'href="/?lang=de"' in client.post("/captions").text


def test_a_language_from_right_to_left_turns_the_page(client, monkeypatch):
    monkeypatch.setitem(language.LANGUAGES, "ar", "العربية")
    assert '<html lang="ar" dir="rtl">' in client.get("/?lang=ar").text


def test_sentences_of_the_domain_are_translated_with_what_is_filled_in(app, monkeypatch):
    german = {
        "%(name)s has %(count)s pixels.": "%(name)s hat %(count)s Pixel.",
        "The sky": "Der Himmel",
    }
    monkeypatch.setattr(
        "flask_babel.gettext", lambda text, **filled: german.get(text, text) % filled
    )
    said = Sentence("%(name)s has %(count)s pixels.", name=Sentence("The sky"), count=12000)
    assert said == "The sky has 12000 pixels."
    with app.test_request_context(headers=GERMAN):
        assert translated(said) == "Der Himmel hat 12.000 Pixel."
        assert translated(InvalidImage(said)) == "Der Himmel hat 12.000 Pixel."
        assert translated("The sky") == "Der Himmel"
        assert translated("what was never written down") == "what was never written down"
        assert translated("") == ""
