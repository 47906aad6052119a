"""Whose language a page speaks, and that a choice is remembered."""

from __future__ import annotations

import flask_babel
import pytest

from captionapp.errors import InvalidImage
from captionapp.sentences import Sentence
from captionapp.web import language
from captionapp.web.forms import AskForm
from captionapp.web.language import translated
from tests.web.sending import send

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


def test_a_page_looks_for_its_catalogue_once(client, png, monkeypatch):
    address, looked = send(client, png), []
    find = flask_babel.get_translations
    monkeypatch.setattr("flask_babel.get_translations", lambda: looked.append(1) or find())
    page = client.get(address, headers=GERMAN).text
    assert "Kopieren" in page and ">Löschen<" in page
    assert len(looked) == 1
    assert ">Delete<" in client.get(address).text


def test_what_the_form_library_says_is_in_the_language_of_the_page_and_read_once(app, client, png):
    answer = client.post(
        f"{send(client, png)}/describe", data={"alternatives": "many"}, headers=GERMAN
    )
    assert "Keine gültige, ganze Zahl." in answer.text

    def said(headers):
        with app.test_request_context(headers=headers):
            return AskForm(formdata=None).alternatives._translations

    assert said(GERMAN) is said(GERMAN)
    assert said({}).gettext("Not a valid integer value.") == "Not a valid integer value."
