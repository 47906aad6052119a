"""Sentences that the domain says in English and a page can say in another language."""

from __future__ import annotations

from typing import Any


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
