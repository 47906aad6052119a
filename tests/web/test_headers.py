from __future__ import annotations

import re
from pathlib import Path

import pytest

from captionapp import _fingerprint

PAGES = ["/", "/history", "/about", "/nowhere", "/static/nothing.css", "/healthz"]


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_is_hardened(client, path):
    answer = client.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert "Strict-Transport-Security" not in answer.headers
    answer.close()


@pytest.mark.parametrize("path", ["/", "/history", "/about", "/nowhere"])
def test_pages_are_not_stored(client, path):
    assert client.get(path).headers["Cache-Control"] == "no-store"


def test_private_pages_stay_out_of_search_engines(client):
    assert client.get("/history").headers["X-Robots-Tag"] == "noindex"
    assert "X-Robots-Tag" not in client.get("/").headers


def static_address(client, name: str) -> str:
    (address,) = re.findall(rf'"(/static/[0-9a-f]{{8}}/{re.escape(name)})"', client.get("/").text)
    return address


def test_static_files_are_cached_under_an_address_that_changes_with_them(client, tmp_path):
    answer = client.get(static_address(client, "app.css"))
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    answer.close()
    (tmp_path / "a.js").write_text("1")
    before = _fingerprint(tmp_path)
    (tmp_path / "a.js").write_text("2")
    assert _fingerprint(tmp_path) != before
    assert client.get("/static/00000000/app.css").status_code == 404


def test_a_file_that_is_not_there_is_not_remembered_as_missing(client):
    address = static_address(client, "app.css").replace("app.css", "nothing.css")
    answer = client.get(address)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "no-cache")


def test_while_somebody_develops_static_files_are_looked_for_each_time(make_app):
    client = make_app(DEBUG=True).test_client()
    answer = client.get(static_address(client, "app.css"))
    assert answer.headers["Cache-Control"] == "no-cache" and "ETag" in answer.headers
    answer.close()


def test_what_scripts_import_is_announced_and_lies_beside_them(client):
    """Else a browser learns of it only when it has read the script, one after the other."""
    static = Path(client.application.static_folder)
    page = client.get("/").text
    announced = set(re.findall(r'rel="modulepreload" href="/static/[0-9a-f]{8}/([^"]+)"', page))
    imported = set()
    waiting = ["intake.js"]
    while waiting:
        script = static / waiting.pop()
        for name in re.findall(r'from "(\./[^"]+)"', script.read_text()):
            found = (script.parent / name).relative_to(static).as_posix()
            imported.add(found)
            waiting.append(found)
    assert announced == imported and len(imported) == 4


def test_https_has_secure_cookies_and_hsts(make_app):
    client = make_app(CAPTIONAPP_HTTPS=True).test_client()
    answer = client.get("/history", base_url="https://localhost")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Secure" in answer.headers["Set-Cookie"]


def test_no_page_has_inline_script_or_style(client):
    for path in ("/", "/history", "/about", "/nowhere"):
        page = client.get(path).text
        assert "style=" not in page and "<style" not in page
        assert page.count("<script") == page.count('<script type="module" src=')
        assert "onclick" not in page
