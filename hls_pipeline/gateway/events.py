"""`GET /v1/videos/{id}/events`: the newest arrival's progress as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import progress
from hls_pipeline.gateway.access import Reader, still_reads
from hls_pipeline.gateway.openapi import refusals
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.videos import VideoId, check_id, latest

router = APIRouter(prefix="/v1/videos", tags=["videos"])

_ASK_AGAIN_SECONDS = 10.0
"""Who follows is asked again whether they may: keys are revoked while streams go on."""

_EXAMPLE = 'event: status\ndata: {"video_id":"video_123","state":"staged","percent":47}\n\n'


@router.get(
    "/{video_id}/events",
    summary="Progress as server-sent events",
    description="An event `status` with the content of `/status`, at once and then whenever something changes.",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}},
        **refusals(404),
    },
)
async def events(video_id: VideoId, request: Request, services: ServicesDep, _: Reader) -> StreamingResponse:
    check_id(video_id)
    await run_in_threadpool(latest, services, video_id)
    services.followers.check_room()
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(request, services, video_id), headers=headers, media_type="text/event-stream")


async def _stream(request: Request, services: Services, video_id: str) -> AsyncIterator[str]:
    async with services.followers.following(video_id, partial(_look, services, video_id)) as channel:
        yield "retry: 2000\n\n"
        seen, asked = "", time.monotonic()
        while not channel.ended:
            text = await channel.next(seen)
            if time.monotonic() - asked >= _ASK_AGAIN_SECONDS:
                if not await run_in_threadpool(_may_go_on, request):
                    return
                asked = time.monotonic()
            yield ": still here\n\n" if text == seen else f"event: status\ndata: {text}\n\n"
            seen = text


def _may_go_on(request: Request) -> bool:
    try:
        return still_reads(request)
    except PipelineError:  # nobody can tell during an outage
        return True


def _look(services: Services, video_id: str) -> str:
    about = progress.about(latest(services, video_id), services.store, full=True)
    return json.dumps({**about, "version": services.records.current_version(video_id)}, separators=(",", ":"))
