"""Requests that are refused before their body is read: too many, or of a type no form sends."""

from __future__ import annotations

from flask import Flask, abort, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from captionapp.settings import Settings
from captionapp.web.operator import is_operator

FORM_TYPES = {"multipart/form-data", "application/x-www-form-urlencoded"}


def init_app(app: Flask, settings: Settings) -> None:
    """Registers both refusals; the counting comes first."""
    _count(app, settings)
    app.before_request(_refuse_other_types)


def _count(app: Flask, settings: Settings) -> None:
    """Counts, by the browser's address, what changes something and what tries a wrong password.

    The counts live in the memory of a process: with several workers, each has its own.
    """
    if not settings.rate_limit:
        return
    Limiter(
        get_remote_address,
        app=app,
        application_limits=[settings.rate_limit],
        application_limits_exempt_when=_is_plain_reading,
        storage_uri="memory://",
    )


def _is_plain_reading() -> bool:
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        return False
    return request.authorization is None or is_operator()


def _refuse_other_types() -> None:
    if request.method == "POST" and request.content_length and request.mimetype not in FORM_TYPES:
        abort(415)
