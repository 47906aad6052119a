"""Which page of a long list is asked for."""

from __future__ import annotations

from flask import request

MAX_PAGE = 1_000_000


def asked_page() -> int:
    """The number after ``?page=``, at least 1; what is no number is page 1."""
    return min(max(1, request.args.get("page", 1, type=int)), MAX_PAGE)
