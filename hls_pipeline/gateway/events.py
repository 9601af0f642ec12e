"""`GET /v1/videos/{id}/events`: the newest arrival's progress as server-sent events.

All who follow one video share one look at the database per half second. WHATWG HTML, section 9.2.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from hls_pipeline import keys
from hls_pipeline.errors import NotFound, PipelineError
from hls_pipeline.gateway import progress
from hls_pipeline.gateway.access import Reader
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.videos import VideoId, latest

router = APIRouter(prefix="/v1/videos", tags=["videos"])

_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 15
_FOLLOWERS = 1000


@router.get(
    "/{video_id}/events",
    summary="Progress as server-sent events",
    description="An event `status` with the content of `/status`, at once and then whenever something changes.",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(video_id: VideoId, services: ServicesDep, _: Reader) -> StreamingResponse:
    if not keys.is_video_id(video_id):
        raise NotFound("there is no such video: this is no video id")
    await run_in_threadpool(latest, services, video_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(services, video_id), headers=headers, media_type="text/event-stream")


async def _stream(services: Services, video_id: str) -> AsyncIterator[str]:
    async with services.followers.following(video_id, services) as channel:
        yield "retry: 2000\n\n"
        seen = ""
        while True:
            text = await channel.next(seen)
            if text == seen:
                yield ": still here\n\n"
                continue
            seen = text
            yield f"event: status\ndata: {text}\n\n"


@dataclass
class Channel:
    """What is known of one video, and who waits for news of it."""

    text: str = ""
    followers: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    looking: asyncio.Task[None] | None = None

    async def next(self, seen: str) -> str:
        """The text once it is another than `seen`; `seen` itself when nothing happens for a while."""
        async with self.changed:
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self.changed.wait_for(lambda: self.text not in ("", seen))
            except TimeoutError:
                return seen
            return self.text


class Followers:
    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._count = 0

    @asynccontextmanager
    async def following(self, video_id: str, services: Services) -> AsyncIterator[Channel]:
        """Raises Refused (503) when too many follow already."""
        if self._count >= _FOLLOWERS:
            raise Refused(503, "busy", "too many follow videos here; ask /status instead", {"Retry-After": "5"})
        channel = self._channels.setdefault(video_id, Channel())
        if channel.looking is None:
            channel.looking = asyncio.create_task(_look(services, video_id, channel))
        channel.followers += 1
        self._count += 1
        try:
            yield channel
        finally:
            channel.followers -= 1
            self._count -= 1
            if not channel.followers:
                channel.looking.cancel()
                del self._channels[video_id]


async def _look(services: Services, video_id: str, channel: Channel) -> None:
    while True:
        try:
            text = await run_in_threadpool(_text, services, video_id)
        except PipelineError:
            text = channel.text  # an outage shows in /readyz; who follows goes on waiting
        if text != channel.text:
            async with channel.changed:
                channel.text = text
                channel.changed.notify_all()
        await asyncio.sleep(_LOOK_SECONDS)


def _text(services: Services, video_id: str) -> str:
    about = progress.about(latest(services, video_id), services.store, full=True)
    current = services.records.current_version(video_id)
    return json.dumps({**about, "version": current}, ensure_ascii=True, separators=(",", ":"))
