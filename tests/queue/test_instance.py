"""Runs whose process is gone are counted as failed, and those that live are left alone; with a real code server."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from dagster._daemon import sensor

from hls_pipeline.dagster_client import LOCATION
from hls_pipeline.errors import Outage, UsageError
from hls_pipeline.local import dagster_home
from hls_pipeline.queue.instance import code_servers, fail_abandoned_runs, keep_connections, open_instance, wait_for
from tests.services import free_ports
from tests.stack_fixture import wait_until

SLEEPING = """
import time
import dagster as dg

@dg.op
def sleep(): time.sleep(600)

@dg.job(executor_def=dg.in_process_executor)
def sleeping(): sleep()

defs = dg.Definitions(jobs=[sleeping])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    return tmp_path


@contextmanager
def code_server(folder: Path, port: int) -> Iterator[None]:
    command = ("dagster", "api", "grpc", "-f", str(folder / "sleeping.py"), "-h", "127.0.0.1", "-p", str(port))
    process = subprocess.Popen([sys.executable, "-m", *command, "--location-name", LOCATION], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # as the supervisor ends what a dead code server leaves
        process.wait()


def test_only_runs_that_no_code_server_knows_are_failed(folder: Path) -> None:
    (port,) = free_ports(1)
    workspace = dagster_home.write(folder / "dagster", port)
    servers = code_servers(workspace)
    with open_instance() as instance:
        lost = create_run_for_test(instance, job_name="sleeping", status=DagsterRunStatus.STARTED).run_id
        with code_server(folder, port):
            wait_for(servers, 60)
            alive = launch(instance, workspace)
            assert fail_abandoned_runs(instance, servers) == 1
            assert status(instance, lost) is DagsterRunStatus.FAILURE
            assert status(instance, alive) is DagsterRunStatus.STARTED
        with code_server(folder, port):
            wait_for(servers, 60)
            assert fail_abandoned_runs(instance, servers) == 1
            assert status(instance, alive) is DagsterRunStatus.FAILURE


def launch(instance: DagsterInstance, workspace: Path) -> str:
    command = [sys.executable, "-m", "dagster", "job", "launch", "--workspace", str(workspace), "--job", "sleeping"]
    known = {run.run_id for run in instance.get_runs()}
    subprocess.run(command, check=True, timeout=120)
    (run_id,) = {run.run_id for run in instance.get_runs()} - known
    started: Callable[[], bool] = lambda: status(instance, run_id) is DagsterRunStatus.STARTED  # noqa: E731
    wait_until(started, 60, lambda: "the run to start")
    return run_id


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_code_server_that_is_not_there_is_an_outage(folder: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Outage, match=f"code server 127.0.0.1:{port} does not answer"):
        wait_for(code_servers(dagster_home.write(folder / "dagster", port)), 0.2)


def test_without_a_dagster_home_or_a_workspace_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(UsageError, match="DAGSTER_HOME"), open_instance():
        pass
    with pytest.raises(UsageError, match="--workspace"):
        code_servers(tmp_path / "none.yaml")


def test_a_process_that_lives_long_asks_once_which_columns_there_are(
    dagster_home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in dagster_home.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with DagsterInstance.get() as instance:
        keep_connections(instance)
        instance.get_run_by_id("none")
        sa.event.listen(sa.Engine, "before_cursor_execute", listener := lambda *about: said.append(about[2]))
        instance.get_run_by_id("none")
        sa.event.remove(sa.Engine, "before_cursor_execute", listener)
    assert said
    assert not [statement for statement in said if "pg_catalog" in statement]


def test_dagster_still_reads_the_pause_of_its_sensor_loop_from_the_name_we_set() -> None:
    assert sensor.MIN_INTERVAL_LOOP_TIME == 5, "Dagster changed it: is the daemon's patch still needed?"
    assert "MIN_INTERVAL_LOOP_TIME" in inspect.getsource(sensor.execute_sensor_iteration_loop)
