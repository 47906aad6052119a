"""The connection behind a request, as far as the server shows it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from flask import request


def client_gone() -> Callable[[], bool]:
    """Asks whether the client of this request has closed its connection. Gunicorn gives the socket
    away; elsewhere, and under TLS, nobody can tell, and the answer is no."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    dont_wait = getattr(socket, "MSG_DONTWAIT", None)  # not on Windows

    def gone() -> bool:
        if connection is None or dont_wait is None:
            return False
        try:
            return connection.recv(1, socket.MSG_PEEK | dont_wait) == b""
        except (BlockingIOError, InterruptedError, ValueError):  # nothing to read; TLS
            return False
        except OSError:
            return True

    return gone
