"""The one ``Workflow`` of the application that is handling the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from captionapp.workflow import Workflow


def workflow() -> Workflow:
    return cast("Workflow", current_app.extensions["captionapp"])
