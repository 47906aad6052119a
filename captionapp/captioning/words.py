"""The words of a caption and the tokens they were made of. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from captionapp.captioning.captioner import Word

#: What WordPiece puts before a piece that continues a word.
CONTINUES = "##"


def words_of(
    text: str, pieces: Sequence[str], log_probabilities: Sequence[float | None]
) -> tuple[Word, ...]:
    """The words of ``text``, each with the probability that the model writes it there: the product
    of its tokens', ``exp(sum log p)``. None for a token is one that a person gave.

    Nothing if the text cannot be taken apart into the pieces.
    """
    found = []
    for word, span in zip(text.split(), spans(text, pieces), strict=False):
        given = [log_probabilities[i] for i in span]
        known = [log_p for log_p in given if log_p is not None]
        found.append(Word(word, exp(sum(known)) if len(known) == len(given) else None))
    return tuple(found)


def spans(text: str, pieces: Sequence[str]) -> list[range]:
    """Which of the pieces each word of ``text`` is made of, in order.

    Tokens and text differ in blanks only ("t", "-", "shirt": "t-shirt"), so letters are counted.
    Nothing if they differ in more. A piece that reaches into the next word belongs to both.
    """
    letters = [piece.removeprefix(CONTINUES) for piece in pieces]
    words = text.split()
    if "".join(letters) != "".join(words):
        return []
    owner = [number for number, piece in enumerate(letters) for _ in piece]
    found, start = [], 0
    for word in words:
        end = start + len(word)
        found.append(range(owner[start], owner[end - 1] + 1))
        start = end
    return found
