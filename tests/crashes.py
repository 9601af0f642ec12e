"""A step in a process of its own that kills itself before the n-th thing it says to the database, to S3 or to IPFS.

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

from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.settings import Settings
from tests.services import World

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])
boto3.client("s3", "us-east-1")  # its models are in memory before anything is forked


def points() -> Iterator[int]:
    return itertools.count(1)


def survives(settings: Settings, step: str, upload_id: str, point: int) -> bool:
    """Whether the step ended by itself before it said `point` things; otherwise it was killed."""
    ended_with = exit_code(_run, settings, step, upload_id, point)
    assert ended_with in (0, -signal.SIGKILL), f"{step} ended with {ended_with}"
    return ended_with == 0


def exit_code(target: Callable[..., None], settings: Settings, *args: Any) -> int | None:
    """How a process ends that does `target` with a world of these settings."""
    process = _processes.Process(target=_in_world, args=(target, settings.model_dump(), *args))
    process.start()
    process.join(60)
    return process.exitcode


def _in_world(target: Callable[..., None], settings: dict[str, Any], *args: Any) -> None:
    target(World.of(Settings(**settings)), *args)


def _run(world: World, step: str, upload_id: str, point: int) -> None:
    upload = world.store.upload(upload_id)
    arm(world, point, lambda: os.kill(os.getpid(), signal.SIGKILL))
    world.step(step, upload, "path:to be killed")


class Fuse:
    """Strikes before the `left`-th write, commit or writing request to S3 or IPFS from the moment that is set. What is
    only read changes nothing, so dying before it is dying before what is written next."""

    def __init__(self, strike: Callable[[], None]) -> None:
        self.left: int | None = None
        self.in_transactions = True
        """Whether what is said to the database counts."""
        self._strike, self._lock = strike, threading.Lock()

    def lay(self, world: World) -> None:
        sa.event.listen(world.store._engine, "before_cursor_execute", self._statement)
        sa.event.listen(world.store._engine, "commit", self._commit)
        world.objects._client.meta.events.register("before-send.s3", self._request)
        writes = {name: self._around(getattr(Kubo, name)) for name in ("import_blocks", "pin", "unpin")}
        for node in world.nodes:
            node.__class__ = type("BurningKubo", (Kubo,), writes)

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def burning(node: Kubo, *args: Any) -> Any:
            self._burn()
            answer = call(node, *args)
            self._burn()  # it is done, and nobody was told
            return answer

        return burning

    def _statement(self, _: Any, __: Any, text: str, *___: Any) -> None:
        if self.in_transactions and text.startswith(("INSERT", "UPDATE", "DELETE")):
            self._burn()

    def _commit(self, connection: sa.Connection) -> None:
        if self.in_transactions and connection.get_execution_options().get("hls_write"):
            self._burn()

    def _request(self, request: Any, **_: Any) -> None:
        if request.method not in ("GET", "HEAD"):
            self._burn()

    def _burn(self) -> None:
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
