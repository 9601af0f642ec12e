"""`hls-pipeline code-server`: Dagster's code server, whose runs are forked from a process that is warm already.

Dagster starts a new interpreter for each run, which spends two seconds on imports. A fork server with everything
imported starts one in a tenth of that. It also opens its instance, three databases, for each tick of each sensor; here
one stays open. Both are names inside Dagster that no setting reaches; tests hold that they are still there. Code is
loaded once: restart the server to run new code.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

from dagster import DagsterInstance, SensorEvaluationContext
from dagster._cli.api import grpc_command
from dagster._core.instance.ref import InstanceRef
from dagster._grpc import impl, server

from hls_pipeline import metrics, settings
from hls_pipeline.queue.instance import keep_connections

MODULE = "hls_pipeline.definitions"


def run(host: str, port: int, location: str) -> None:
    """Until a signal ends it."""
    forkserver.set_forkserver_preload(["hls_pipeline.queue.warm"])
    forkserver.ensure_running()  # now, so that the first run finds it warm
    metrics.serve_worker(settings.load())
    server.multiprocessing = SimpleNamespace(get_context=_forking)  # type: ignore[attr-defined,assignment]
    impl.SensorEvaluationContext = over_one_instance()  # type: ignore[attr-defined,assignment]
    where = ["--module-name", MODULE, "--host", host, "--port", str(port), "--location-name", location]
    grpc_command.main([*where, "--use-python-environment-entry-point"], prog_name="hls-pipeline code-server")


def _forking(method: str) -> BaseContext:
    assert method == "spawn", f"Dagster asks for {method!r} processes now; look again at what it needs"
    return multiprocessing.get_context("forkserver")


def over_one_instance() -> Callable[..., SensorEvaluationContext]:
    """What makes the contexts of sensors, all over the instance that the first of them names."""
    lock, opened = threading.Lock(), list[DagsterInstance]()

    def context(ref: InstanceRef | None, **about: Any) -> SensorEvaluationContext:
        with lock:
            if ref and not opened:
                instance = DagsterInstance.from_ref(ref)
                keep_connections(instance)
                opened.append(instance)
        return SensorEvaluationContext(ref, instance=opened[0] if ref else None, **about)

    return context
