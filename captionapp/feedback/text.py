"""Text of people: made fit to keep on the way in, and harmless to spreadsheets on the way out."""

import re
import unicodedata

from captionapp.errors import InvalidFeedback
from captionapp.sentences import Sentence

MAX_CORRECTION = 1000

_LINE_ENDS = re.compile(r"\r\n|[\r\x85\u2028\u2029]")
#: Marks that show nothing and that nobody types: byte order marks and zero-width spaces, and the
#: embeddings, overrides and isolates that can turn the text around them on a page. What writing
#: needs stays: joiners (Persian, Indic scripts, emoji) and the plain direction marks.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
#: What a spreadsheet may take for a formula, also in full width, behind spaces or a tab.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")


def clean_correction(text: str) -> str:
    """The correction as it is kept: NFC, trimmed, lines ended by LF, tabs as spaces.

    Invisible marks that can only confuse (zero-width spaces, direction overrides) are taken out.

    Raises InvalidFeedback if nothing is left, if more than ``MAX_CORRECTION`` characters are, or if
    there are control characters or halves of surrogate pairs in it.
    """
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text).replace("\t", " "))
    text = unicodedata.normalize("NFC", text).strip()
    for character in text:
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cs"):
            raise InvalidFeedback(
                Sentence(
                    "Your text contains a character that cannot be kept (%(character)s)."
                    " Remove it, or type the text again.",
                    character=f"U+{ord(character):04X}",
                )
            )
    if all(unicodedata.category(character)[0] in "CZM" for character in text):
        raise InvalidFeedback(Sentence("Write a description, or accept the one that is there."))
    if len(text) > MAX_CORRECTION:
        raise InvalidFeedback(
            Sentence(
                "Your text has %(count)s characters; at most %(most)s are kept. Shorten it.",
                count=len(text),
                most=MAX_CORRECTION,
            )
        )
    return text


def normalise_caption(text: str) -> str:
    """The form that the model learns: lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).rstrip(" .")


def neutralise(cell: str) -> str:
    """The cell for a spreadsheet: with an apostrophe before it if it could run as a formula.

    Source: OWASP, CSV Injection.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell
