"""`hls-pipeline up`: the parts of the local stack, as one list, and what the rest of the world is told about them.

To add a part, add a value to `parts`: what it needs first, how it is started, how one sees that it answers. Parts are
configured by environment alone (`HLS_…`, see `settings.py`), exactly as in production; the stack with production's
services is in `production.py`. How parts are kept alive is in `supervisor.py`, what is remembered between starts in
`data_folder.py`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr
from rich.console import Console

from hls_pipeline.dagster_client import LOCATION
from hls_pipeline.local import dagster_home, ipfs, probes, processes, seaweed
from hls_pipeline.local.data_folder import DataFolder, Identity, write_private
from hls_pipeline.local.narrator import ConsoleNarrator
from hls_pipeline.local.supervisor import Part, Supervisor
from hls_pipeline.settings import Settings

_LEFTOVER_SECONDS = 3.0  # what is left of a killed stack has this long to end by itself


@dataclass(frozen=True)
class Stack:
    """The addresses of one stack, and from them everything its parts and its users must know."""

    settings: Settings
    folder: DataFolder
    identity: Identity
    ports: dict[str, int]

    PORTS: ClassVar[tuple[str, ...]] = (
        *seaweed.PORTS,
        "ipfs_rpc",
        "ipfs_gateway",
        "code_server",
        "dagster",
        "gateway",
    )

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder.path / 'metadata.sqlite'}"

    @property
    def dagster_home(self) -> Path:
        return dagster_home.path(self.folder.path)

    @property
    def workspace(self) -> Path:
        return self.dagster_home / "workspace.yaml"

    def parts(self, narrator: ConsoleNarrator) -> tuple[Part, ...]:
        dagster_home.write(self.dagster_home, self.ports["code_server"])
        tables = () if dagster_home.has_tables(self.dagster_home) else ("databases",)
        return (
            self.s3(),
            self.ipfs(narrator),
            self.databases("databases (SQLite)"),
            self.code_server(*tables),
            self.web_app(*tables),
            self.gateway(),
            self.daemon(follows=("code-server",)),  # its runs die with it; the daemon counts them as failed
        )

    def environment(self) -> dict[str, str]:
        """What every part gets. Dagster starts in a third of the time when Python may keep its byte code."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {
            processes.MARK: self.identity.stack_id,
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONUNBUFFERED": "1",
            "HLS_UI_KEY": "",  # it listens on loopback alone
            "HLS_DATA": str(self.folder.path),
            "HLS_DATABASE_URL": self.database,
            "HLS_S3_ENDPOINT": self.url("s3"),
            "HLS_S3_ACCESS_KEY": self.identity.s3_access_key,
            "HLS_S3_SECRET_KEY": self.identity.s3_secret_key,
            "HLS_IPFS_RPC_URLS": json.dumps(self.ipfs_rpcs),
            "HLS_IPFS_GATEWAY_URLS": json.dumps(self.ipfs_gateways),
            "HLS_GATEWAY_URL": self.url("gateway"),
            "HLS_DAGSTER_URL": self.url("dagster"),
        }

    def description(self) -> dict[str, Any]:
        """`stack.json`."""
        return {
            "gateway": self.url("gateway"),
            "api_key": self.folder.api_key_file.read_text().strip(),
            "s3": self.url("s3"),
            "s3_access_key": self.identity.s3_access_key,
            "s3_secret_key": self.identity.s3_secret_key,
            "buckets": {"inbox": self.settings.s3_inbox, "media": self.settings.s3_media},
            "ipfs_rpc": self.ipfs_rpcs,
            "ipfs_gateway": self.ipfs_gateways[0],
            "ipfs_gateways": self.ipfs_gateways,
            "ipfs_quorum": self.settings.ipfs_quorum,
            "dagster": self.url("dagster"),
            "database": self.database,
            "broker": None,
        }

    # ---- what the parts are -------------------------------------------------------------------------------------

    def s3(self) -> Part:
        folder, reached = self.folder.path / "s3", self._client_settings
        seaweed.prepare(folder, self.identity.s3_internal_key)
        return Part(
            name="s3",
            title="S3 (SeaweedFS)",
            command=seaweed.command(folder, self.ports, (reached.s3_inbox, reached.s3_media)),
            environment=seaweed.environment(self.identity.s3_access_key, self.identity.s3_secret_key),
            folder=folder,
            answers=lambda _: probes.listens(self.ports["s3"]) and seaweed.buckets_are_ready(reached),
            address=self.url("s3"),
        )

    def ipfs(self, narrator: ConsoleNarrator, suffix: str = "") -> Part:
        """`suffix` tells further nodes from the first."""
        rpc, gateway = "ipfs_rpc" + suffix, "ipfs_gateway" + suffix
        folder = self.folder.path / f"ipfs{suffix}"
        node = ipfs.choose(self.settings, folder, self._address(rpc), self._address(gateway))
        narrator.say(f"{node.title}: {node.reason}")
        return Part(
            name=f"ipfs{suffix}",
            title=node.title,
            command=node.command,
            environment=node.environment,
            answers=lambda _: probes.kubo_rpc_answers(self.url(rpc)) and probes.gateway_answers(self.url(gateway)),
            address=self.url(gateway),
        )

    def databases(self, title: str, *needs: str) -> Part:
        return Part(
            name="databases",
            title=title,
            command=_python("hls_pipeline.local.databases"),
            answers=lambda _: True,
            needs=needs,
            once=True,
        )

    def code_server(self, *needs: str) -> Part:
        port = self.ports["code_server"]
        return Part(
            name="code-server",
            title="Dagster code server",
            command=role("code-server", "--port", str(port), "--location", LOCATION),
            answers=lambda _: probes.listens(port),
            needs=needs,
        )

    def web_app(self, *needs: str) -> Part:
        return Part(
            name="dagster",
            title="Dagster UI",
            command=role("ui", "--port", str(self.ports["dagster"]), "--workspace", str(self.workspace)),
            answers=lambda _: probes.webserver_answers(self.url("dagster")),
            needs=needs,
            address=self.url("dagster"),
        )

    def gateway(self) -> Part:
        return Part(
            name="gateway",
            title="gateway and pages",
            command=_python("hls_pipeline.local.gateway", str(self.ports["gateway"])),
            answers=lambda _: probes.is_healthy(self.url("gateway")),
            needs=("databases",),
            address=self.url("gateway"),
        )

    def daemon(self, follows: tuple[str, ...] = ()) -> Part:
        return Part(
            name="daemon",
            title="Dagster daemon (watches the inbox)",
            command=role("daemon", "--workspace", str(self.workspace)),
            answers=lambda started: probes.daemons_beat(self.url("dagster"), started),
            needs=("s3", "databases"),
            follows=follows,
        )

    @property
    def ipfs_rpcs(self) -> list[str]:
        return [self.url(port) for port in self.PORTS if port.startswith("ipfs_rpc")]

    @property
    def ipfs_gateways(self) -> list[str]:
        return [self.url(port) for port in self.PORTS if port.startswith("ipfs_gateway")]

    def _address(self, port: str) -> str:
        return f"127.0.0.1:{self.ports[port]}"

    @cached_property
    def _client_settings(self) -> Settings:
        return self.settings.model_copy(
            update={
                "s3_endpoint": self.url("s3"),
                "s3_access_key": self.identity.s3_access_key,
                "s3_secret_key": SecretStr(self.identity.s3_secret_key),
            }
        )


