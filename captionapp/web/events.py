"""Server-sent events: news of something that goes on elsewhere, over one answer that stays open.

Each stream holds a thread of the worker. So there are few of them; each ends with what it tells
of, when its time is up (the browser connects again by itself), when the worker stops, or at the
next heartbeat after the browser has gone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import ServiceUnavailable

#: Seconds between two looks at what is told of.
LOOK_SECONDS = 0.5
#: Seconds after which something is sent even if there is no news.
HEARTBEAT_SECONDS = 5.0
#: Seconds that a stream may hold its thread.
STREAM_SECONDS = 120.0
#: Milliseconds after which a browser whose stream has ended connects again.
RETRY_MILLISECONDS = 2000

_KEY = "captionapp_streams"

#: What there is to tell, and whether it is the last.
News = tuple[Mapping[str, Any], bool]


class Streams:
    """The streams of one application, at most ``most`` at a time.

    ``stopping`` says that the process is about to end.
    """

    def __init__(self, most: int) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._pause = threading.Event()
        self.stopping: Callable[[], bool] = lambda: False

    def answer(self, news: Callable[[], News]) -> Response:
        """A stream of what ``news`` gives, whenever that has changed.

        Raises:
            ServiceUnavailable: if there are as many streams as may be.
        """
        headers = {"X-Accel-Buffering": "no"}  # nginx would collect what is to be seen at once
        if request.method == "HEAD":  # its body is never begun, so its end would never be told
            return Response(mimetype="text/event-stream", headers=headers)
        if not self._places.acquire(blocking=False):
            raise ServiceUnavailable("Too many pages are watching. Reload the page now and then.")
        response = Response(self._events(news), mimetype="text/event-stream", headers=headers)
        response.call_on_close(self._places.release)
        return response

    def _events(self, news: Callable[[], News]) -> Iterator[str]:
        end = time.monotonic() + STREAM_SECONDS
        told: Mapping[str, Any] | None = None
        heard = time.monotonic()
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        while not self.stopping():
            content, last = news()
            if content != told:
                told, heard = content, time.monotonic()
                yield _event("end" if last else "news", content)
            if last or time.monotonic() > end:
                return
            if time.monotonic() - heard > HEARTBEAT_SECONDS:
                heard = time.monotonic()
                yield ": nothing new\n\n"
            self._pause.wait(LOOK_SECONDS)


def init_app(app: Flask, threads: int) -> None:
    """A quarter of a worker's threads may be streams: the others answer requests."""
    app.extensions[_KEY] = Streams(max(1, threads // 4))


def end_streams_with(app: Flask, stopping: Callable[[], bool]) -> None:
    """For the server: once ``stopping()`` they end, so that they do not hold up the process."""
    app.extensions[_KEY].stopping = stopping


def streams() -> Streams:
    """Those of the application that is handling the request."""
    found: Streams = current_app.extensions[_KEY]
    return found


def _event(name: str, content: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"
