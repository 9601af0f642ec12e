"""What is in deploy/: its commands are commands of ours, its variables are variables that something reads."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from hls_pipeline.cli import app
from hls_pipeline.gateway import config
from hls_pipeline.gateway.config import GatewaySettings

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
ENVIRONMENT = DEPLOY / "production.env.example"
ROLES = {"gateway", "worker", "code-server", "daemon", "ui", "ipfs-node"}


def in_procfile() -> Iterator[str]:
    for line in (DEPLOY / "Procfile").read_text().splitlines():
        if not line.startswith("#"):
            yield line.partition(": ")[2].removeprefix("hls-pipeline ")


def in_units() -> Iterator[str]:
    for unit in (DEPLOY / "systemd").glob("*.service"):
        (command,) = re.findall(r"^ExecStart=/opt/hls-pipeline/.venv/bin/hls-pipeline (.*)$", unit.read_text(), re.M)
        yield command.replace("%i", "1")


def in_compose() -> Iterator[str]:
    for service in compose()["services"].values():
        if service.get("image") == "hls-pipeline":
            yield shlex.join(service["command"])


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def names(command: str) -> str:
    """The role that a command line starts. Fails for an option or argument that the role does not have."""
    name, *arguments = shlex.split(command)
    role = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    _, left, _ = role.make_parser(click.Context(role)).parse_args(arguments)
    assert left == [], command
    return name


@pytest.mark.parametrize("found", [in_procfile, in_units, in_compose])
def test_every_role_is_started_with_options_that_it_has(found: Any) -> None:
    assert {names(command) for command in found()} - {"setup"} >= ROLES - {"ipfs-node"}


def as_a_shell_reads_it() -> dict[str, str]:
    script = f"set -a; . {shlex.quote(str(ENVIRONMENT))}; env -0"
    done = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_the_example_environment_is_one_that_every_role_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in as_a_shell_reads_it().items():
        monkeypatch.setenv(name, value)
    found = config.load()
    assert found.s3_grace_seconds == 86400 >= found.presign_seconds
    assert (len(found.ipfs_rpc_urls), len(found.ipfs_gateway_urls), found.ipfs_quorum) == (2, 2, 2)
    assert found.play == "redirect"


def test_every_variable_of_ours_exists_and_is_explained_above_it() -> None:
    text = ENVIRONMENT.read_text()
    settings = {f"HLS_{name.upper()}" for name in GatewaySettings.model_fields}
    of_workspace = {"HLS_CODE_SERVER_HOST", "HLS_CODE_SERVER_PORT"}
    used = {*re.findall(r"^(HLS_\w+)=", text, re.M), *(n for n in compose()["x-environment"] if n.startswith("HLS_"))}
    assert used - settings - of_workspace == set()
    for above, line in itertools.pairwise(text.splitlines()):
        if re.match(r"\w+=", line):
            assert re.match(r"# \w|\w+=", above), line


def test_the_example_names_all_that_the_dagster_files_want() -> None:
    wanted = {
        name
        for file in ("dagster.yaml", "workspace.yaml")
        for name in re.findall(r"\{env: (\w+)\}", (PROJECT / file).read_text())
    }
    assert len(wanted) >= 7
    assert wanted <= set(as_a_shell_reads_it())
    assert wanted <= set(compose()["x-environment"])


def test_dagsters_chart_is_told_the_same_launcher_and_coordinator_as_our_own_instance() -> None:
    """A backfill there would have filled the workers, and creators' packages would have waited behind all of it."""
    ours = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    values = yaml.safe_load((DEPLOY / "dagster-helm-values.yaml").read_text())
    coordinator = values["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]
    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    assert coordinator == ours["run_coordinator"]
    assert launcher == {"config": {}, **ours["run_launcher"]}
