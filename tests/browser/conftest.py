"""A running application and a browser in front of it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from werkzeug.serving import make_server

from tests.browser.scenes import landscape
from tests.hanging import cookie, hang

#: The marks of a module whose tests use a browser.
IN_A_BROWSER = [
    pytest.mark.browser,
    # Playwright leaves the sockets of its event loop to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

QUIET_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: For a machine that is busy with other things; nothing waits so long where it works.
PATIENCE_MILLISECONDS = 60_000
expect.set_options(timeout=PATIENCE_MILLISECONDS)


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found:
        return found
    message = "Chromium is not installed (Debian: apt-get install chromium; or set CHROMIUM)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=QUIET_ARGUMENTS + (["--no-sandbox"] if is_root else []),
        )
        yield browser
        browser.close()


@pytest.fixture
def app(make_app: Any) -> Flask:
    """With its tokens: a browser sends them along."""
    return make_app(WTF_CSRF_ENABLED=True)


@pytest.fixture
def running() -> Iterator[Callable[[Flask], str]]:
    """``running(app)`` serves it on a free port of this machine and returns its address."""
    stops: list[Callable[[], None]] = []

    def start(app: Flask) -> str:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            thread.join(10)
            server.server_close()

        stops.append(stop)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for stop in stops:
        stop()


@dataclass
class Visitor:
    """A page of a fresh browser profile, and everything the browser complained about."""

    page: Page
    complaints: list[str] = dataclasses.field(default_factory=list)
    expected: tuple[str, ...] = ()

    def unexpected(self) -> list[str]:
        return [one for one in self.complaints if not any(known in one for known in self.expected)]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """``visit(base_url, **options of a browser context)``; no complaint may be left unexpected."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def open_page(base_url: str, **options: Any) -> Visitor:
        context = browser.new_context(base_url=base_url, **options)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        contexts.append(context)
        visitor = Visitor(context.new_page())
        page = visitor.page
        page.on(
            "console",
            lambda message: (
                visitor.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        visitors.append(visitor)
        return visitor

    yield open_page
    for context in contexts:
        context.close()
    assert [visitor.unexpected() for visitor in visitors] == [[] for _ in visitors]


@pytest.fixture
def open_gallery(app: Flask, running: Any, visit: Any) -> Callable[..., Page]:
    """``open_gallery(count)`` is the page of a browser that holds so many pictures."""

    def open_it(count: int, path: str = "/history", expected: Any = (), **options: Any) -> Page:
        hang(app, count)
        address = running(app)
        visitor = visit(address, **options)
        visitor.expected = expected
        visitor.page.context.add_cookies(
            [{"name": "session", "value": cookie(app), "url": address}]
        )
        visitor.page.goto(path)
        return visitor.page

    return open_it


def said(app: Flask) -> list[str]:
    return [row.feedback for row in app.extensions["captionapp"].feedback.rows()]


def field(page: Page) -> Locator:
    """Of the correction that is open."""
    return page.locator(".correct[open] textarea")


def look_again(page: Page, awaited: Locator) -> None:
    """What a person without script does until ``awaited`` is on the page."""
    while not awaited.is_visible():
        with page.expect_navigation():
            page.get_by_role("link", name="Look again").click()


def without_scripts(page: Page) -> None:
    """Have pages arrive as a browser without script shows them, so that axe, which is a script, can
    look at them."""

    def handle(route: Route) -> None:
        if route.request.resource_type != "document" or route.request.method != "GET":
            route.continue_()
            return
        answer = route.fetch()
        body = re.sub(r"<script\b.*?</script>|</?noscript>", "", answer.text(), flags=re.DOTALL)
        route.fulfill(response=answer, body=body)

    page.route("**/*", handle)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A file such as a person might send: a landscape with a sun, drawn here."""
    path = tmp_path / "evening <hill>.jpg"
    landscape().save(path, "JPEG", quality=90)
    return path
