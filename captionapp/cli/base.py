"""What the commands share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo

from captionapp.errors import CaptionAppError


class Commands(AppGroup):
    """Commands whose errors of the domain end in their sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        app = ctx.ensure_object(ScriptInfo).load_app()
        if app.extensions["captionapp"].settings.log_level != "debug":
            # Whoever typed the command reads the sentence it ends in; the log would say it again.
            logging.getLogger("captionapp").setLevel(logging.CRITICAL)
        try:
            return super().invoke(ctx)
        except CaptionAppError as error:
            raise click.ClickException(str(error)) from error


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, two spaces between; the last one is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
