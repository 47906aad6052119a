"""Sentences that the domain says in English and a page can say in another language."""

from __future__ import annotations

import json
from typing import Any

_PACKED = '{"sentence": '


class Sentence(str):
    """English text that knows what it was made of.

    ``Sentence("At most %(most)s files.", most=3)`` is the text ``At most 3 files.`` wherever text
    is wanted: in an exception, on the command line, in a log. The web looks ``template`` up in the
    translations and fills ``parameters`` in; one that is a ``Sentence`` is translated as well.
    The name of this class is what the extraction of messages looks for.
    """

    template: str
    parameters: dict[str, Any]

    def __new__(cls, template: str, **parameters: Any) -> Sentence:
        self = super().__new__(cls, template % parameters if parameters else template)
        self.template, self.parameters = template, parameters
        return self


def packed(said: Sentence) -> str:
    """The sentence as text from which ``unpacked`` makes it again; one that nothing was filled
    into is stored as it is read."""
    return json.dumps(_plain(said), ensure_ascii=False) if said.parameters else str(said)


def unpacked(text: str) -> str:
    """What ``packed`` was given; any other text, as an older release stored it, is left alone."""
    if not text.startswith(_PACKED):
        return text
    sentence: Sentence = _sentence(json.loads(text))
    return sentence


def _plain(value: Any) -> Any:
    if isinstance(value, Sentence):
        filled = {name: _plain(one) for name, one in value.parameters.items()}
        return {"sentence": value.template, "with": filled}
    return value if isinstance(value, str | int | float) else str(value)


def _sentence(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    template, parameters = value["sentence"], value["with"]
    return Sentence(template, **{name: _sentence(one) for name, one in parameters.items()})
