from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captionapp import addresses
from captionapp.addresses import PictureFetcher, check_form, is_public
from captionapp.errors import AddressRefused, FetchBusy
from tests.waiting import until

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web server on this machine; ``answers`` says what it does for each path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[BaseHTTPRequestHandler] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append(self)
                site.answers[self.path](self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that has heard enough hangs up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def gives(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The only "public" host there is; ``pictures.example`` is its name."""
    site = Site()
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: object, **kwargs: object) -> object:
        names = {"pictures.example": "127.0.0.1", "xn--bcher-kva.example": "127.0.0.1"}
        return real(names.get(host, host), port, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setitem(addresses.PORTS, "http", site.port)
    yield site
    site.close()


@pytest.fixture
def fetcher() -> PictureFetcher:
    return PictureFetcher(max_bytes=1000, most=1)


def url(site: Site, path: str = "/a.png", host: str = "pictures.example") -> str:
    return f"http://{host}:{site.port}{path}"


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1
    224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1
    ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12::1 fec0::1 ff02::1 2001:db8::1 3fff::1
    ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1::
    2001:0:4136:e378:8000:63bf:3fff:fdd2 5f00::1""".split(),
)
def test_addresses_that_are_not_asked(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "193.99.144.80", "2606:4700::1111", "2a02:2e0::1"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/a.png",
        "http://127.0.0.1/a.png",
        "http://127.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://[::ffff:a9fe:a9fe]/latest/meta-data",
    ],
)
def test_every_way_to_write_loopback_is_refused(fetcher: PictureFetcher, address: str) -> None:
    with pytest.raises(AddressRefused, match="not on the public internet"):
        fetcher.fetch(address)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("file:///etc/passwd", "begin with https"),
        ("ftp://example.org/a.png", "begin with https"),
        ("a.png", "begin with https"),
        ("", "begin with https"),
        ("https://", "not a complete"),
        ("https://[::1/a.png", "not a complete"),
        ("https://example.org:99999/", "not a complete"),
        ("https://" + "a" * 70 + ".org/", "not a complete"),
        ("https://example.org/" + "a" * 2000, "not a complete"),
        ("https://anna:secret@example.org/", "password"),
        ("https://example.org:22/", "usual ports"),
        ("http://example.org:443/", "usual ports"),
    ],
)
def test_what_is_no_address_of_a_picture(address: str, why: str) -> None:
    with pytest.raises(AddressRefused, match=why):
        check_form(address)


def test_a_picture_is_fetched_without_telling_who_asks(site: Site, fetcher: PictureFetcher) -> None:
    site.answers["/a%20b.png?x=1"] = gives(b"pixels")
    assert fetcher.fetch(" " + url(site, "/a b.png?x=1") + "\n") == b"pixels"
    headers = site.seen[0].headers
    assert headers["Host"] == f"pictures.example:{site.port}"
    assert not {"Cookie", "Referer", "Authorization"} & set(headers)


def test_a_name_in_other_letters(site: Site, fetcher: PictureFetcher) -> None:
    site.answers["/a.png"] = gives(b"pixels")
    assert fetcher.fetch(url(site, host="bücher.example")) == b"pixels"


def test_more_than_the_limit_is_not_read(site: Site, fetcher: PictureFetcher) -> None:
    site.answers["/a.png"] = gives(bytes(5_000_000))
    assert len(fetcher.fetch(url(site))) == 1001


@pytest.mark.parametrize("status", [204, 206, 404, 500])
def test_another_status_is_said(site: Site, fetcher: PictureFetcher, status: int) -> None:
    site.answers["/a.png"] = gives(b"", status)
    with pytest.raises(AddressRefused, match=f"status {status}"):
        fetcher.fetch(url(site))