def up(settings: Settings, console: Console, kind: type[Stack] = Stack) -> None:
    """Run the stack in `settings.data` until SIGINT, SIGTERM or SIGHUP.

    Raises UsageError when another one runs there, Outage when a part does not start. Nothing is left running.
    """
    os.umask(0o077)  # what the parts write is for their owner alone
    folder = DataFolder(settings.data.absolute())
    narrator = ConsoleNarrator(console)
    with folder.locked():
        folder.stack_file.unlink(missing_ok=True)
        identity = folder.identity()
        ended = processes.end_all(identity.stack_id, _LEFTOVER_SECONDS)
        if ended:
            narrator.say(f"the last stack here was killed; ended {ended} processes it left, its work goes on now")
        with folder.ports(kind.PORTS, seaweed.COMPANIONS) as ports:
            _run(kind(settings, folder, identity, ports), narrator)


def _run(stack: Stack, narrator: ConsoleNarrator) -> None:
    folder = stack.folder

    def announce() -> None:
        write_private(folder.stack_file, stack.description())
        narrator.say(f"ready; addresses and keys are in {folder.stack_file}, Ctrl-C stops everything")

    try:
        Supervisor(stack.parts(narrator), folder.path, stack.environment(), narrator).run(announce)
    finally:
        folder.stack_file.unlink(missing_ok=True)
        narrator.quiet()
        processes.end_all(stack.identity.stack_id, 0)


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def role(*arguments: str) -> tuple[str, ...]:
    """The command line of one role of an installation."""
    return _python("hls_pipeline.cli", *arguments)
