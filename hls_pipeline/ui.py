"""`hls-pipeline ui`: Dagster's own web app behind a small guard.

Dagster's web app has no authentication, answers any Host and executes mutations that any page sends by GET or as a
plain-text POST. The guard lets through only what a page of the app itself would send: our own Host, our own Origin,
and changes as JSON, which no other page can send without asking first (WHATWG Fetch, section 4.10). Who may come in
at all is asked by `Door`, or by a proxy in front.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import uvicorn
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.storage.dagster_run import CANCELABLE_RUN_STATUSES, DagsterRunStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.schema.pipelines.pipeline import GrapheneRun
from dagster_shared.cli import WorkspaceOpts
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hls_pipeline.errors import UsageError
from hls_pipeline.queue.instance import code_servers, open_instance, wait_for

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
CODE_SERVER_SECONDS = 60.0

_STATEMENT_MILLISECONDS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW = 15_000, 3600, 20  # as dagster-webserver has them
_CLOSING_SECONDS = 2  # for open requests and subscriptions when asked to stop
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HEALTH = "/server_info"
_COOKIE = "hls_pipeline_ui"


def run(
    workspace: Path,
    host: str,
    port: int,
    allowed_hosts: Iterable[str] = (),
    key: str | None = None,
    *,
    behind_proxy: bool = False,
) -> None:
    """Serve until a signal ends it. Raises Outage when the code server does not answer, UsageError without an
    instance, or when others than this machine could come in unasked."""
    allowed_hosts = tuple(allowed_hosts)
    if not (key or behind_proxy) and (allowed_hosts or host not in LOOPBACK):
        raise UsageError(
            "whoever reaches the Dagster UI can change everything: set HLS_UI_KEY, which it then asks for, "
            "or say --behind-proxy if a proxy in front asks who comes"
        )
    with open_instance() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW)
        wait_for(code_servers(workspace), CODE_SERVER_SECONDS)
        target = workspace_opts_to_load_target(WorkspaceOpts(workspace=[str(workspace)]))
        with WorkspaceProcessContext(instance, workspace_load_target=target, version=__version__) as context:
            _let_waiting_runs_be_terminated()
            app: ASGIApp = create_app_from_workspace_process_context(context)
            app = Guard(Door(app, key) if key else app, allowed_hosts)
            uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_CLOSING_SECONDS)


def _let_waiting_runs_be_terminated() -> None:
    """Dagster terminates none that is launched and has not begun, which takes a moment with its own launchers; here
    such a run may wait for a worker for hours. A test holds that the names inside Dagster are still there."""
    CANCELABLE_RUN_STATUSES.append(DagsterRunStatus.STARTING)
    GrapheneRun.resolve_canTerminate = lambda run, _: run.dagster_run.is_cancelable  # type: ignore[assignment,method-assign]


class Guard:
    """ASGI middleware that refuses what no page of this app would send."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = LOOPBACK | {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before accepting: the client sees a 403
        else:
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts:
            return 421, "this address is not one of ours; name it with --allow-host if it should be"
        if any(not _same_place(origin, hosts[0]) for origin in headers.getlist("origin")):
            return 403, "this request comes from another site"
        if scope["type"] == "websocket":
            return None
        if scope["method"] not in _READING:
            return None if _media_types(headers) == ["application/json"] else (415, "changes are sent as JSON")
        if _is_graphql(scope["path"]) and _asks_by_address(scope["query_string"]):
            return 405, "GraphQL is sent by POST"
        return None


class Door:
    """ASGI middleware that lets in who has the key: as a bearer token, or as the password of a browser's own dialogue
    (RFC 7617), which then gets a cookie for the sockets that browsers open without a password. The health check is
    open."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()
        self._ticket = hmac.digest(self._key, b"a browser that knows the key", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == _HEALTH):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._has_ticket(headers.get("cookie", "")):
            await self._app(scope, receive, send)
        elif self._is_key(_secret(headers.get("authorization", ""))):
            await self._app(scope, receive, self._handing_out_ticket(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            asking = {"WWW-Authenticate": 'Basic realm="Dagster: any name, the key as password", charset="UTF-8"'}
            await PlainTextResponse("the key of HLS_UI_KEY is needed\n", 401, asking)(scope, receive, send)

    def _is_key(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._key)

    def _has_ticket(self, cookies: str) -> bool:
        try:
            found = SimpleCookie(cookies).get(_COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._ticket.encode())

    def _handing_out_ticket(self, send: Send) -> Send:
        async def with_ticket(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{_COOKIE}={self._ticket}; Path=/; HttpOnly; SameSite=Strict"
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        return with_ticket


def _secret(authorization: str) -> bytes:
    """The token or the password; empty when there is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")  # as headers are read
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _same_place(origin: str, host: str) -> bool:
    """RFC 6454: scheme, host and port; the scheme may be https where a proxy ends TLS."""
    scheme, _, place = origin.partition("://")
    return scheme in ("http", "https") and place.lower() == host.lower()


def _media_types(headers: Headers) -> list[str]:
    """Without parameters: Dagster looks for the name anywhere in the header, `text/plain; a=application/json` too."""
    return [value.partition(";")[0].strip().lower() for value in headers.getlist("content-type")]


def _is_graphql(path: str) -> bool:
    return path.rstrip("/").rpartition("/")[2].lower() == "graphql"


def _asks_by_address(query_string: bytes) -> bool:
    return any(name == "query" for name, _ in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
