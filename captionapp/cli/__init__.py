"""The commands of ``flask``: echo around ordinary functions."""

from __future__ import annotations

from flask import Flask

from captionapp.cli import feedback, model, settings_command


def register(app: Flask) -> None:
    """Adds the commands to the application's."""
    app.cli.add_command(model.group)
    app.cli.add_command(feedback.group)
    app.cli.add_command(settings_command.command)
