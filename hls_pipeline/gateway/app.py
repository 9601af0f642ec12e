"""The gateway put together: layers, routes, error table. `create_app(settings)` is all others need.

A new group of routes is a router in a file of its own, named here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from hls_pipeline.gateway import (
    background,
    events,
    health,
    intake,
    openapi,
    pages,
    play,
    presigned,
    problems,
    sessions,
    videos,
    webhooks,
    withdrawing,
)
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.frame import Frame
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.services import connect

_DESCRIPTION = """Send an encoded HLS package, get a playable answer within seconds, and watch it move to IPFS.
Errors are problem documents (RFC 9457) with a stable `code`; a refused package carries its whole report."""


def create_app(settings: GatewaySettings) -> FastAPI:
    """Raises UsageError for settings that do not fit together. Nothing is connected to before the first request."""
    services = connect(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with background.at_work(services):
            yield

    app = FastAPI(
        title="hls-pipeline", version="1", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.services = services
    problems.install(app)
    parts = (health, intake, presigned, play, events, videos, withdrawing, webhooks, sessions)
    for part in parts:
        app.include_router(part.router, dependencies=[Depends(_each_once)])
    openapi.install(app, [part.router for part in parts], public_read=settings.public_read)
    pages.install(app)
    app.add_middleware(
        _Cors,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD"],
        allow_headers=["*"],  # players tell how they fare in headers of their own (CTA-5004); cookies never come along
        expose_headers=["Content-Length", "Content-Range", "Accept-Ranges", "ETag", "X-Request-ID"],
        max_age=86_400,
    )
    app.add_middleware(Frame, metrics=services.metrics, limits=services.limits)
    return app


class _Cors(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        return problems.problem(400, "bad_request", bytes(answer.body).decode(), headers={"Vary": "Origin"})


async def _each_once(request: Request) -> None:
    """Raises Refused (400): of a parameter given twice we would take the last, and another reader perhaps the first."""
    route: APIRoute = request.scope["route"]
    for field in route.dependant.query_params:
        if len(request.query_params.getlist(field.alias)) > 1:
            raise Refused(400, "bad_request", f"{field.alias} is given twice")
