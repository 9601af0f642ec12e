"""`hls-pipeline daemon`: Dagster's daemon, with a sensor loop that looks every second instead of every five.

Exactly one runs per installation. The loop's pause is a constant inside Dagster that no setting reaches; a test holds
that it is still there. What the sensors do is in `sensors/`.
"""

from __future__ import annotations

from pathlib import Path

from dagster._daemon import cli, sensor

from hls_pipeline.queue.instance import code_servers, fail_abandoned_runs, open_instance, wait_for

LOOP_SECONDS = 1
CODE_SERVER_SECONDS = 60.0


def run(workspace: Path) -> None:
    """Until a signal ends it. Raises Outage when the code server does not answer, UsageError without an instance."""
    with open_instance() as instance:
        servers = code_servers(workspace)
        wait_for(servers, CODE_SERVER_SECONDS)
        fail_abandoned_runs(instance, servers)
    sensor.MIN_INTERVAL_LOOP_TIME = LOOP_SECONDS
    # At its default level the loop writes two lines a second that say that nothing happened.
    cli.cli(["run", "--workspace", str(workspace), "--log-level", "warning"], obj={})
