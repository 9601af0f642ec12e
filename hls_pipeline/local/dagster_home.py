"""The Dagster instance of the local stack: SQLite, no extra processes, a sensor loop that starts runs in threads.

The production instance is `dagster.yaml` at the top of the project; a switch that is right for both belongs in both.
The production stack is run with exactly that file.
"""

from __future__ import annotations

from pathlib import Path

from hls_pipeline.dagster_client import LOCATION
from hls_pipeline.errors import UsageError

INSTANCE = """\
# Written by `hls-pipeline up` at every start.
telemetry: {enabled: false}
nux: {enabled: false}
# A backfill's runs take their turn; all others start at once.
run_coordinator:
  module: hls_pipeline.queue.coordinator
  class: BackfillsInTurn
  config: {max_concurrent_runs: 4, dequeue_interval_seconds: 1, dequeue_use_threads: true}
# The default one starts four processes per run to copy its output.
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
# Starting a run takes two seconds here: without threads one upload would hold up the next.
sensors: {use_threads: true, num_workers: 4, num_submit_workers: 4}
schedules: {use_threads: true, num_workers: 2}
backfills: {use_threads: true, num_workers: 2, num_submit_workers: 4}
# Runs whose process is gone. Those of an upload say that they want none: the sensor starts it again.
run_retries: {enabled: true, max_retries: 10, retry_on_asset_or_op_failure: false}
run_monitoring: {enabled: false}
auto_materialize: {enabled: false, use_sensors: false}
freshness: {enabled: true}  # of pin_health: whether it was looked at lately
# A sensor that looks every second leaves 86 400 ticks a day.
retention:
  sensor: {purge_after_days: {skipped: 1, started: 7, success: 30, failure: 30}}
  schedule: {purge_after_days: 30}
"""

WORKSPACE = """\
# Written by `hls-pipeline up` at every start.
load_from:
  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {location}}}
"""

_TABLES_MADE = "tables-made"


def path(data: Path) -> Path:
    """DAGSTER_HOME of the stack in `data`."""
    return data / "dagster"


def write(home: Path, code_server_port: int) -> Path:
    """Prepare DAGSTER_HOME; returns the workspace file, which points to the one long-lived code server."""
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "dagster.yaml").write_text(INSTANCE)
    workspace = home / "workspace.yaml"
    workspace.write_text(WORKSPACE.format(port=code_server_port, location=LOCATION))
    return workspace


def link(home: Path, project: Path) -> None:
    """Prepare DAGSTER_HOME with the two files of the project as they are. Raises UsageError when they are not there."""
    home.mkdir(mode=0o700, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        if not (project / name).is_file():
            raise UsageError(f"{project / name} is missing; run this from a checkout of the project")
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(project / name)


def has_tables(home: Path) -> bool:
    return (home / _TABLES_MADE).exists()


def make_tables(home: Path) -> None:
    """By opening the instance once, alone; the mark is set only afterwards, so a half-made one is not trusted."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home)):
        (home / _TABLES_MADE).touch()
