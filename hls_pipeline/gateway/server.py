"""The web server under the app: uvicorn, hardened against clients that take a place and do not go on.

It bounds what uvicorn waits for without end: a request's head, the rest of a body that nobody reads any more, and a
client that takes nothing of its answer. What is no request gets a problem document like any other. Bodies that are read
have their limits in `forms.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import resource
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hls_pipeline.gateway import logs, problems
from hls_pipeline.gateway.app import create_app
from hls_pipeline.gateway.config import GatewaySettings

_HEAD_BYTES = 64 * 1024
"""Of a request line and headers, or of what stands around the pieces of a body: chunk sizes, trailers."""
_LINGER_SECONDS = 5
"""Hanging up at once would lose the answer on its way: the other side is still sending (RFC 9112, section 9.6)."""
_CONNECTIONS = 2000
_FILES = 4 * _CONNECTIONS
"""A viewer costs a connection of ours and one to S3 or IPFS; the usual limit of 1024 would be met first."""
_KEEP_ALIVE_SECONDS = 30
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h


class _Protocol(HttpToolsProtocol):
    head_seconds = 10.0
    unread_seconds = 60.0
    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _stuck: asyncio.TimerHandle | None = None
    _lingering: asyncio.TimerHandle | None = None
    _in_body = False
    _turned_away = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self._late, self._stuck, self._lingering):
            if waiting is not None:
                waiting.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _HEAD_BYTES:
            self._turn_away(431, "head_too_large", f"the head of a request has at most {_HEAD_BYTES:,} bytes")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has sent all may still wait for the answer (RFC 9112, section 9.6)."""
        if self.cycle is None or self._in_body or self.cycle.response_started:
            return False
        self.cycle.keep_alive = False
        return not self._turned_away

    def send_400_response(self, msg: str) -> None:
        self._turn_away(400, "bad_request", msg)

    def _turn_away(self, status: int, code: str, detail: str) -> None:
        if self.cycle is not None and (self._in_body or not self.cycle.response_complete):
            if self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True  # this is its answer, not what the app may come to say
            self.cycle.message_event.set()
        self._turned_away = True
        answer = problems.problem(status, code, detail, headers={"Connection": "close"})
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()  # the client need not wait while we linger
        self.flow.resume_reading()
        self._linger()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self.app = self.config.loaded_app if len(self.connections) <= _CONNECTIONS else _full
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._head_bytes, self._in_body = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes, self._in_body = 0, False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _linger(self) -> None:
        self._lingering = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._late = self.loop.call_later(self.head_seconds, self.transport.close)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "all connections are taken; try again in a moment"
    answer = problems.problem(503, "busy", detail, headers={"Connection": "close", "Retry-After": "5"})
    await answer(scope, receive, send)


class _Server(uvicorn.Server):
    """Requests under way finish when it stops; streams of events, which never do, are ended."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: FastAPI = self.config.app  # type: ignore[assignment]
        await app.state.services.followers.end()
        await super().shutdown(sockets)


def server(settings: GatewaySettings, host: str, port: int, **more: Any) -> uvicorn.Server:
    """`X-Forwarded-For` and `-Proto` are believed when a trusted proxy sends them, and nobody else's."""

    class Protocol(_Protocol):
        head_seconds = settings.head_seconds
        unread_seconds = settings.answer_silence_seconds

    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        log_config=None,
        log_level="error",  # its warnings are about what is no request: anybody can have as many as they like
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.closing_seconds),
        **more,
    )
    return _Server(config)


def run(settings: GatewaySettings, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    _keep_memory_together()
    _allow_many_files()
    logs.to_stderr()
    server(settings, host, port).run()


def _keep_memory_together() -> None:
    """glibc gives each thread a heap of its own and keeps what was freed in it: with dozens of threads that pass
    buffers of 8 MiB around, that is more than the buffers themselves. A little it is to keep: to give back each piece
    of a body and ask for it again costs an eighth of an upload's processor time."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: it has other habits
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
