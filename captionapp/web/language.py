"""The language of the pages: chosen in the footer, else the browser's; times and numbers follow it.

English is the source: every text stands in the code and the templates as ``_("...")``, and
``captionapp/translations`` holds what it is in other languages. docs/design.md says how to go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast
from urllib.parse import urlencode

import flask_babel
from babel import Locale
from babel.support import NullTranslations
from flask import Flask, Response, g, request, url_for

from captionapp.errors import CaptionAppError
from captionapp.sentences import Sentence
from captionapp.settings import Settings

#: Code and own name of each language there is a translation for; the first is the source.
LANGUAGES = {"en": "English", "de": "Deutsch"}
#: English without a country would write dates as the United States do, which few others can read.
LOCALES = {"en": "en_GB"}

TRANSLATIONS = Path(__file__).resolve().parent.parent / "translations"

COOKIE = "lang"
COOKIE_SECONDS = 365 * 24 * 3600


def init_app(app: Flask, settings: Settings) -> None:
    """Gives the templates ``_`` and its like, and remembers a choice."""
    flask_babel.Babel(
        app,
        default_locale=next(iter(LANGUAGES)),
        default_translation_directories=str(TRANSLATIONS),
        locale_selector=lambda: LOCALES.get(language := _language(), language),
    )
    # A page says some fifty things: its catalogue is looked for once, not each time.
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
        gettext=lambda text: _catalogue().ugettext(text),
        ngettext=lambda one, many, number: _catalogue().ungettext(one, many, number),
        newstyle=True,
    )

    def remember(response: Response) -> Response:
        if response.mimetype == "text/html":
            response.headers.setdefault("Content-Language", locale().language)
        if _asked_for() and request.cookies.get(COOKIE) != _asked_for():
            response.set_cookie(
                COOKIE,
                _asked_for(),
                max_age=COOKIE_SECONDS,
                secure=settings.https,
                httponly=True,
                samesite="Lax",
            )
        return response

    app.after_request(remember)
    app.jinja_env.filters["translated"] = translated
    app.jinja_env.globals.update(locale=locale, in_language=in_language, languages=LANGUAGES)


def locale() -> Locale:
    """That of the page; English where nobody asks for a page."""
    return flask_babel.get_locale() or Locale("en", "GB")


def _catalogue() -> NullTranslations:
    """Of the language of the page."""
    if "catalogue" not in g:
        g.catalogue = flask_babel.get_translations()
    return cast("NullTranslations", g.catalogue)


def translated(said: object) -> str:
    """A sentence of the domain, or the error that carries one, in the language of the page.

    A sentence that was stored is plain text by then: it is looked up whole, and stays English if
    something was filled in.
    """
    if isinstance(said, CaptionAppError):
        said = said.message
    if not isinstance(said, Sentence):
        return flask_babel.gettext(str(said)) if said else ""
    filled = {name: _filled_in(value) for name, value in said.parameters.items()}
    return flask_babel.gettext(said.template, **filled)


def in_language(code: str) -> str:
    """The address of this page in another language, from here; an answer to a form has none."""
    if request.method not in {"GET", "HEAD"}:
        return url_for("upload.form", lang=code)
    return "?" + urlencode(request.args.to_dict(flat=False) | {COOKIE: [code]}, doseq=True)


def _filled_in(value: object) -> object:
    if isinstance(value, Sentence):
        return translated(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return flask_babel.format_decimal(value)
    return value


def _language() -> str:
    if _asked_for():
        return _asked_for()
    remembered = request.cookies.get(COOKIE, "")
    if remembered in LANGUAGES:
        return remembered
    return request.accept_languages.best_match(LANGUAGES) or next(iter(LANGUAGES))


def _asked_for() -> str:
    asked = request.args.get(COOKIE, "")
    return asked if asked in LANGUAGES else ""
