"""`hls-pipeline code-server`: Dagster's code server, whose runs are forked from a process that is warm already.

Dagster starts a new interpreter for each run, which spends two seconds on imports. A fork server with everything
imported starts one in a tenth of that. The kind of process is a constant inside Dagster that no setting reaches; a
test holds that it is still there. Code is loaded once: restart the server to run new code.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import SimpleNamespace

from dagster._cli.api import grpc_command
from dagster._grpc import server

from hls_pipeline import metrics, settings

MODULE = "hls_pipeline.definitions"


def run(host: str, port: int, location: str) -> None:
    """Until a signal ends it."""
    forkserver.set_forkserver_preload(["hls_pipeline.queue.warm"])
    forkserver.ensure_running()  # now, so that the first run finds it warm
    metrics.serve_worker(settings.load())
    server.multiprocessing = SimpleNamespace(get_context=_forking)  # type: ignore[attr-defined,assignment]
    where = ["--module-name", MODULE, "--host", host, "--port", str(port), "--location-name", location]
    grpc_command.main([*where, "--use-python-environment-entry-point"], prog_name="hls-pipeline code-server")


def _forking(method: str) -> BaseContext:
    assert method == "spawn", f"Dagster asks for {method!r} processes now; look again at what it needs"
    return multiprocessing.get_context("forkserver")
