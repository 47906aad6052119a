from __future__ import annotations

import pytest

from captionapp.web.operator import is_operator


@pytest.mark.parametrize(
    ("password", "auth", "expected"),
    [
        ("open sesame", ("anybody", "open sesame"), True),
        ("pässwörd", ("", "pässwörd"), True),
        ("open sesame", ("anybody", "open sesam"), False),
        ("open sesame", None, False),
        ("", ("anybody", ""), False),
    ],
)
def test_only_the_password_counts(make_app, password, auth, expected):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD=password)
    with app.test_request_context(auth=auth):
        assert is_operator() is expected


@pytest.mark.parametrize(
    "path",
    ["/models/rollback", "/models/x/promote", "/models/training", "/compare", "/feedback/next"],
)
def test_a_form_without_its_token_tells_nobody_that_the_page_is_there(make_app, path):
    without = make_app(WTF_CSRF_ENABLED=True)
    assert without.test_client().post(path).status_code == 404
    guarded = make_app(WTF_CSRF_ENABLED=True, CAPTIONAPP_ADMIN_PASSWORD="open sesame")
    assert guarded.test_client().post(path).status_code == 401
    assert guarded.test_client().post(path, auth=("", "open sesame")).status_code == 400


def test_another_scheme_is_not_the_operator(make_app):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="open sesame")
    with app.test_request_context(headers={"Authorization": "Bearer open sesame"}):
        assert is_operator() is False


def test_a_message_is_kept_for_the_page_that_the_password_opens(make_app):
    """A browser that is sent to an address outside of where it has given the password asks there
    without it first; whoever waits for the message never sees that answer."""
    client = make_app(CAPTIONAPP_ADMIN_PASSWORD="open sesame").test_client()
    auth = ("", "open sesame")
    with client.session_transaction() as session:
        session["_flashes"] = [("problem", "There is one at a time.")]
    assert "There is one at a time." not in client.get("/models").text
    assert "There is one at a time." in client.get("/models", auth=auth).text
    assert "There is one at a time." not in client.get("/models", auth=auth).text
