"""A picture from its address on the web, fetched without being led into the server's own network.

The name is resolved here, everything that it stands for is checked, and the connection goes to an
address that was checked: a name that means something else a moment later changes nothing. Redirects
go the same way. The whole fetch has one deadline, down to each read, and one limit of bytes.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpcore2 as httpcore

from captionapp.errors import AddressRefused, FetchBusy
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

MAX_ADDRESS_CHARACTERS = 2000
MAX_REDIRECTS = 3
#: Seconds from the first look at a name to the last byte.
FETCH_SECONDS = 15.0
#: Names looked up at a time, by all fetchers. A look that nobody waits for any more goes on for as
#: long as the resolver of the system has patience.
MAX_LOOKUPS = 32
#: Where web servers are; anything else would make this a way to try doors.
PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = [("User-Agent", "captionapp"), ("Accept", "image/*"), ("Accept-Encoding", "identity")]

#: IPv6 addresses of single hosts; and which of them stand for others: 6to4, documentation.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_HOSTS = tuple(map(ipaddress.IPv6Network, ("2002::/16", "3fff::/20")))

_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


class PictureFetcher:
    """Fetches files of at most ``max_bytes``, ``most`` at a time."""

    def __init__(self, max_bytes: int, most: int, seconds: float = FETCH_SECONDS) -> None:
        self.max_bytes = max_bytes
        self.seconds = seconds
        self._places = threading.BoundedSemaphore(most)

    def fetch(self, address: str) -> bytes:
        """The bytes at the address; whether they are a picture is found by decoding them.

        Returns at most one byte more than ``max_bytes``, by which the decoder knows.

        Raises:
            AddressRefused: if nothing can be had from there, or must not be; says why.
            FetchBusy: if as many as may be are being fetched.
        """
        if not self._places.acquire(blocking=False):
            raise _busy()
        try:
            return self._follow(address.strip(), time.monotonic() + self.seconds)
        except httpcore.TimeoutException as error:
            raise AddressRefused(Sentence("That address took too long to answer.")) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            logger.info("an address could not be fetched: %s", type(error).__name__)
            raise AddressRefused(Sentence("Nothing could be fetched from that address.")) from error
        finally:
            self._places.release()

    @staticmethod
    def name_of(address: str) -> str:
        """What a picture from there is called: the last part of the path, else the host."""
        try:
            parts = urlsplit(address)
            return unquote(parts.path.rstrip("/").rsplit("/", 1)[-1]) or parts.hostname or address
        except ValueError:
            return address

    def _follow(self, address: str, deadline: float) -> bytes:
        with httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(), network_backend=_CheckedBackend(deadline)
        ) as pool:
            for _ in range(1 + MAX_REDIRECTS):
                check_form(address)
                with pool.stream("GET", _ascii(address), headers=_HEADERS) as response:
                    if response.status not in _REDIRECTS:
                        return self._body(response)
                    address = _joined(address, _location(response))
        raise AddressRefused(
            Sentence("That address only leads to others. Give the one of the picture.")
        )

    def _body(self, response: httpcore.Response) -> bytes:
        if response.status != 200:
            raise AddressRefused(
                Sentence(
                    "That address answered with the status %(status)s.",
                    status=str(response.status),
                )
            )
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.max_bytes:
                break
        return bytes(body[: self.max_bytes + 1])


def check_form(address: str) -> None:
    """Raises AddressRefused unless this is the address of something on the web."""
    try:
        parts = urlsplit(address)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise AddressRefused(Sentence("That is not a complete address.")) from error
    if parts.scheme not in PORTS:
        raise AddressRefused(Sentence("The address has to begin with https:// or http://."))
    if not parts.hostname or len(address) > MAX_ADDRESS_CHARACTERS:
        raise AddressRefused(Sentence("That is not a complete address."))
    if parts.username is not None:
        raise AddressRefused(Sentence("Addresses with a name or a password in them are not asked."))
    if port not in (None, PORTS[parts.scheme]):
        raise AddressRefused(Sentence("Only the usual ports of web servers are asked."))


def public_addresses(host: str, port: int, deadline: float) -> list[str]:
    """The IP addresses that the name stands for, if all of them are of hosts on the internet.

    Raises:
        AddressRefused: if one is not, or there is none.
        FetchBusy: if too many names are being looked up.
        httpcore.ConnectTimeout: if it is not known by the deadline.
    """
    try:
        addresses = _look_up(host, port).result(_left(deadline, httpcore.ConnectTimeout))
    except TimeoutError as error:
        raise httpcore.ConnectTimeout("the name is still being looked up") from error
    except (OSError, UnicodeError) as error:
        raise AddressRefused(Sentence("There is no such place on the web.")) from error
    if not addresses or not all(map(is_public, addresses)):
        raise AddressRefused(
            Sentence("That address is not on the public internet, so it is not asked.")
        )
    return addresses


def _look_up(host: str, port: int) -> Future[list[str]]:
    """What the name stands for. The resolver of the system knows no deadline, so that it is asked
    on a thread of its own, which nothing waits for at the end of the process."""
    if not _lookups.acquire(blocking=False):
        raise _busy()
    found: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result([str(entry[4][0]) for entry in answer])
        except Exception as error:
            found.set_exception(error)
        finally:
            _lookups.release()

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    return found


def _busy() -> FetchBusy:
    return FetchBusy(Sentence("Too many pictures are being fetched from the web just now."), 5)


def is_public(address: str) -> bool:
    """Whether this IP address can only be that of a host on the internet.

    Loopback, private, link-local, shared, multicast and reserved ones are not, nor is IPv6 that
    carries IPv4 within it (mapped, compatible, 6to4, NAT64, Teredo): what it leads to is unknown.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a scope: fe80::1%eth0
        return False
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _UNICAST and not any(ip in network for network in _NOT_HOSTS)
    return True


@dataclass
class _CheckedBackend(httpcore.NetworkBackend):
    """Opens connections to checked addresses only, and none beyond the deadline."""

    deadline: float

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = AddressRefused(Sentence("There is no such place on the web."))
        for address in public_addresses(host, port, self.deadline):
            left = _left(self.deadline, httpcore.ConnectTimeout)
            try:
                stream = httpcore.SyncBackend().connect_tcp(
                    address, port, left, local_address, socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
            else:
                return _TimedStream(stream, self.deadline)
        raise failure


@dataclass
class _TimedStream(httpcore.NetworkStream):
    """A stream of which every step ends with the deadline, however slowly the other side drips."""

    stream: httpcore.NetworkStream
    deadline: float

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(self.deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(self.deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self.deadline, httpcore.ConnectTimeout)
        secure = self.stream.start_tls(ssl_context, server_hostname, left)
        return _TimedStream(secure, self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def _left(deadline: float, error: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("the time for the whole fetch is over")
    return left


def _location(response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            return str(value.decode("latin-1"))
    raise AddressRefused(Sentence("That address leads nowhere."))


def _joined(address: str, location: str) -> str:
    try:
        return urljoin(address, location)
    except ValueError as error:
        raise AddressRefused(Sentence("That address leads nowhere.")) from error


def _ascii(address: str) -> str:
    """The address as it goes over the wire: the host in punycode, other letters as %XX."""
    parts = urlsplit(address)
    host = (parts.hostname or "").encode("idna").decode("ascii")
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    safe = "%/:?#[]@!$&'()*+,;=-._~"
    path = quote(parts.path or "/", safe=safe)
    query = f"?{quote(parts.query, safe=safe)}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{path}{query}"
