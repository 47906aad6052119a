"""The translations hold every text of the sources, whole, and are compiled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_keywords, parse_mapping_cfg
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

from captionapp.web.language import LANGUAGES, TRANSLATIONS

ROOT = Path(__file__).parent.parent
SOURCE, *TRANSLATED = LANGUAGES
KEYWORDS = DEFAULT_KEYWORDS | parse_keywords(["lazy_gettext", "Sentence"])


def file_of(language: str, suffix: str) -> Path:
    return TRANSLATIONS / language / "LC_MESSAGES" / f"messages.{suffix}"


def catalog_of(language: str) -> Catalog:
    with file_of(language, "po").open("rb") as file:
        return read_po(file, locale=language)


def ids(catalog: Catalog) -> set[Any]:
    return {message.id for message in catalog if message.id}


def texts(catalog: Catalog) -> dict[Any, Any]:
    """What each text is translated as, without the header: that names the release that wrote it."""
    whole = {
        message.id if isinstance(message.id, str) else tuple(message.id): message.string
        for message in catalog
        if message.id
    }
    return {id: said if isinstance(said, str) else tuple(said) for id, said in whole.items()}


@pytest.fixture(scope="module")
def extracted() -> Catalog:
    with (ROOT / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    catalog = Catalog()
    for folder in ("captionapp", "templates"):
        found = extract_from_dir(
            ROOT / folder,
            [(re.sub(rf"^{folder}/", "", pattern), method) for pattern, method in methods],
            {re.sub(rf"^{folder}/", "", pattern): its for pattern, its in options.items()},
            keywords=KEYWORDS,
        )
        for _, _, message, _, _ in found:
            catalog.add(message)
    return catalog


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_of_the_sources_is_in_the_translation_and_no_other(extracted, language):
    assert len(ids(extracted)) > 300
    assert ids(catalog_of(language)) == ids(extracted)


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated_whole(language):
    tag = re.compile(r"</?\w+")
    for message in catalog_of(language):
        if not message.id:
            continue
        source = message.id if message.pluralizable else (message.id,)
        said = message.string if message.pluralizable else (message.string,)
        assert all(said) and not message.fuzzy, f"{message.id!r} is not translated"
        assert not message.check(), f"{message.id!r} is filled in otherwise"
        for one in said:
            assert sorted(tag.findall(one)) == sorted(tag.findall(source[-1])), message.id
            assert re.findall(r"\{\w+\}", one) == re.findall(r"\{\w+\}", source[-1])


@pytest.mark.parametrize("language", TRANSLATED)
def test_what_is_compiled_is_what_is_written(language):
    with file_of(language, "mo").open("rb") as file:
        compiled = read_mo(file)
    assert texts(compiled) == texts(catalog_of(language))


def test_a_page_is_in_the_language_that_was_compiled(client):
    page = client.get("/", headers={"Accept-Language": "de"}).text
    assert "Was ist auf diesem Bild?" in page and "What is in this picture?" not in page
