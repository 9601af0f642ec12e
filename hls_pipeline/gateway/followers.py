"""Everybody who follows one thing shares one look at it: a channel per name, alive while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway.problems import Refused

_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 15
_FOLLOWERS = 1000


@dataclass
class Channel:
    """What is known of one thing, and who waits for news of it."""

    text: str = ""
    followers: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    looking: asyncio.Task[None] | None = None
    ended: bool = False

    async def next(self, seen: str) -> str:
        """The text once it is another than `seen`; `seen` itself when nothing happens for a while, or at the end."""
        async with self.changed:
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self.changed.wait_for(lambda: self.ended or self.text not in ("", seen))
            except TimeoutError:
                return seen
            return self.text or seen


class Followers:
    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._count = 0
        self._ended = False

    async def end(self) -> None:
        """Sends everybody away, also who is only just coming: the gateway stops, and they go to another one."""
        self._ended = True
        for channel in self._channels.values():
            async with channel.changed:
                channel.ended = True
                channel.changed.notify_all()

    def check_room(self) -> None:
        """Raises Refused (503) when too many follow already; once a stream has begun it is too late to say so."""
        if self._count >= _FOLLOWERS:
            raise Refused(503, "busy", "too many follow videos here; ask /status instead", {"Retry-After": "5"})

    @asynccontextmanager
    async def following(self, name: str, look: Callable[[], str]) -> AsyncIterator[Channel]:
        """`look` is called every half second, in a thread."""
        channel = self._channels.setdefault(name, Channel(ended=self._ended))
        if channel.looking is None:
            channel.looking = asyncio.create_task(_keep_looking(look, channel))
        channel.followers += 1
        self._count += 1
        try:
            yield channel
        finally:
            channel.followers -= 1
            self._count -= 1
            if not channel.followers:
                channel.looking.cancel()
                del self._channels[name]


async def _keep_looking(look: Callable[[], str], channel: Channel) -> None:
    while True:
        try:
            text = await run_in_threadpool(look)
        except PipelineError:
            text = channel.text  # an outage shows in /readyz; who follows goes on waiting
        if text != channel.text:
            async with channel.changed:
                channel.text = text
                channel.changed.notify_all()
        await asyncio.sleep(_LOOK_SECONDS)
