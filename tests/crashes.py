"""A step in a process of its own that kills itself before the n-th thing it says to the database or to S3.

Processes are forked from a server that has imported everything, so that dying a hundred times takes seconds. `points`
walks n upwards until the step gets through.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import sqlalchemy as sa

from hls_pipeline.settings import Settings
from tests.services import World

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])
boto3.client("s3", "us-east-1")  # its models are in memory before anything is forked


def points() -> Iterator[int]:
    return itertools.count(1)


def survives(settings: Settings, step: str, upload_id: str, point: int) -> bool:
    """Whether the step ended by itself before it said `point` things; otherwise it was killed."""
    process = _processes.Process(target=_run, args=(settings.model_dump(), step, upload_id, point))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), f"{step} ended with {process.exitcode}"
    return process.exitcode == 0


def _run(settings: dict[str, Any], step: str, upload_id: str, point: int) -> None:
    world = World.of(Settings(**settings))
    upload = world.store.upload(upload_id)
    arm(world, point, lambda: os.kill(os.getpid(), signal.SIGKILL))
    world.step(step, upload, "path:to be killed")


class Fuse:
    """Strikes before the `left`-th write, commit or writing S3 request from the moment that is set. What is only read
    changes nothing, so dying before it is dying before what is written next."""

    def __init__(self, strike: Callable[[], None]) -> None:
        self.left: int | None = None
        self._strike, self._lock = strike, threading.Lock()

    def lay(self, world: World) -> None:
        sa.event.listen(world.store._engine, "before_cursor_execute", self._statement)
        sa.event.listen(world.store._engine, "commit", self._burn)
        world.objects._client.meta.events.register("before-send.s3", self._request)

    def _statement(self, _: Any, __: Any, text: str, *___: Any) -> None:
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            self._burn()

    def _request(self, request: Any, **_: Any) -> None:
        if request.method not in ("GET", "HEAD"):
            self._burn()

    def _burn(self, *_: Any) -> None:
        with self._lock:
            if self.left is None:
                return
            self.left -= 1
            if self.left > 0:
                return
            self.left = None
        self._strike()


def arm(world: World, point: int, strike: Callable[[], None]) -> None:
    fuse = Fuse(strike)
    fuse.lay(world)
    fuse.left = point
