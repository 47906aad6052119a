from __future__ import annotations

import socket
import sys

import pytest
from flask import Flask

from captionapp.web.connection import client_gone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")


def test_a_client_that_closes_is_gone(app: Flask) -> None:
    server, client = socket.socketpair()
    with server, client, app.test_request_context(environ_base={"gunicorn.socket": server}):
        gone = client_gone()
        assert not gone()
        client.sendall(b"GET /")  # the next request of a connection that is kept
        assert not gone()
        assert server.recv(5) == b"GET /"  # and nothing of it is taken away
        client.close()
        assert gone()


def test_without_a_socket_nobody_is_gone(app: Flask) -> None:
    with app.test_request_context():
        assert not client_gone()()


def test_a_socket_that_is_closed_here_is_gone(app: Flask) -> None:
    server, client = socket.socketpair()
    server.close()
    with client, app.test_request_context(environ_base={"gunicorn.socket": server}):
        assert client_gone()()
