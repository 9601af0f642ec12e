"""Just enough of an HTTP/1.1 server: a thread per connection, bodies streamed in and out at once.

An app answers a `Request` with a `Response`. A body that is an iterator is begun before the status goes out, so that
an early error still gets a status of its own; an error after that goes into the `X-Stream-Error` trailer where the
app asks for it, as Kubo does, and otherwise cuts the connection: what was broken off never looks complete. Blocking
threads fit here because the work is reading, hashing and syncing, all of which let other threads run.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from hls_pipeline.errors import PipelineError, ServiceError, UsageError, UserError
from hls_pipeline.local.ipfs_node.node import AGENT

log = logging.getLogger(__name__)

_STALL = 120
"""Seconds without a byte after which a connection is given up."""
_LINGER = 2.0
"""Seconds for which an unread body is thrown away, so that the sender gets to read why it was refused."""
_LONGEST_CHUNK_HEAD = 256
_READ = 256 * 1024


class Body:
    """The body of a request as a stream. UserError when it ends before its time, or is malformed."""

    def __init__(self, stream: Any, headers: Message) -> None:
        self._stream = stream
        coding = headers.get("Transfer-Encoding", "").lower()
        self._chunked = coding == "chunked"
        length = headers.get("Content-Length", "0")
        if coding not in ("", "chunked") or (coding and "Content-Length" in headers) or not _is_number(length):
            raise UserError("the request does not say clearly how long its body is")
        self._left = 0 if self._chunked else int(length)
        self._first = True
        self.finished = not self._chunked and not self._left

    def read(self, n: int = _READ) -> bytes:
        """At most `n` bytes, as soon as there are any; none at the end."""
        if self.finished:
            return b""
        if not self._left and not self._next_chunk():
            return b""
        try:
            data: bytes = self._stream.read1(min(n, self._left))
        except OSError as error:
            raise UserError(f"the request's body stopped coming: {error}") from error
        if not data:
            raise UserError("unexpected EOF in the request's body")
        self._left -= len(data)
        self.finished = not self._left and not self._chunked
        return data

    def _next_chunk(self) -> bool:
        """Read what stands between two chunks (RFC 9112 §7.1); False after the last."""
        if not self._first and self._line():
            raise UserError("a chunk of the request's body is longer than it says")
        self._first = False
        size = self._line().partition(b";")[0].strip()
        try:
            self._left = int(size, 16) if size.isalnum() else -1
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise UserError("a chunk of the request's body has no length")
        if self._left == 0:
            while self._line():
                pass
            self.finished = True
        return not self.finished

    def _line(self) -> bytes:
        try:
            line: bytes = self._stream.readline(_LONGEST_CHUNK_HEAD)
        except OSError as error:
            raise UserError(f"the request's body stopped coming: {error}") from error
        if not line.endswith(b"\n"):
            raise UserError("unexpected EOF in the request's body")
        return line.rstrip(b"\r\n")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """As it was sent, percent-encoded."""
    query: Mapping[str, list[str]]
    raw_query: str
    headers: Message
    body: Body


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    error_trailer: bool = False
    """Whether an error in the middle of the body is told in `X-Stream-Error` instead of cutting the connection."""


@dataclass(frozen=True)
class App:
    answer: Callable[[Request], Response]
    refuse: Callable[[PipelineError], Response]
    """What an error becomes as long as nothing was sent."""


class Server(socketserver.ThreadingTCPServer):
    """One listening port. `start` serves in a thread of its own, `stop` ends it."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str, app: App) -> None:
        """Listen on `host:port` (port 0: any). UsageError for a malformed address, ServiceError if it cannot be had."""
        host, port = _host_and_port(address)
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.app = app
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self.busy = 0
        self.thread: threading.Thread | None = None
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ServiceError(f"cannot listen on {address}: {error.strerror or error}") from error

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self, deadline: float) -> None:
        """Accept nothing more, let requests end until `deadline` (monotonic seconds), then cut what is left."""
        if self.thread:  # without a loop to end, `shutdown` would wait for ever
            self.shutdown()
        self.server_close()
        while self.busy and time.monotonic() < deadline:
            time.sleep(0.02)
        with self.lock:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection from %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _STALL
    rbufsize = _READ
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def version_string(self) -> str:
        return AGENT

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _serve(self) -> None:
        with self.server.lock:
            self.server.busy += 1
        try:
            self._exchange()
        except OSError as error:
            log.debug("%s %s: the client is gone: %s", self.command, self.path, error)
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.busy -= 1

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _exchange(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            body = Body(self.rfile, self.headers)
        except UserError as error:
            self.close_connection = True
            return self._send(self.server.app.refuse(error), None)
        request = Request(self.command, path, parse_qs(query, keep_blank_values=True), query, self.headers, body)
        response, first = self._begin(request)
        if not body.finished:
            self.close_connection = True
        try:
            self._send(response, first)
        finally:
            if not isinstance(response.body, bytes):
                _close(response.body)
        if not body.finished:
            self._linger(body)
        return None

    def _begin(self, request: Request) -> tuple[Response, bytes | None]:
        """The response, and the first piece of its body if that is a stream."""
        app = self.server.app
        try:
            response = app.answer(request)
            if isinstance(response.body, bytes) or request.method == "HEAD":
                return response, None
            return response, next(response.body, b"")
        except PipelineError as error:
            return app.refuse(error), None
        except OSError as error:
            log.exception("%s %s", request.method, request.path)
            return app.refuse(ServiceError(f"the node's disk or memory failed: {error}")), None
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return app.refuse(ServiceError("the node has failed; its log says where")), None

    def _send(self, response: Response, first: bytes | None) -> None:
        size = len(response.body) if isinstance(response.body, bytes) else None
        chunked = size is None and "Content-Length" not in response.headers
        if chunked and self.request_version == "HTTP/1.0":
            self.close_connection, chunked = True, False
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif size is not None and response.status not in (204, 304):
            self.send_header("Content-Length", str(size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(response.body, bytes):
            self.wfile.write(response.body)
        else:
            self._stream(response, first, chunked)

    def _stream(self, response: Response, first: bytes | None, chunked: bool) -> None:
        assert not isinstance(response.body, bytes)
        write = self._write_chunk if chunked else self.wfile.write
        piece, trailer = first, b""
        while piece is not None:
            if piece:
                write(piece)
            try:
                piece = next(response.body, None)
            except Exception as error:  # an OSError too: here it is the disk's and not the client's
                unforeseen = not isinstance(error, PipelineError)
                log.warning("%s %s broke off: %s", self.command, self.path, error, exc_info=unforeseen)
                if not (chunked and response.error_trailer):
                    return self._cut()
                piece, trailer = None, b"X-Stream-Error: " + _one_line(str(error)) + b"\r\n"
        if chunked:
            self.wfile.write(b"0\r\n" + trailer + b"\r\n")
        return None

    def _write_chunk(self, data: bytes) -> None:
        head = b"%x\r\n" % len(data)
        if len(data) < _READ:
            self.wfile.write(b"".join((head, data, b"\r\n")))
            return
        self.wfile.write(head)
        self.wfile.write(data)
        self.wfile.write(b"\r\n")

    def _cut(self) -> None:
        """End the connection so that no reader can take the answer for complete."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _linger(self, body: Body) -> None:
        """Read on for a while: closing with unread bytes would reset the connection under the answer."""
        until = time.monotonic() + _LINGER
        with suppress(OSError, UserError):
            self.connection.shutdown(socket.SHUT_WR)
            while not body.finished and (left := until - time.monotonic()) > 0:
                self.connection.settimeout(left)
                body.read()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _close(body: Iterator[bytes]) -> None:
    close = getattr(body, "close", None)
    if close:
        close()


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode("latin-1", "replace")


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not _is_number(port) or int(port) > 65535:
        raise UsageError(f"{address!r} is no address to listen on; write HOST:PORT, for example 127.0.0.1:5001")
    return host.removeprefix("[").removesuffix("]"), int(port)
