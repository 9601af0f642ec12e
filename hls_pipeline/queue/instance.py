"""The Dagster instance and its code servers, as the processes that we start ourselves meet them.

The web app and the daemon start at the same moment as the code server and wait for it here; runs whose process is gone
are counted as failed. Which runs to start is decided by the sensors.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import deserialize_value
from dagster_shared.error import DagsterError

from hls_pipeline.errors import Outage, UsageError

_log = logging.getLogger(__name__)

BEGUN = frozenset({DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING})
"""A worker has, or had, the run."""
_UNFINISHED = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """The instance of DAGSTER_HOME. Raises UsageError when there is none, Outage when its database does not answer."""
    try:
        instance = DagsterInstance.get()
    except DagsterError as error:
        raise UsageError(f"opening the Dagster instance: {error}") from error
    except Exception as error:  # each kind of database has its own
        raise Outage(f"opening the Dagster instance: {error}; is its database running? check DAGSTER_PG_…") from error
    with instance:
        yield instance


def migrate() -> None:
    """Brings the instance's database to the schema of the installed Dagster. Raises as `open_instance`."""
    with open_instance() as instance:
        instance.upgrade()


def fail_lost_run(instance: DagsterInstance, run: DagsterRun) -> None:
    """Its worker is gone. The sensor starts an upload again, Dagster's run retries do so with all other runs."""
    lost = JobFailureData(error=None, failure_reason=RunFailureReason.RUN_WORKER_RESTART)
    instance.report_run_failed(run, "Its worker is gone; another run goes on with it.", job_failure_data=lost)


def keep_connections(instance: DagsterInstance) -> None:
    """For a process that lives long: otherwise PostgreSQL gets a new connection, with its handshake, per statement, and
    before every third one the question which columns there are. They change with `hls-pipeline setup`, after which all
    roles are started again."""
    instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
    questions = {
        instance.run_storage: ("has_run_stats_index_cols", "has_backfill_id_column"),
        instance.event_log_storage: ("has_table", "has_asset_key_col"),
        instance.schedule_storage: ("has_instigators_table", "has_secondary_index_table"),
    }
    for storage, names in questions.items():
        for name in names:
            setattr(storage, name, functools.cache(getattr(storage, name)))


def code_servers(workspace: Path) -> list[DagsterGrpcClient]:
    """Clients of the code servers that the workspace file names. Raises UsageError when it cannot be read."""
    try:
        origins = location_origins_from_yaml_paths([str(workspace)])
    except (OSError, DagsterError) as error:
        raise UsageError(f"reading Dagster's workspace file: {error}; name another with --workspace") from error
    return [origin.create_client() for origin in origins if isinstance(origin, GrpcServerCodeLocationOrigin)]


def wait_for(servers: Sequence[DagsterGrpcClient], seconds: float) -> None:
    """Dagster looks for a missing code server once a minute; we look ten times a second. Raises Outage."""
    deadline = time.monotonic() + seconds
    for server in servers:
        while (trouble := _ping(server)) is not None:
            if time.monotonic() > deadline:
                raise Outage(f"the code server {server.host}:{server.port} does not answer: {trouble}") from trouble
            time.sleep(0.1)


def fail_abandoned_runs(instance: DagsterInstance, servers: Sequence[DagsterGrpcClient]) -> int:
    """Count runs as failed whose process died together with the code server that started it; says how many.

    Dagster's default launcher runs them as children of the code server and would show them as started for ever. A run
    that a code server still knows is alive. Other launchers look after their own runs.
    """
    if not isinstance(instance.run_launcher, DefaultRunLauncher):
        return 0
    alive = {run_id for server in servers for run_id in _current_runs(server)}
    lost = [run for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)) if run.run_id not in alive]
    for run in lost:
        instance.report_run_failed(run, "Its process ended with the code server; the upload is started again.")
        _log.warning("run %s was left by a process that is gone: failed", run.run_id)
    return len(lost)


def _ping(server: DagsterGrpcClient) -> DagsterError | None:
    try:
        server.ping("")
    except DagsterError as error:
        return error
    return None


def _current_runs(server: DagsterGrpcClient) -> Sequence[str]:
    return deserialize_value(server.get_current_runs(), GetCurrentRunsResult).current_runs
