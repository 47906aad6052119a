"""gunicorn as a process, and somebody who talks to it over HTTP."""

from __future__ import annotations

import html
import http.cookiejar
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.waiting import until

ROOT = Path(__file__).parent.parent


class Answer:
    def __init__(self, response: Any) -> None:
        self.status: int = response.status
        self.url: str = response.url
        self.headers = response.headers
        self.text: str = response.read().decode()


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Browser:
    """Keeps cookies, and sends forms with the token of their page."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.follow_redirects(True)

    def follow_redirects(self, follow: bool) -> None:
        handlers: list[Any] = [urllib.request.HTTPCookieProcessor(self.cookies)]
        if not follow:
            handlers.append(NoRedirects())
        self.opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Answer:
        return self._open(urllib.request.Request(self.base + path))

    def post(self, path: str, fields: dict[str, str], file: bytes | None = None) -> Answer:
        boundary = uuid.uuid4().hex
        body = io.BytesIO()
        for name, value in fields.items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            body.write(f"{head}{value}\r\n".encode())
        if file is not None:
            head = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n'
            )
            body.write(f"{head}\r\n".encode() + file + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._open(urllib.request.Request(self.base + path, body.getvalue(), headers))

    def upload(self, picture: bytes) -> Answer:
        return self.post("/captions", {"csrf_token": field(self.get("/"), "csrf_token")}, picture)

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with self.opener.open(request, timeout=60) as response:
                return Answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error)


def field(page: Answer, name: str) -> str:
    """Value of the first input of this name."""
    for tag in re.findall(r"<input[^>]*>", page.text):
        if f'name="{name}"' in tag:
            value = re.search(r'value="([^"]*)"', tag)
            assert value
            return html.unescape(value[1])
    raise AssertionError(f"there is no field {name} on {page.url}")


class Server:
    """A gunicorn with this project's configuration."""

    def __init__(self, instance: Path, log: Path, *args: str, **settings: str) -> None:
        environment = {x: y for x, y in os.environ.items() if not x.startswith("CAPTIONAPP_")}
        environment |= {"CAPTIONAPP_INSTANCE": str(instance), "CAPTIONAPP_RATE_LIMIT": ""}
        environment |= {f"CAPTIONAPP_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
        self.log = log
        # The port is taken here and handed over, so that nobody else can take it in between. Only
        # gunicorn listens: before it does, and after its end, a connection is refused.
        with log.open("wb") as stream, socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            self.base = f"http://127.0.0.1:{port.getsockname()[1]}"
            self.process = subprocess.Popen(
                [*command, "--bind", f"fd://{port.fileno()}", *args],
                cwd=ROOT,
                env=environment,
                stderr=stream,
                pass_fds=[port.fileno()],
            )

    def browser(self) -> Browser:
        return Browser(self.base)

    def status(self, path: str) -> int:
        try:
            return self.browser().get(path).status
        except OSError:
            return 0

    def until_alive(self) -> None:
        until(lambda: self.status("/healthz") == 200 or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def until_ready(self) -> None:
        self.until_alive()
        until(lambda: self.status("/readyz") == 200)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def workers_that_answered(self) -> set[str]:
        """Process ids in the names of the files that the metrics of each worker are in."""
        folder = self.metrics_folder()
        return {file.stem.rsplit("_", 1)[-1] for file in folder.glob("counter_*.db")}

    def metrics_folder(self) -> Path:
        temporary = Path(tempfile.gettempdir())
        (folder,) = temporary.glob(f"captionapp-metrics-{self.process.pid}-*")
        return folder

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(90)
