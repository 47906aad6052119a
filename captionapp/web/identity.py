"""Who is asking: a random id of the browser, in the signed session cookie. No accounts."""

from __future__ import annotations

from uuid import uuid4

from flask import session

KEY = "contributor"


def contributor() -> str:
    """This browser's random id (32 hex digits), made on its first visit."""
    known = session.get(KEY)
    if isinstance(known, str):
        return known
    made = uuid4().hex
    session[KEY] = made
    session.permanent = True
    return made


def renew() -> None:
    """Sends the cookie again, so that its lifetime counts from now."""
    session.modified = True
