"""Pictures to try the application with: ours to give, smaller copies of those of scikit-image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flask import current_app
from flask_babel import lazy_gettext
from flask_babel.speaklater import LazyString


@dataclass(frozen=True)
class Example:
    """A picture in ``static/examples``, and whom it is of; static/examples/README.md has terms."""

    key: str
    label: LazyString

    @property
    def filename(self) -> str:
        """Below the static folder."""
        return f"examples/{self.key}.jpg"

    @property
    def small(self) -> str:
        """The same for the button, 192 x 144 pixels."""
        return f"examples/{self.key}-small.webp"

    def read(self) -> bytes:
        return Path(current_app.static_folder or "", self.filename).read_bytes()


EXAMPLES = {
    example.key: example
    for example in (
        Example("cat", lazy_gettext("A cat")),
        Example("astronaut", lazy_gettext("An astronaut")),
        Example("coffee", lazy_gettext("A cup of coffee")),
        Example("rocket", lazy_gettext("A rocket")),
    )
}
