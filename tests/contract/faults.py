"""Faults made at the wire: a proxy that cuts or stalls a real node's traffic, and a server with scripted answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from struct import pack
from typing import Literal

_RESET = pack("ii", 1, 0)
"""SO_LINGER that makes close send a reset."""


@contextmanager
def listening(serve: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on a port of its own that runs `serve` for each connection in a thread; its `host:port`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_served, args=(serve, connection, tls), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)


def _served(serve: Callable[[socket.socket], None], connection: socket.socket, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError), connection:
        serve(tls.wrap_socket(connection, server_side=True) if tls else connection)


@dataclass
class Cut:
    """After `after` bytes in one direction, the connection is reset, closed or goes silent. Counts what passes."""

    direction: Literal["up", "down"]
    after: float
    how: Literal["reset", "close", "silence"] = "reset"
    passed: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def allow(self, direction: str, data: bytes) -> bytes:
        """How much of `data` may still pass."""
        if direction != self.direction:
            return data
        data = data[: int(min(len(data), self.after - self.passed))]
        self.passed += len(data)
        return data


@dataclass
class Lie(Cut):
    """Where the answers say `truth`, the client hears `lie`, which is as long."""

    truth: bytes = b""
    lie: bytes = b""

    def allow(self, direction: str, data: bytes) -> bytes:
        return data.replace(self.truth, self.lie) if direction == self.direction else data


@contextmanager
def proxy(upstream: str, cut: Cut, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A proxy to `upstream` (`host:port`) that makes the fault `cut` and may end TLS; its own `host:port`."""
    host, port = upstream.rsplit(":", 1)

    def serve(client: socket.socket) -> None:
        with socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=_pump, args=(server, client, "down", cut), daemon=True)
            back.start()
            _pump(client, server, "up", cut)
            back.join()

    with listening(serve, tls) as address:
        yield address
        cut.over.set()


def _pump(source: socket.socket, target: socket.socket, direction: str, cut: Cut) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            allowed = cut.allow(direction, data)
            target.sendall(allowed)
            if len(allowed) < len(data):
                _break(source, target, cut)
                return
        target.shutdown(socket.SHUT_WR)


def _break(source: socket.socket, target: socket.socket, cut: Cut) -> None:
    if cut.how == "silence":
        cut.over.wait(60)
    for end in (source, target):
        if cut.how == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def answering_for(upstream: str, call: str, answer: bytes) -> Iterator[str]:
    """A proxy to `upstream` (`host:port`) that itself says `answer` to one call of the RPC; its own `host:port`."""
    host, port = upstream.rsplit(":", 1)

    def serve(client: socket.socket) -> None:
        asked = client.recv(65536)
        if f"/api/v0/{call}?".encode() in asked.partition(b"\r\n")[0]:
            _read_request(client, asked)
            client.sendall(answer)
            return
        cut = Cut("down", float("inf"))
        with socket.create_connection((host, int(port))) as server:
            server.sendall(asked)
            back = threading.Thread(target=_pump, args=(server, client, "down", cut), daemon=True)
            back.start()
            _pump(client, server, "up", cut)
            back.join()

    with listening(serve) as address:
        yield address


@contextmanager
def answering(answer: bytes, wait: float = 0, drip: float | None = None) -> Iterator[str]:
    """A server that reads each request to its end and says `answer`, at once or a byte every `drip` seconds."""
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        _read_request(connection)
        stopped.wait(wait)
        if drip is None:
            connection.sendall(answer)
            return
        for at in range(len(answer)):
            connection.sendall(answer[at : at + 1])
            if stopped.wait(drip):
                return

    with listening(serve) as address:
        yield address
        stopped.set()


def _read_request(connection: socket.socket, data: bytes = b"") -> None:
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    if b"transfer-encoding: chunked" in data.lower():
        tail = data[-5:]
        while tail != b"0\r\n\r\n":
            tail = (tail + connection.recv(65536))[-5:]


_HEADERS = "Content-Type: application/json\r\nConnection: close\r\n"
"""We hang up after one answer, and say so: a client that keeps connections would run into it."""


def chunked(*chunks: bytes, trailers: str = "", status: str = "200 OK") -> bytes:
    """An HTTP answer as Kubo streams them: chunks, then trailers."""
    head = f"HTTP/1.1 {status}\r\n{_HEADERS}Trailer: X-Stream-Error\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body + f"0\r\n{trailers}\r\n".encode()


def plain(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer with a length, which may be a lie."""
    said = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\n{_HEADERS}Content-Length: {said}\r\n\r\n"
    return head.encode() + body
