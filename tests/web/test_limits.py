from __future__ import annotations

PASSWORD = ("operator", "open sesame")


def test_the_limit_is_one_for_all_that_changes_something(make_app):
    client = make_app(CAPTIONAPP_RATE_LIMIT="2 per minute").test_client()
    assert client.post("/captions", data={"prompt": "a"}).status_code == 422
    assert client.post(f"/images/{'0' * 32}/delete", data={"x": "y"}).status_code == 404
    assert client.post(f"/images/{'0' * 32}/again", data={"x": "y"}).status_code == 429


def test_each_address_has_its_own(make_app):
    client = make_app(CAPTIONAPP_RATE_LIMIT="1 per minute", CAPTIONAPP_PROXIES=1).test_client()

    def send(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return client.post("/captions", data={"prompt": "a"}, headers=headers).status_code

    assert [send("192.0.2.1"), send("192.0.2.2"), send("192.0.2.1")] == [422, 422, 429]


def test_a_forwarded_address_is_not_believed_without_a_proxy(make_app):
    client = make_app(CAPTIONAPP_RATE_LIMIT="1 per minute").test_client()

    def send(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return client.post("/captions", data={"prompt": "a"}, headers=headers).status_code

    assert [send("192.0.2.1"), send("192.0.2.2")] == [422, 429]


def test_the_operator_reads_without_limit(make_app):
    client = make_app(
        CAPTIONAPP_RATE_LIMIT="1 per minute", CAPTIONAPP_ADMIN_PASSWORD=PASSWORD[1]
    ).test_client()
    statuses = {client.get("/feedback", auth=PASSWORD).status_code for _ in range(4)}
    assert statuses == {200}


def test_an_empty_setting_is_no_limit(make_app):
    client = make_app(CAPTIONAPP_RATE_LIMIT="").test_client()
    statuses = {client.post("/captions", data={"prompt": "a"}).status_code for _ in range(200)}
    assert statuses == {422}
