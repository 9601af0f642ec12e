"""`/healthz`, `/readyz`, `/metrics`: for whatever watches the gateway."""

from __future__ import annotations

from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hls_pipeline.gateway import shapes
from hls_pipeline.gateway.access import Reader
from hls_pipeline.gateway.routing import Router
from hls_pipeline.gateway.services import ServicesDep

router = Router(tags=["health"])


@router.get("/healthz", summary="The process answers", response_model=shapes.Health)
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Every service behind it answers",
    response_model=shapes.Ready,
    responses={503: {"description": "the services that do not answer say so", "model": shapes.Ready}},
)
async def readyz(services: ServicesDep) -> JSONResponse:
    found = await services.readiness.states()
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
