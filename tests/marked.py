"""Versions that caption differently on purpose: one word in every caption says whose it is."""

from __future__ import annotations

import html
import random
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import draw, encoded

#: By the name of the folder that a version is pulled from.
MARKS = {"left": "cat", "right": "dog"}


def make_marked(source: Path, folder: Path, mark: str) -> Path:
    """A copy of a checkpoint whose captions begin with the word ``mark``, and have none of the
    other marks in them."""
    from transformers import AutoProcessor, BlipForConditionalGeneration

    model = BlipForConditionalGeneration.from_pretrained(str(source), local_files_only=True)
    processor = AutoProcessor.from_pretrained(str(source), local_files_only=True)
    predictions = model.text_decoder.cls.predictions
    for word in MARKS.values():
        number = processor.tokenizer.convert_tokens_to_ids(word)
        for bias in {id(b): b for b in (predictions.bias, predictions.decoder.bias)}.values():
            bias.data[number] += 60 if word == mark else -60
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(chance: random.Random) -> bytes:
    """A small picture that nobody has sent before."""
    colour = f"#{chance.randrange(2**24):06x}"
    size = (chance.randrange(40, 90), chance.randrange(40, 90))
    return encoded(draw(colour, size))


@dataclass
class Attribution:
    """Captions of the database: how many there are, and those that bear the wrong mark."""

    captions: int
    wrong: list[tuple[str, str]]


def attribution(instance: Path) -> Attribution:
    """Whether every caption was made by the version that it is attributed to."""
    database = sqlite3.connect(instance / "captionapp.db", timeout=30)
    try:
        rows = database.execute("SELECT text, model_version FROM captions").fetchall()
    finally:
        database.close()
    return Attribution(len(rows), [row for row in rows if not fits(*row)])


def fits(text: str, version: str) -> bool:
    """Whether the text bears the mark of the version, and no other."""
    wanted = next(mark for name, mark in MARKS.items() if version.startswith(name))
    found = {mark for mark in MARKS.values() if mark in text.split()}
    return found == {wanted}


def on_page(page: str) -> tuple[str, str] | None:
    """Caption and version as the page of a picture shows them; None while it has none."""
    words = re.search(r'<(p|blockquote) class="words[^"]*"[^>]*>(.*?)</\1>', page, re.DOTALL)
    version = re.search(r"model version\s*<code[^>]*>([^<]*)</code>", page)
    if not words or not version:
        return None
    said = re.sub(r'<span class="unseen".*?</span>', "", words[2])  # that it was unsure
    text = re.sub(r"<[^>]*>", "", said)  # each word is a link to where the model looked
    return " ".join(html.unescape(text).split()), version[1]
