"""``flask settings``: what the application runs with."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import with_appcontext

from captionapp import settings
from captionapp.cli.base import table
from captionapp.web.current import workflow


@click.command("settings")
@with_appcontext
def command() -> None:
    """Print every setting: its value, where that came from, and what it is for."""
    rows = settings.describe(workflow().settings, current_app.config["SETTINGS_SOURCES"])
    lines = [("name", "value", "source", "help")]
    lines += [(row.name, row.value or '""', row.source, row.help) for row in rows]
    click.echo(table(lines))
