"""Every error becomes one page, or JSON for a client that prefers it. Domain errors here only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from flask_babel import gettext, lazy_gettext
from flask_babel.speaklater import LazyString
from flask_limiter import Limiter, RateLimitExceeded
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import get_input_stream

from captionapp import errors as domain
from captionapp.web.current import workflow
from captionapp.web.language import translated

#: Title and what to do, for each status that people meet.
PAGES: Mapping[int, tuple[LazyString, LazyString]] = {
    400: (
        lazy_gettext("That request could not be understood"),
        lazy_gettext("Go back, reload the page and try again."),
    ),
    401: (
        lazy_gettext("This page is for the operator"),
        lazy_gettext("Reload the page and give the admin password; any user name will do."),
    ),
    404: (
        lazy_gettext("There is nothing here"),
        lazy_gettext(
            "The address may be mistyped, or the picture belongs to another browser or was deleted."
        ),
    ),
    405: (
        lazy_gettext("That cannot be done here"),
        lazy_gettext(
            "This address does not take that kind of request. Start again from the first page."
        ),
    ),
    409: (
        lazy_gettext("Something else is under way"),
        lazy_gettext("Wait for it to end, then try again."),
    ),
    413: (
        lazy_gettext("That is too much at once"),
        lazy_gettext("Send fewer or smaller pictures."),
    ),
    415: (
        lazy_gettext("That kind of request is not accepted"),
        lazy_gettext("Send pictures with the form on the first page."),
    ),
    422: (
        lazy_gettext("That could not be used"),
        lazy_gettext("Go back, correct what you sent and try again."),
    ),
    429: (
        lazy_gettext("A little slower, please"),
        lazy_gettext("Too many requests came from your address. Wait a moment, then try again."),
    ),
    500: (
        lazy_gettext("Something went wrong on our side"),
        lazy_gettext(
            "It has been written to the log. Try again; if it goes on, tell the operator."
        ),
    ),
    503: (
        lazy_gettext("Not just now"),
        lazy_gettext("Try again in a moment."),
    ),
    507: (
        lazy_gettext("There is no room left"),
        lazy_gettext("Delete pictures you no longer need from your history, or tell the operator."),
    ),
}

#: The first class that fits decides.
STATUS_OF_DOMAIN_ERRORS: tuple[tuple[type[domain.CaptionAppError], int], ...] = (
    (domain.ModelUnavailable, 503),  # QueueFull is one of these
    (domain.FeedbackStoreError, 503),
    (domain.StorageFull, 507),
    (domain.NotFound, 404),
    (domain.UnknownVersion, 404),
    (domain.TooLarge, 413),
    (domain.InvalidImage, 422),
    (domain.InvalidOptions, 422),
    (domain.InvalidFeedback, 422),
    (domain.CaptionFailed, 409),
    (domain.TrainingBusy, 409),
    (domain.TaskBusy, 409),
    (domain.PromotionRefused, 409),
)

FEEDBACK_RETRY_SECONDS = 30
DATABASE_RETRY_SECONDS = 30
#: How much of a refused body is read, so that a browser still sending gets to see the answer.
DISCARD_BYTES = 2_000_000_000
DISCARD_SECONDS = 20.0


def init_app(app: Flask) -> None:
    """Registers the renderer for HTTP errors, domain errors and everything unforeseen."""
    app.register_error_handler(HTTPException, handle_http_error)
    app.register_error_handler(domain.CaptionAppError, handle_domain_error)
    app.register_error_handler(OperationalError, handle_database_error)


def status_of(error: domain.CaptionAppError) -> int:
    for kind, status in STATUS_OF_DOMAIN_ERRORS:
        if isinstance(error, kind):
            return status
    return 500


def retry_after(error: domain.CaptionAppError) -> int | None:
    """Whole seconds after which the same request may work, if waiting helps at all."""
    if isinstance(error, domain.ModelUnavailable):
        return max(1, math.ceil(error.retry_after))
    if isinstance(error, domain.FeedbackStoreError):
        return FEEDBACK_RETRY_SECONDS
    return None


def handle_domain_error(error: domain.CaptionAppError) -> Response:
    status = status_of(error)
    if status >= 500:
        workflow().metrics.failure(type(error).__name__)
    if status == 500:
        current_app.logger.error("unforeseen domain error", exc_info=error)
        return render_error(500)
    # That a picture belongs to somebody else is nobody's business: a 404 says nothing more.
    message = "" if status == 404 else translated(error)
    return render_error(status, message, retry=retry_after(error))


def handle_database_error(error: OperationalError) -> Response:
    """The database is locked for too long, or its disk is full."""
    current_app.logger.error("the database cannot be used", exc_info=error)
    workflow().metrics.failure("database")
    message = gettext("The server cannot store anything just now.")
    return render_error(503, message, DATABASE_RETRY_SECONDS)


def handle_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:  # redirects of the router
        return make_response(error.get_response())
    message, retry = "", None
    if status >= 500:
        workflow().metrics.failure("unforeseen")
    if isinstance(error, CSRFError):
        message = gettext(
            "The form was open for too long, or cookies are switched off in this browser, "
            "so nothing was done. Go back, reload the page and send the form again."
        )
    elif isinstance(error, RateLimitExceeded):
        retry = _seconds_until_reset()
    elif status == 413:
        message = _limits_sentence()
    response = render_error(status, message, retry=retry)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="captionapp", charset="UTF-8"'
    return response


def render_error(status: int, message: str = "", retry: int | None = None) -> Response:
    """The one renderer. ``message`` is a sentence that replaces the general advice."""
    discard_body()
    title, advice = PAGES.get(status, PAGES[500 if status >= 500 else 400])
    message = message or str(advice)
    if prefers_json():
        response = jsonify(error={"status": status, "title": str(title), "message": message})
    else:
        page = render_template(
            "error.html", status=status, title=title, message=message, retry=retry
        )
        response = make_response(page)
    response.status_code = status
    if retry is not None:
        response.headers["Retry-After"] = str(retry)
    return response


def discard_body() -> None:
    """Reads what the browser is still sending, within bounds.

    A connection closed while it sends shows a browser's own "connection reset" page, and ours
    would never be seen.
    """
    if request.method != "POST" or "form" in request.__dict__:
        return
    # A stream that was being parsed when the error came goes on; else the whole body is waiting.
    stream = request.__dict__.get("stream") or get_input_stream(request.environ)
    deadline = time.monotonic() + DISCARD_SECONDS
    remaining = DISCARD_BYTES
    try:
        while remaining > 0 and time.monotonic() < deadline:
            chunk = stream.read(min(1 << 16, remaining))
            if not chunk:
                return
            remaining -= len(chunk)
    except (OSError, HTTPException):  # the browser went away, or sent more than it announced
        return


def prefers_json() -> bool:
    """Whether the client would rather have JSON than a page, as our own script does."""
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def _seconds_until_reset() -> int:
    limiters: set[Limiter] = current_app.extensions["limiter"]
    for limiter in limiters:
        if limiter.current_limit is not None:
            return max(1, math.ceil(limiter.current_limit.reset_at - time.time()))
    return 60


def _limits_sentence() -> str:
    settings = workflow().settings
    return gettext(
        "At most %(most)s pictures of %(megabytes)s MB each and a short text can be sent at a "
        "time. Send fewer, smaller or shorter ones.",
        most=settings.max_files,
        megabytes=settings.max_file_mb,
    )
