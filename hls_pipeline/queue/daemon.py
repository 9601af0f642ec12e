"""`hls-pipeline daemon`: Dagster's daemon, with a sensor loop that looks twice a second instead of every five.

Exactly one runs per installation. The loop's pause is a constant inside Dagster that no setting reaches; a test holds
that it is still there. What the sensors do is in `sensors/`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon import sensor
from dagster._daemon.controller import DEFAULT_DAEMON_HEARTBEAT_TOLERANCE_SECONDS, daemon_controller_from_instance
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

from hls_pipeline import metadata_store, metrics, replicas, settings
from hls_pipeline.queue.instance import code_servers, fail_abandoned_runs, keep_connections, open_instance, wait_for

LOOP_SECONDS = 0.5
"""A loop of a second finds a sensor due every other time only, since its last tick was a moment less than one ago."""
CODE_SERVER_SECONDS = 60.0


def run(workspace: Path) -> None:
    """Until a signal ends it. Raises Outage when the code server does not answer, UsageError without an instance."""
    with open_instance() as instance:
        keep_connections(instance)
        servers = code_servers(workspace)
        wait_for(servers, CODE_SERVER_SECONDS)
        fail_abandoned_runs(instance, servers)
        _tell_prometheus()
        sensor.MIN_INTERVAL_LOOP_TIME = LOOP_SECONDS  # type: ignore[assignment]
        _loop(instance, workspace)


def _loop(instance: DagsterInstance, workspace: Path) -> None:
    """What `dagster-daemon run` does, over an instance that keeps its connections."""
    setup_interrupt_handlers()
    with (
        contextlib.suppress(KeyboardInterrupt),
        capture_interrupts(),
        daemon_controller_from_instance(
            instance,
            workspace_load_target=WorkspaceFileTarget([str(workspace)]),
            heartbeat_tolerance_seconds=DEFAULT_DAEMON_HEARTBEAT_TOLERANCE_SECONDS,
            log_level="warning",  # at its default level it writes two lines a second that say that nothing happened
        ) as controller,
    ):
        controller.check_daemon_loop()


def _tell_prometheus() -> None:
    config = settings.load()
    if config.daemon_metrics_port is not None:
        metrics.serve_daemon(metadata_store.connect(config.database_url), replicas.connect(config), config)