def test_redirects_are_followed_a_few_times(site: Site, fetcher: PictureFetcher) -> None:
    site.answers["/a.png"] = gives(b"", 302, Location="/b.png")
    site.answers["/b.png"] = gives(b"", 308, Location=url(site, "/c.png"))
    site.answers["/c.png"] = gives(b"pixels")
    assert fetcher.fetch(url(site)) == b"pixels"
    site.answers["/c.png"] = gives(b"", 301, Location="/a.png")
    with pytest.raises(AddressRefused, match="only leads to others"):
        fetcher.fetch(url(site))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.2:{port}/a.png", "public internet"),
        ("http://[::1]:{port}/a.png", "public internet"),
        ("file:///etc/passwd", "begin with https"),
        ("//anna:secret@pictures.example/", "password"),
        ("http://pictures.example:22/", "usual ports"),
    ],
)
def test_redirects_to_where_nobody_may_ask(
    site: Site, fetcher: PictureFetcher, target: str, why: str
) -> None:
    site.answers["/a.png"] = gives(b"", 302, Location=target.format(port=site.port))
    with pytest.raises(AddressRefused, match=why):
        fetcher.fetch(url(site))
    assert len(site.seen) == 1


@pytest.mark.parametrize("headers", [{}, {"Location": "http://["}])
def test_a_redirect_to_nowhere(
    site: Site, fetcher: PictureFetcher, headers: dict[str, str]
) -> None:
    site.answers["/a.png"] = gives(b"", 302, **headers)
    with pytest.raises(AddressRefused, match="leads nowhere"):
        fetcher.fetch(url(site))


def test_one_private_address_among_public_ones_is_enough(
    fetcher: PictureFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(0, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(AddressRefused, match="public internet"):
        fetcher.fetch("http://pictures.example/")


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    site: Site, fetcher: PictureFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer would be another machine, so there is no second question."""
    site.answers["/a.png"] = gives(b"pixels")
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *args: object, **kwargs: object) -> object:
        if host == "127.0.0.1":  # the connection, to what is an address already
            return real(host, *args, **kwargs)  # type: ignore[arg-type]
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1" if len(asked) == 1 else "10.0.0.1", site.port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetcher.fetch(url(site)) == b"pixels"
    assert asked == ["pictures.example"]


def test_who_drips_is_left_at_the_deadline(site: Site) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.05):
            handler.wfile.write(b"X-Drop: 1\r\n")

    site.answers["/a.png"] = drip
    started = time.monotonic()
    try:
        with pytest.raises(AddressRefused, match="too long"):
            PictureFetcher(1000, 1, seconds=0.5).fetch(url(site))
    finally:
        stop.set()
    assert time.monotonic() - started < 10


def test_a_name_that_is_looked_up_for_long_is_left_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    asked: list[str] = []

    def slow(host: str, *_: object, **__: object) -> object:
        asked.append(host)
        assert go.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(addresses, "_lookups", threading.BoundedSemaphore(2))
    fetcher = PictureFetcher(1000, 1, seconds=0.05)
    try:
        for _ in range(2):
            with pytest.raises(AddressRefused, match="too long"):
                fetcher.fetch("http://pictures.example/a.png")
        with pytest.raises(FetchBusy):  # no more threads than may be, however many ask
            fetcher.fetch("http://pictures.example/a.png")
        assert len(asked) == 2
    finally:
        go.set()
    until(lambda: addresses._lookups._value == 2)  # their places are given back


def test_nobody_answers(fetcher: PictureFetcher, site: Site) -> None:
    site.answers["/a.png"] = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(AddressRefused, match="Nothing could be fetched"):
        fetcher.fetch(url(site))
    with pytest.raises(AddressRefused, match="no such place"):
        fetcher.fetch(f"http://no-such-host.invalid:{site.port}/")


def test_only_so_many_at_a_time(site: Site, fetcher: PictureFetcher) -> None:
    refused: list[Exception] = []

    def ask_again(handler: BaseHTTPRequestHandler) -> None:
        try:
            fetcher.fetch(url(site))
        except FetchBusy as error:
            refused.append(error)
        gives(b"pixels")(handler)

    site.answers["/a.png"] = ask_again
    assert fetcher.fetch(url(site)) == b"pixels"
    assert len(refused) == 1
    site.answers["/a.png"] = gives(b"pixels")
    assert fetcher.fetch(url(site)) == b"pixels"  # the place was given back


def test_names() -> None:
    assert PictureFetcher.name_of("https://example.org/a/b%20c.jpg?x=1") == "b c.jpg"
    assert PictureFetcher.name_of("https://example.org") == "example.org"
    assert PictureFetcher.name_of("https://[::1") == "https://[::1"
