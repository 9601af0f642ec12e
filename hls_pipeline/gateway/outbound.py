"""One POST to an address that a stranger chose, without reaching into our own network.

The name is looked up here, every address it has must be a public one, and the connection goes to exactly the address
that was checked: a name that changes its mind between check and connection gains nothing. Redirects are not followed.
Where private addresses are allowed, those still are not where machines in a cloud get their keys: the link-local ones
and a few more.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from hls_pipeline.errors import Outage, UsageError

_SECONDS = 10.0
_LONGEST_URL = 2000
_HEAD_BYTES = 64 << 10
_TRIED = 4
"""Addresses of one host that are tried, one after the other."""
_TRANSLATED = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")]
"""IPv4 addresses in disguise: NAT64 (RFC 6052, RFC 8215), SIIT (RFC 2765), IPv4-compatible (RFC 4291, 2.5.5.1)."""
_GLOBAL, _EXAMPLES = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("3fff::/20")
"""All of IPv6 that is given out (RFC 4291, 2.4), but for documentation (RFC 9637): Python's own table is older."""
_MACHINE_KEYS = {
    ipaddress.ip_address(text)
    for text in ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "192.0.0.192", "100.100.100.200")
}
"""Where clouds keep the keys of their machines outside of link-local addresses: AWS, Google, Azure, Oracle, Alibaba."""


def check_url(url: str, *, private: bool) -> SplitResult:
    """Raises UsageError for an address that no webhook may have; names are judged again when something is sent."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise UsageError("the address of a webhook cannot be read") from error
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("the address of a webhook is too long or has characters that must be escaped")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or port == 0:
        raise UsageError("the address of a webhook is http or https, with a host and without a password")
    literal = _literal(host)
    if literal is not None and not _allowed(literal, private):
        raise UsageError("the address of a webhook must be a public one")
    return parts


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address written as a number in any form that resolvers take (`127.1`, `0x7f000001`); None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host))
    except OSError:
        return None


def _allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address, private: bool) -> bool:
    reached = _reached(address)
    return reached not in _MACHINE_KEYS and (is_public(address) or (private and not reached.is_link_local))


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        _translated(address) or address.teredo is not None or address.is_site_local
    ):
        return False
    reached = _reached(address)
    if isinstance(reached, ipaddress.IPv6Address) and (reached not in _GLOBAL or reached in _EXAMPLES):
        return False
    return reached.is_global and not reached.is_multicast


def _reached(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if _translated(address):
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def _translated(address: ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _TRANSLATED)


def post(url: str, body: bytes, headers: Mapping[str, str], *, private: bool) -> int:
    """The status of the answer; the rest of it is not read. Raises Outage when there is none within ten seconds,
    UsageError for an address that is not to be reached."""
    parts = check_url(url, private=private)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    connection = _connection(parts.scheme, host, port, _resolve(host, port, private))
    watchdog = threading.Timer(_SECONDS, _cut, (connection,))  # a drip of bytes must not hold us for longer
    watchdog.start()
    try:
        connection.request(
            "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, dict(headers)
        )
        answer = http.client.HTTPResponse(_Head(connection.sock), method="POST")  # type: ignore[arg-type]
        answer.begin()
        return answer.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Outage(f"it could not be delivered: {type(error).__name__}") from error
    finally:
        watchdog.cancel()
        connection.close()


def _resolve(host: str, port: int, private: bool) -> list[str]:
    """In the order in which the system would try them (RFC 6724)."""
    try:
        found = dict.fromkeys(str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise Outage("the host of the webhook has no address") from error
    if not all(_allowed(ipaddress.ip_address(item.partition("%")[0]), private) for item in found):
        raise UsageError("the host of the webhook is in a private network")
    return list(found)[:_TRIED]


def _connection(scheme: str, host: str, port: int, addresses: list[str]) -> http.client.HTTPConnection:
    class Pinned(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = _reach(addresses, port)

    class PinnedTls(Pinned):
        def connect(self) -> None:
            super().connect()
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=host)

    return (PinnedTls if scheme == "https" else Pinned)(host, port, timeout=_SECONDS)


def _reach(addresses: list[str], port: int) -> socket.socket:
    """The first that answers: a host with IPv6 and IPv4 may be reached from here by one of them alone."""
    until, failed = time.monotonic() + _SECONDS, OSError("no address")
    for left in range(len(addresses), 0, -1):
        patience = max(0.1, (until - time.monotonic()) / left)
        try:
            sock = socket.create_connection((addresses[-left], port), timeout=patience)
        except OSError as error:
            failed = error
        else:
            sock.settimeout(_SECONDS)
            return sock
    raise failed


class _Head(io.RawIOBase):
    """The beginning of an answer, and no more: ten seconds of `100 Continue` cost us as much time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._left = sock, _HEAD_BYTES

    def makefile(self, _: str) -> io.BufferedReader:
        """What an HTTPResponse asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._sock.recv_into(buffer, min(len(buffer), self._left)) if self._left else 0
        self._left -= count
        return count


def _cut(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            connection.close()
