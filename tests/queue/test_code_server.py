"""The code server forks its runs from a warm process, which rests on a constant inside Dagster."""

from __future__ import annotations

import inspect
import subprocess
import sys

from dagster._grpc import server


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
