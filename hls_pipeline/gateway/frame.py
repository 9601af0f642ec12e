"""What is around every request: its id, one structured log line, its time in the metrics, and the headers of all
answers. A pure ASGI layer, so that streams pass through untouched."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import logs, problems
from hls_pipeline.gateway.access import address_of
from hls_pipeline.gateway.limits import Limits
from hls_pipeline.gateway.metrics import Metrics

log = logging.getLogger("hls_pipeline.gateway.requests")

_SINGLE = (b"host", b"authorization", b"content-type", b"idempotency-key")
"""Headers of which we take one, and of two a proxy in front may take the other."""
_METHODS = frozenset({*problems.METHODS, "OPTIONS"})
"""Those that something here answers; the parser knows forty, and each would be a series for each route."""
_CLOSING = {"Connection": "close"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Pages bring a policy of their own; nothing else we send is ever to be shown as a page."""


class Frame:
    def __init__(self, app: ASGIApp, metrics: Metrics, limits: Limits) -> None:
        self._app, self._metrics, self._limits = app, metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["hls.request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(_route(scope), method, str(status)).observe(time.perf_counter() - began)
            await send(message)

        with logs.belonging(request_id=request_id):
            try:
                fault = _fault(scope)
                app = problems.problem(400, "bad_request", fault, request_id, _CLOSING) if fault else self._app
                await app(scope, receive, send_framed)
            except Exception as error:
                if status and isinstance(error.__cause__, PipelineError):
                    log.warning("an answer broke off: %s", error.__cause__)
                    return  # it is not complete, so that the server closes the connection
                log.exception("unforeseen")
                if status:
                    raise  # the answer has begun: all that is left is to break it off
                await problems.unforeseen(request_id)(scope, receive, send_framed)
            finally:
                caller = scope.get("hls.caller") or address_of(Request(scope))
                if (more := self._limits.log_line(caller)) is not None:
                    _log(scope, status, time.perf_counter() - began, more)


def _fault(scope: Scope) -> str | None:
    """Why nobody can be sure what the request asks, or can ask the database for it: PostgreSQL's texts have no NUL."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return "there is a NUL in the address"
    names = [name for name, _ in scope["headers"]]
    if b"host" not in names and scope["http_version"] == "1.1":
        return "the request names no host (RFC 9112, section 3.2)"
    return next((f"the header {name.decode()} is given twice" for name in _SINGLE if names.count(name) > 1), None)


def _route(scope: Scope) -> str:
    """The route's template, never the path itself: strangers choose paths."""
    return str(getattr(scope.get("route"), "path", "none"))


def _log(scope: Scope, status: int, seconds: float, more: dict[str, int]) -> None:
    """Neither query nor headers: they may hold keys and signatures."""
    if video_id := str(scope.get("path_params", {}).get("video_id", ""))[:64]:
        logs.about(video_id=video_id)
    facts = {"method": scope["method"], "route": _route(scope), "status": status, "seconds": round(seconds, 4)}
    facts |= more
    log.info("request", extra={"facts": facts})
