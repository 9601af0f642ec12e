"""HTTP/1.1 as bulk traffic with IPFS nodes needs it: trailers are read, sends gather, every wait is limited.

`requests`, `httpx` and `urllib3` drop HTTP trailers, and Kubo reports failures after the first byte in one
(`X-Stream-Error`, go-ipfs-cmds http/responseemitter.go). One `Exchange` is one connection and one request. It
raises OSError, HTTPException and ValueError as they come: `kubo` turns them into our errors.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_MAX_LINE = 64 * 1024
_MAX_ERROR = 16 * 1024
_MAX_TRAILERS = 20
_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect, of silence in either direction, and for the whole exchange."""

    connect: float
    stall: float
    total: float


class Late(TimeoutError):
    """A limit has run out."""


class _Clock:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.end = time.monotonic() + limits.total

    def wait(self, at_most: float) -> float:
        """How long the next wait may take."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise self.late()
        return min(at_most, left)

    def late(self, how: str = "") -> Late:
        """Which limit it was that has just run out; `how` it looked if it was that on silence."""
        if time.monotonic() >= self.end:
            return Late(f"not done after {self.limits.total:g} s")
        return Late(f"{how} for {self.limits.stall:g} s")


class _TimedStream(io.RawIOBase):
    """What the socket delivers. Each wait is limited by itself, so that a drip of bytes cannot outlast the total."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, clock: _Clock) -> None:
        self._raw, self._socket, self._clock = raw, connection, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._clock.wait(self._clock.limits.stall))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError as error:
            raise self._clock.late("silent") from error

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer that knows its trailers, and whether it came to its end: http.client passes over a cut at a chunk."""

    def __init__(self, clock: _Clock, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_TimedStream(raw, sock, clock), _BUFFER)
        self.trailers: dict[str, str] = {}
        self._ended = False

    def require_end(self) -> None:
        """Once reading has given nothing more: raise IncompleteRead unless that was the end."""
        if not (self._ended if self.chunked else self.length == 0):
            raise http.client.IncompleteRead(b"", self.length)

    def _read_and_discard_trailer(self) -> None:
        """http.client calls this after the last chunk, and would throw away what stands there."""
        while (line := self.fp.readline(_MAX_LINE)) not in (b"\r\n", b"\n"):
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or len(self.trailers) == _MAX_TRAILERS:
                raise http.client.IncompleteRead(line)
            self.trailers[name.strip().lower()] = value.strip()
        self._ended = True


class Exchange:
    """One request and its answer. Use as a context manager; leaving it closes the connection."""

    def __init__(self, url: str, limits: Limits, headers: Mapping[str, str]) -> None:
        self._clock = _Clock(limits)
        parts = urlsplit(url)
        self._target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._headers = {"User-Agent": "hls-pipeline", "Accept-Encoding": "identity", **headers}
        if parts.hostname == "localhost":
            # Kubo's gateway answers "localhost" with a redirect to a subdomain that need not resolve.
            self._headers["Host"] = f"127.0.0.1:{parts.port}" if parts.port else "127.0.0.1"
        self._secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=self._clock.wait(limits.connect))
        self._connection.response_class = partial(Response, self._clock)  # type: ignore[assignment]
        self.response: Response | None = None

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.response is not None:
            self.response.close()
        self._connection.close()

    def start(self, method: str, chunked: bool = False, body: bytes = b"") -> None:
        """Connect and send the head and a small `body`. With `chunked` a body follows by `send`."""
        own_host = "Host" in self._headers
        self._connection.putrequest(method, self._target, skip_host=own_host, skip_accept_encoding=True)
        for name, value in self._headers.items():
            self._connection.putheader(name, value)
        if chunked:
            self._connection.putheader("Transfer-Encoding", "chunked")
        elif method == "POST":
            self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body or None)

    def send(self, pieces: Sequence[bytes]) -> bool:
        """One HTTP chunk made of `pieces`. False if the other side has answered already: it wants no more."""
        length = sum(map(len, pieces))
        if not length:
            return True
        if self._answered():
            return False
        try:
            self._gather([b"%x\r\n" % length, *pieces, b"\r\n"])
        except (BrokenPipeError, ConnectionResetError):
            # Its answer may say why; if there is none, reading it fails with the reason.
            return False
        return True

    def end_body(self) -> None:
        if not self._answered():
            self._gather([b"0\r\n\r\n"])

    def answer(self) -> Response:
        """The head of the answer."""
        self._socket().settimeout(self._clock.wait(self._clock.limits.stall))
        self.response = self._connection.getresponse()  # type: ignore[assignment]
        assert self.response is not None
        return self.response

    def trailer(self, name: str) -> str | None:
        """A trailer, once the body has been read to its end."""
        return self.response.trailers.get(name.lower()) if self.response else None

    def error_text(self) -> str:
        """The body of an error answer, shortened; Kubo's `Message` if it is JSON with one."""
        assert self.response is not None
        body = self.response.read(_MAX_ERROR)
        try:
            return str(json.loads(body)["Message"])
        except (ValueError, TypeError, KeyError):
            return body[:500].decode("utf-8", "replace").strip()

    def json_lines(self) -> Iterator[dict[str, Any]]:
        """The values of an NDJSON body, up to its proper end. ValueError for anything else."""
        assert self.response is not None
        while line := self.response.readline(_MAX_LINE + 1):
            if not line.endswith(b"\n"):
                raise ValueError(f"a line of more than {_MAX_LINE} bytes, or one that is cut off")
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("a JSON value that is no object")
            yield value
        self.response.require_end()

    def _socket(self) -> socket.socket:
        connected = self._connection.sock
        if not isinstance(connected, socket.socket):
            raise ConnectionResetError("the connection is closed")
        return connected

    def _answered(self) -> bool:
        """Whether there is something to read. TLS sends tickets of its own accord, so there we cannot tell."""
        if self._secure:
            return False
        poll = select.poll()
        poll.register(self._socket(), select.POLLIN)
        return bool(poll.poll(0))

    def _gather(self, pieces: list[bytes]) -> None:
        connected, limits = self._socket(), self._clock.limits
        waiting: list[bytes | memoryview] = [b"".join(pieces)] if self._secure else list(pieces)
        try:
            while waiting:
                connected.settimeout(self._clock.wait(limits.stall))
                sent = connected.send(waiting[0]) if self._secure else connected.sendmsg(waiting)
                waiting = _rest(waiting, sent)
        except TimeoutError as error:
            raise self._clock.late("took nothing") from error


def _rest(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """What is left of `pieces` after `sent` bytes, without copying it."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


def duration(seconds: float) -> str:
    """A Go duration for Kubo's `timeout=`. A bad one is answered with an empty 200 (go-ipfs-cmds http/handler.go)."""
    if not (math.isfinite(seconds) and seconds >= 1):
        raise ValueError(f"{seconds} is no time limit in seconds")
    return f"{math.ceil(seconds)}s"
