"""Which page of a long list is asked for."""

from __future__ import annotations

from flask import request

MAX_PAGE = 1_000_000


def asked_page() -> int:
    """The number after ``?page=``, at least 1; what is no number is page 1."""
    return asked_number("page", 1)


def asked_number(name: str, least: int) -> int:
    """The number after ``?name=``, at least ``least``; that, too, for what is no number."""
    return min(max(least, request.args.get(name, least, type=int)), MAX_PAGE)
