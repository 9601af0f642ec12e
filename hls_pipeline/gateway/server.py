"""The web server under the app: uvicorn, hardened against clients that never finish a request head."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hls_pipeline.gateway import logs
from hls_pipeline.gateway.app import create_app
from hls_pipeline.gateway.config import GatewaySettings

_HEAD_BYTES = 64 * 1024
_CONNECTIONS = 2000
_KEEP_ALIVE_SECONDS = 30
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h


class _Protocol(HttpToolsProtocol):
    """uvicorn waits for ever for the rest of a request's head, however long it grows; this one does not."""

    head_seconds = 10.0
    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        in_head = self._late is not None
        super().data_received(data)
        if in_head and self._late is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._late = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """Requests under way finish when it stops; streams of events, which never do, are ended."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: FastAPI = self.config.app  # type: ignore[assignment]
        await app.state.services.followers.end()
        await super().shutdown(sockets)


def server(settings: GatewaySettings, host: str, port: int, **more: Any) -> uvicorn.Server:
    """`X-Forwarded-…` headers are not believed: whoever stands in front logs the clients."""

    class Protocol(_Protocol):
        head_seconds = settings.head_seconds

    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        http=Protocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.closing_seconds),
        **more,
    )
    return _Server(config)


def run(settings: GatewaySettings, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    _keep_memory_together()
    logs.to_stderr()
    server(settings, host, port).run()


def _keep_memory_together() -> None:
    """glibc gives each thread a heap of its own and keeps what was freed in it: with dozens of threads that pass
    buffers of 8 MiB around, that is more than the buffers themselves."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: it has other habits
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
