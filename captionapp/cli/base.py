"""What the commands share."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import OperationalError

from captionapp.errors import CaptionAppError

logger = logging.getLogger("captionapp")


class Commands(AppGroup):
    """Commands whose errors, of the domain or of the disk, end in a sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        app = ctx.ensure_object(ScriptInfo).load_app()
        level = logger.level
        if app.extensions["captionapp"].settings.log_level != "debug":
            # Whoever typed the command reads the sentence it ends in; the log would say it again.
            logger.setLevel(logging.CRITICAL)
        try:
            return super().invoke(ctx)
        except CaptionAppError as error:
            raise click.ClickException(str(error)) from error
        except (OSError, sqlite3.OperationalError, OperationalError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read the output has gone; click knows what to do
            logger.debug("the command failed", exc_info=True)
            raise click.ClickException(_what_failed(error)) from error
        finally:
            logger.setLevel(level)


def _what_failed(error: OSError | sqlite3.OperationalError | OperationalError) -> str:
    """A full or broken disk, a folder that must not be written: in a sentence, with the place."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}".rstrip(".") + "."
    return f"The database cannot be used: {getattr(error, 'orig', error)}."


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, two spaces between; the last one is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


@contextmanager
def progress_of_captions() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each version that captions pictures; only on a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: dict[str, tqdm[None]] = {}

    def on_progress(version: str, done: int, total: int) -> None:
        if version not in bars:
            bars[version] = tqdm(total=total, desc=version, unit="picture", disable=None)
        bars[version].update(done - bars[version].n)

    try:
        yield on_progress
    finally:
        for bar in bars.values():
            bar.close()
