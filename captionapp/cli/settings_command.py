"""``flask settings``: what the application runs with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
from flask import current_app
from flask.cli import with_appcontext

from captionapp.cli.base import table
from captionapp.settings import PREFIX, SECRET, Settings
from captionapp.web.current import workflow


@click.command("settings")
@with_appcontext
def command() -> None:
    """Print every setting: its value, where that came from, and what it is for."""
    rows = described(workflow().settings, current_app.config["SETTINGS_SOURCES"])
    lines = [("name", "value", "source", "help")]
    lines += [(row.name, row.value or '""', row.source, row.help) for row in rows]
    click.echo(table(lines))


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: str
    source: str
    help: str


def described(settings: Settings, sources: Sequence[str]) -> list[Row]:
    """The table of settings; secrets are masked."""
    rows = []
    for (name, field), source in zip(Settings.model_fields.items(), sources, strict=True):
        value = getattr(settings, name)
        if name in SECRET and value:
            shown = "(set)"
        elif isinstance(value, tuple):
            shown = ",".join(value)
        else:
            shown = str(value)
        rows.append(Row(PREFIX + name.upper(), shown, source, field.description or ""))
    return rows
