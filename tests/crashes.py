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


def arm(world: World, point: int, strike: Callable[[], None]) -> None:
    """Calls `strike` before the `point`-th write, commit or writing S3 request from now on, whoever makes it. What is
    only read changes nothing, so dying before it is dying before what is written next."""
    count, lock = itertools.count(1), threading.Lock()

    def say(*_: Any) -> None:
        with lock:
            if next(count) == point:
                strike()

    def statement(_: Any, __: Any, text: str, *___: Any) -> None:
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            say()

    def request(request: Any, **_: Any) -> None:
        if request.method not in ("GET", "HEAD"):
            say()

    sa.event.listen(world.store._engine, "before_cursor_execute", statement)
    sa.event.listen(world.store._engine, "commit", say)
    world.objects._client.meta.events.register("before-send.s3", request)
