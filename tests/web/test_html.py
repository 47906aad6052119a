"""Every page is HTML that parses without an error, and what refers to an id finds it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import html5lib
import pytest

from tests.conftest import draw, encoded
from tests.test_feedback_filters import row
from tests.test_feedback_insights import accepted
from tests.web.sending import send
from tests.web.versions import add_version, keep, report

OPERATOR = ("operator", "open sesame")
REFERRING = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "list")
#: No German text has these.
ENGLISH_WORDS = re.compile(r"\b(the|your|this|picture|pictures|and|of|with|is|are)\b")


@pytest.fixture
def app(make_app):
    return make_app(CAPTIONAPP_ADMIN_PASSWORD=OPERATOR[1], WTF_CSRF_ENABLED=False)


@pytest.fixture
def pages(app, client) -> dict[str, str]:
    """Address of each page of an instance in which something has happened, by a name."""
    sent = [send(client, encoded(draw(colour))) for colour in ("red", "white", "blue")]
    ids = [address.rsplit("/", 1)[1] for address in sent]
    caption = app.extensions["captionapp"].captions.of(ids)
    for image_id, verdict in ((ids[0], "corrected"), (ids[1], "accepted")):
        (known,) = next(its for key, its in caption.items() if key[0] == image_id)
        form = {"caption_id": known.id, "verdict": verdict, "correction": "Ein Ball <b>"}
        client.post(f"/images/{image_id}/feedback", data=form | {"reasons": ["inaccurate"]})
    client.get("/")  # what it has to say is English
    app.extensions["captionapp"].feedback.extend([accepted(id="1"), row(id="2")])
    instance = Path(app.instance_path)
    for name, parent in (("trained-1", "fake-1"), ("trained-2", "trained-1")):
        add_version(instance, name, parent)
    said = [(ids[0], "ein Ball", "ball", "dog"), (ids[1], "ein Ball", "dog", "ball")]
    keep(instance, report("trained-1", "fake-1", said, [(2.5, 0.1), (0.0, 3.0)], refusals=("no",)))
    app.extensions["captionapp"].versions.set_current("trained-2", "trained-1", "besser")
    return {
        "upload": "/",
        "corrected": sent[0],
        "accepted": sent[1],
        "unanswered": sent[2],
        "history": "/history",
        "about": "/about",
        "error": "/nowhere",
        "feedback": "/feedback",
        "insights": "/insights",
        "next": "/feedback/next",
        "models": "/models",
        "model": "/models/trained-1",
        "promote": "/models/trained-1/promote",
        "rollback": "/models/rollback",
        "compare": "/compare?version=trained-1",
    }


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_page_is_valid(client, pages, language):
    for name, address in pages.items():
        answer = client.get(address, headers={"Accept-Language": language}, auth=OPERATOR)
        assert answer.status_code == (404 if name == "error" else 200), name
        try:
            tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(answer.data)
        except html5lib.html5parser.ParseError as error:
            pytest.fail(f"{name}: {error!r}")
        elements = [one for one in tree.iter() if isinstance(one.tag, str)]
        ids = Counter(one.get("id") for one in elements if one.get("id"))
        assert [one for one, times in ids.items() if times > 1] == [], name
        for one in elements:
            for attribute in REFERRING:
                for target in (one.get(attribute) or "").split():
                    assert target in ids, f"{name}: {attribute}={target!r} leads nowhere"
        assert tree.get("lang") == language
        assert [one.tag for one in elements].count("h1") == 1, name


def test_a_german_page_speaks_german(client, pages):
    """What is said in English is marked as English, or is data: names, versions, addresses."""
    for name, address in pages.items():
        answer = client.get(address, headers={"Accept-Language": "de"}, auth=OPERATOR)
        tree = html5lib.parse(answer.data, namespaceHTMLElements=False)
        english = [text for text in texts(tree) if ENGLISH_WORDS.search(text)]
        assert english == [], f"{name}: {english}"


def texts(element, language="de"):
    """Texts, and the attributes that are read out, that stand in German."""
    language = element.get("lang", language)
    if not isinstance(element.tag, str) or element.tag in {"script", "code", "time"}:
        return
    if language == "de":
        yield from filter(None, [element.text, *map(element.get, ("aria-label", "title", "alt"))])
    for child in element:
        yield from texts(child, language)
        if child.tail and language == "de":
            yield child.tail
