"""`DELETE /v1/videos/{id}`: a video is taken back. What that means is in `hls_pipeline.withdrawal`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from hls_pipeline import withdrawal
from hls_pipeline.gateway import shapes
from hls_pipeline.gateway.access import Writer, require_owned
from hls_pipeline.gateway.openapi import refusals
from hls_pipeline.gateway.services import ServicesDep
from hls_pipeline.gateway.videos import VideoId, check_id, current, etag_of, require_match

router = APIRouter(prefix="/v1/videos", tags=["videos"])


@router.delete(
    "/{video_id}",
    summary="Withdraw a video",
    description="Nobody is served it any more; its versions and receipts stay. The answer is the document readers get "
    "now and `left`, how many things the clean-up still has to do. Said again, it goes on with them. `If-Match` "
    "may name the document that is to be withdrawn.",
    response_model=shapes.Withdrawn,
    responses=refusals(404, 409, 412, _409="none of its packages was ever accepted"),
)
def withdraw(
    video_id: VideoId,
    request: Request,
    services: ServicesDep,
    caller: Writer,
    reason: Annotated[str, Query(max_length=1000, description="stays in the history")] = "withdrawn by its owner",
) -> dict[str, Any]:
    check_id(video_id)
    require_owned(services.records, caller, video_id)
    require_match(request, etag_of(current(services, video_id).encode()))
    done = withdrawal.withdraw(
        video_id,
        actor=f"key {caller.key_id}",
        reason=reason,
        objects=services.objects,
        nodes=services.nodes,
        store=services.store,
        settings=services.settings,
    )
    return {"document": json.loads(done.version.document), "left": len(done.left)}
