"""The code server forks its runs from a warm process and keeps its instance open; both rest on names inside Dagster."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from dagster import DagsterInstance
from dagster._grpc import impl, server

from hls_pipeline.queue.code_server import over_one_instance


def test_dagster_still_asks_for_its_kind_of_process_where_we_replace_it() -> None:
    source = inspect.getsource(server.DagsterApiServer.__init__)
    assert 'multiprocessing.get_context("spawn")' in source


def test_what_runs_are_forked_from_has_no_threads_and_no_connections() -> None:
    """A fork would share them; a lock that a thread held would stay locked for ever."""
    program = """if True:
        import socket, threading
        def refuse(*_): raise AssertionError("a socket was opened")
        socket.socket.connect = refuse
        import hls_pipeline.queue.warm
        print(threading.active_count())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "1"


def test_ticks_of_sensors_share_one_instance_that_stays_open(tmp_path: Path) -> None:
    """Each tick opened three databases of its own, twice a second: most of what an idle code server did."""
    assert "with SensorEvaluationContext(" in inspect.getsource(impl.get_external_sensor_execution)
    context = over_one_instance()
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        with context(made.get_ref(), cursor="first") as first:
            kept = first.instance
        with context(made.get_ref(), cursor="second") as second:
            assert second.cursor == "second"
            assert second.instance is kept
            assert second.instance.get_runs_count() == 0
        kept.dispose()
