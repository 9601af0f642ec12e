"""PostgreSQL of the production stack after it was killed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hls_pipeline.local import postgres
from tests.services import free_ports, wait_until


def test_it_starts_again_while_nobody_has_collected_the_dead_process(tmp_path: Path) -> None:
    """As in a container whose first process collects none, or late: PostgreSQL took the dead one for alive."""
    (port,) = free_ports(1)
    environment = {**os.environ, postgres.PASSWORD: "secret"}
    server = postgres.Server(port, "secret")
    started = []
    try:
        for _ in range(2):
            with (tmp_path / "log").open("ab") as log:
                command = postgres.command(tmp_path / "data", port)
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            wait_until(server.answers, "PostgreSQL to answer")
            started[-1].kill()  # and not waited for
            wait_until(lambda: not server.answers(), "PostgreSQL to end")
    finally:
        for process in started:
            process.kill()
            process.wait()
