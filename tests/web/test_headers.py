from __future__ import annotations

import pytest

PAGES = ["/", "/history", "/about", "/nowhere", "/static/app.css", "/healthz"]


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


def test_static_files_are_cached_under_an_address_that_changes_with_them(client):
    page = client.get("/").text
    address = page.split('rel="stylesheet" href="')[2].split('"')[0]
    assert address.startswith("/static/app.css?v=")
    answer = client.get(address)
    assert "max-age=31536000" in answer.headers["Cache-Control"]
    answer.close()


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


def test_what_a_script_imports_is_looked_for_again_each_time(client):
    answer = client.get("/static/intake/batch.js")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "ETag" in answer.headers
    answer.close()
