"""The log: JSON lines, or text on a terminal, and one line for each request.

A line never holds what a person wrote or named: no caption, correction, prompt, file name or
cookie, and no path or query as it was sent, only the rule that it matched.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from captionapp import timing

if TYPE_CHECKING:
    from flask import Flask, Response

    from captionapp.settings import Settings
    from captionapp.workflow import Workflow

#: What a request is called in the log if its address is none of ours.
NO_ROUTE = "(none)"
#: What a request does itself; the queue counts its own steps.
STEPS = frozenset({"decode", "store", "load", "feedback"})
#: What machines ask every few seconds; logged as debugging only.
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
IMAGE_ID = re.compile(r"[0-9a-f]{32}")

#: What every line has, whether structlog or the standard library's logging wrote it.
_COMMON: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

requests = structlog.stdlib.get_logger("captionapp.request")


def formatter(log_format: str) -> logging.Formatter:
    """Turns records into lines. ``log_format`` is ``json``, ``text`` or ``auto``."""
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    finish: list[structlog.types.Processor]
    if log_format == "json":
        finish = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Not the renderer's own tracebacks: they show local variables, and so people's texts.
        finish = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
    )


class _Handler(logging.StreamHandler[Any]):
    """Ours among the handlers of the root logger. Writes to whatever stderr is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def configure(settings: Settings) -> None:
    """Set up the process's logging; once more replaces what the last call set up."""
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    handler = _Handler()
    handler.setFormatter(formatter(settings.log_format))
    root.addHandler(handler)
    logging.getLogger("captionapp").setLevel(settings.log_level.upper())
    logging.getLogger("werkzeug").addFilter(_is_no_access_line)


def _is_no_access_line(record: logging.LogRecord) -> bool:
    """The development server's line for a request shows the query; ours takes its place."""
    return not str(record.msg).endswith('"%s" %s %s')


def init_app(app: Flask) -> None:
    """One line, and one count in the metrics, for each request.

    The request's id is made here, or taken from ``X-Request-ID`` if a trusted proxy sets it, and
    sent back, so that a person can name it to the operator.
    """
    from flask import g, request

    workflow: Workflow = app.extensions["captionapp"]
    behind_proxy = workflow.settings.proxies > 0

    def begin() -> None:
        given = request.headers.get("X-Request-ID", "") if behind_proxy else ""
        clear_contextvars()
        bind_contextvars(request_id=given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        g.started = time.perf_counter()
        timing.collect()
        if request.view_args and "image_id" in request.view_args:
            image_id = str(request.view_args["image_id"])
            if IMAGE_ID.fullmatch(image_id):
                timing.about(image_id)

    def finish(response: Response) -> Response:
        seconds = time.perf_counter() - g.started
        route = request.url_rule.rule if request.url_rule else NO_ROUTE
        workflow.metrics.request(route, request.method, response.status_code, seconds)
        for step, spent in (timing.collected() or timing.Work()).seconds.copy().items():
            if step in STEPS:
                workflow.metrics.step(step, spent)
        level = logging.DEBUG if route in QUIET else logging.INFO
        requests.log(level, "request", **_request_line(route, response, seconds))
        response.headers["X-Request-ID"] = structlog.contextvars.get_contextvars()["request_id"]
        return response

    def forget(_: BaseException | None) -> None:
        timing.stop_collecting()
        clear_contextvars()

    app.before_request(begin)
    app.after_request(finish)
    app.teardown_request(forget)


def _request_line(route: str, response: Response, seconds: float) -> dict[str, Any]:
    """The fields of a request's line. Bytes are null where a stream's length is not known."""
    from flask import request

    work = timing.collected() or timing.Work()
    # Copied, as the queue's thread may still be adding times of an upload that nobody waits for.
    seconds_of = work.seconds.copy()
    return {
        "method": request.method,
        "route": route,
        "status": response.status_code,
        "pictures": work.pictures,
        "seconds": round(seconds, 4),
        "steps": {step: round(spent, 4) for step, spent in seconds_of.items()},
        "bytes_in": request.content_length or 0,
        "bytes_out": response.content_length,
    }
