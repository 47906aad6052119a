from __future__ import annotations

import pytest

from tests.hanging import cookie


@pytest.fixture
def anna(app):
    client = app.test_client()
    client.set_cookie("session", cookie(app))
    return client
