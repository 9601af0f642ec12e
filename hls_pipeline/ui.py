"""`hls-pipeline ui`: Dagster's own web app behind a small guard.

Dagster's web app has no authentication, answers any Host and executes mutations that any page sends by GET or as a
plain-text POST. The guard lets through only what a page of the app itself would send: our own Host, our own Origin,
and changes as JSON, which no other page can send without asking first (WHATWG Fetch, section 4.10). Authentication
belongs to a proxy in front; name its host with `allowed_hosts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import uvicorn
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_shared.cli import WorkspaceOpts
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hls_pipeline.queue.instance import code_servers, open_instance, wait_for

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
CODE_SERVER_SECONDS = 60.0

_STATEMENT_MILLISECONDS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW = 15_000, 3600, 20  # as dagster-webserver has them
_CLOSING_SECONDS = 2  # for open requests and subscriptions when asked to stop
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def run(workspace: Path, host: str, port: int, allowed_hosts: Iterable[str] = ()) -> None:
    """Serve until a signal ends it. Raises Outage when the code server does not answer, UsageError without an
    instance."""
    with open_instance() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW)
        wait_for(code_servers(workspace), CODE_SERVER_SECONDS)
        target = workspace_opts_to_load_target(WorkspaceOpts(workspace=[str(workspace)]))
        with WorkspaceProcessContext(instance, workspace_load_target=target, version=__version__) as context:
            app = Guard(create_app_from_workspace_process_context(context), allowed_hosts)
            uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_CLOSING_SECONDS)


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
