"""The commands of ``flask``: echo around ordinary functions."""

from __future__ import annotations

from flask import Flask

from captionapp.cli import evaluation, feedback, model, promotion, settings_command, training

#: Modules whose commands are part of ``flask model``: importing them is enough.
_OF_MODEL = (evaluation, promotion, training)


def register(app: Flask) -> None:
    """Adds the commands to the application's."""
    app.cli.add_command(model.group)
    app.cli.add_command(feedback.group)
    app.cli.add_command(settings_command.command)
