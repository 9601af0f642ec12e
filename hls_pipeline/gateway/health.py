"""`/healthz`, `/readyz`, `/metrics`: for whatever watches the gateway."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import shapes
from hls_pipeline.gateway.access import Reader
from hls_pipeline.gateway.services import Services, ServicesDep

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers", response_model=shapes.Health)
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Every service behind it answers",
    response_model=shapes.Ready,
    responses={503: {"description": "the services that do not answer say so", "model": shapes.Ready}},
)
def readyz(services: ServicesDep) -> JSONResponse:
    checks = _checks(services)
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        found = dict(zip(checks, pool.map(_state, checks.values()), strict=True))
    ready = all(state == "ok" for state in found.values())
    content = {"status": "ready" if ready else "not ready", "services": found}
    return JSONResponse(content, 200 if ready else 503, headers={"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": "hls_gateway_uploads 2.0\n"}}}},
)
def metrics(services: ServicesDep, _: Reader) -> Response:
    services.metrics.uploading.set(services.limits.uploads)
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _checks(services: Services) -> dict[str, Callable[[], object]]:
    buckets = (services.settings.s3_media, services.settings.s3_inbox)
    return {
        "database": services.store.ping,
        **{f"s3 {name}": partial(_look, services, name) for name in buckets},
        **{f"ipfs {n}": node.version for n, node in enumerate(services.nodes)},
    }


def _look(services: Services, bucket: str) -> None:
    """One small listing; the name is one that no video can have."""
    for _ in services.objects.listing(bucket, "_readyz/"):
        break


def _state(check: Callable[[], object]) -> str:
    """No detail: anybody may ask, and errors name internal addresses."""
    try:
        check()
    except PipelineError as error:
        return error.code
    return "ok"
