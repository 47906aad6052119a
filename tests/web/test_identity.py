from __future__ import annotations

from flask import session

from captionapp.web import identity


def test_a_browser_keeps_its_random_id(app):
    with app.test_request_context():
        first = identity.contributor()
        assert identity.contributor() == first == session[identity.KEY]
        assert session.permanent
    with app.test_request_context():
        assert identity.contributor() != first
    assert len(first) == 32 and int(first, 16)


def test_cookie_is_out_of_reach_of_scripts_and_other_sites(client):
    cookie = client.get("/history").headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert "Secure" not in cookie  # on plain http the browser would drop it


def test_a_forged_cookie_is_a_new_browser(app):
    client = app.test_client()
    client.set_cookie("session", "forged.cookie.value")
    assert client.get("/history").status_code == 200


def test_cookie_is_not_sent_again_with_every_answer(client):
    client.get("/history")
    assert "Set-Cookie" not in client.get("/history").headers
