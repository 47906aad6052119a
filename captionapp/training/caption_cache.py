"""Captions that were made for an evaluation, so that the next one does not make them again.

A caption is known by its version, its picture's content, and a key of everything else that decides
about it: the decoding options, the precision, the libraries (``options_key``).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from captionapp.captioning.captioner import DecodeOptions

_TABLES = """
CREATE TABLE IF NOT EXISTS captions (
    version TEXT, picture TEXT, options TEXT, text TEXT NOT NULL,
    PRIMARY KEY (version, picture, options)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contrasts (picture TEXT PRIMARY KEY, contrast REAL NOT NULL);
"""
#: Another version of these may caption differently (transformers#38858).
_LIBRARIES = ("torch", "transformers")
_BUSY_SECONDS = 30.0
#: Names in one query; SQLite allows for more.
_AT_ONCE = 500


class CaptionCache:
    """The SQLite file ``path``, made when it is first needed; for many processes and threads.

    It may be deleted at any time: what is in it can be made again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def captions(self, version: str, pictures: Sequence[str], key: str) -> dict[str, str]:
        """The known captions by picture."""
        known: dict[str, str] = {}
        with self._connected() as connection:
            for part in _parts(pictures):
                query = (
                    "SELECT picture, text FROM captions WHERE version = ? AND options = ? "
                    f"AND picture IN ({','.join('?' * len(part))})"
                )
                known.update(connection.execute(query, (version, key, *part)))
        return known

    def add_captions(self, version: str, texts: Mapping[str, str], key: str) -> None:
        """Keep captions by picture."""
        rows = [(version, picture, key, text) for picture, text in texts.items()]
        with self._connected() as connection:
            connection.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?)", rows)

    def contrasts(self, pictures: Sequence[str]) -> dict[str, float]:
        """The known contrasts by picture."""
        known: dict[str, float] = {}
        with self._connected() as connection:
            for part in _parts(pictures):
                query = f"SELECT * FROM contrasts WHERE picture IN ({','.join('?' * len(part))})"
                known.update(connection.execute(query, part))
        return known

    def add_contrasts(self, contrasts: Mapping[str, float]) -> None:
        """Keep contrasts by picture."""
        with self._connected() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO contrasts VALUES (?, ?)", contrasts.items()
            )

    def forget(self, version: str) -> None:
        """Remove the captions of a version."""
        if self.path.exists():
            with self._connected() as connection:
                connection.execute("DELETE FROM captions WHERE version = ?", (version,))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept if the block ends well."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection:
            connection.executescript(_TABLES)
            with connection:
                yield connection


def options_key(options: DecodeOptions, precision: str) -> str:
    """Equal where a version captions a picture equally."""
    content = f"{options.key()} {precision} {_libraries()}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@cache
def _libraries() -> str:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # of a machine that only reads reports
            return "none"

    return " ".join(f"{name} {installed(name)}" for name in _LIBRARIES)


def _parts(pictures: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(pictures), _AT_ONCE):
        yield pictures[start : start + _AT_ONCE]
