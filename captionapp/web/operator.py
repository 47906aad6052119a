"""The operator: whoever knows the admin password, over HTTP Basic. Any user name will do."""

from __future__ import annotations

import hmac

from flask import Flask, abort, request

from captionapp.web.current import workflow

#: Blueprints of which every page is the operator's.
_THEIR_OWN = frozenset({"asking", "insights", "training", "models", "compare"})


def init_app(app: Flask) -> None:
    """Have the operator's pages ask for the password before anything else is looked at: to others
    they are not there, whatever a form lacks. Each of their views asks again by itself."""

    @app.before_request
    def operators_only() -> None:
        if request.blueprint in _THEIR_OWN:
            require_operator()


def is_operator() -> bool:
    """Whether the request carries the admin password; never true when none is set."""
    expected = workflow().settings.admin_password
    given = request.authorization
    if not expected or given is None or given.type != "basic":
        return False
    return hmac.compare_digest((given.password or "").encode(), expected.encode())


def require_operator() -> None:
    """Ends the request with 404 if there is no admin password, with 401 if it was not given."""
    if not workflow().settings.admin_password:
        abort(404)
    if not is_operator():
        abort(401)
