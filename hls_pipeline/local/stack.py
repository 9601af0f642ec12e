"""`hls-pipeline up`: the parts of the local stack, as one list, and what the rest of the world is told about them.

To add a part, add a value to `parts`: what it needs first, how it is started, how one sees that it answers. Parts are
configured by environment alone (`HLS_…`, see `settings.py`), exactly as in production. How parts are kept alive is in
`supervisor.py`, what is remembered between starts in `data_folder.py`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from hls_pipeline.local import dagster_home, ipfs, probes, processes, seaweed
from hls_pipeline.local.data_folder import DataFolder, Identity, write_private
from hls_pipeline.local.narrator import ConsoleNarrator
from hls_pipeline.local.supervisor import Part, Supervisor
from hls_pipeline.settings import Settings

PORTS = (*seaweed.PORTS, "ipfs_rpc", "ipfs_gateway", "code_server", "dagster", "gateway")

_LEFTOVER_SECONDS = 3.0  # what is left of a killed stack has this long to end by itself


def up(settings: Settings, console: Console) -> None:
    """Run the local stack in `settings.data` until SIGINT, SIGTERM or SIGHUP.

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
        stack = Stack(settings, folder, identity, folder.ports(PORTS, seaweed.COMPANIONS))

        def announce() -> None:
            write_private(folder.stack_file, stack.description())
            narrator.say(f"ready; addresses and keys are in {folder.stack_file}, Ctrl-C stops everything")

        try:
            Supervisor(stack.parts(narrator), folder.path, stack.environment(), narrator).run(announce)
        finally:
            folder.stack_file.unlink(missing_ok=True)
            narrator.quiet()
            processes.end_all(identity.stack_id, 0)


@dataclass(frozen=True)
class Stack:
    """The addresses of one stack, and from them everything its parts and its users must know."""

    settings: Settings
    folder: DataFolder
    identity: Identity
    ports: dict[str, int]

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder.path / 'metadata.sqlite'}"

    @property
    def dagster_home(self) -> Path:
        return dagster_home.path(self.folder.path)

    def parts(self, narrator: ConsoleNarrator) -> tuple[Part, ...]:
        weed_folder = self.folder.path / "s3"
        seaweed.prepare(weed_folder, self.identity.s3_internal_key)
        node = ipfs.choose(self.settings, self.folder.path / "ipfs", *map(self._address, ("ipfs_rpc", "ipfs_gateway")))
        narrator.say(f"{node.title}: {node.reason}")
        workspace = str(dagster_home.write(self.dagster_home, self.ports["code_server"]))
        tables = () if dagster_home.has_tables(self.dagster_home) else ("databases",)
        s3 = self._client_settings()
        return (
            Part(
                name="s3",
                title="S3 (SeaweedFS)",
                command=seaweed.command(weed_folder, self.ports, (s3.s3_inbox, s3.s3_media)),
                environment=seaweed.environment(self.identity.s3_access_key, self.identity.s3_secret_key),
                folder=weed_folder,
                answers=lambda _: probes.listens(self.ports["s3"]) and seaweed.has_buckets(s3),
                address=self.url("s3"),
            ),
            Part(
                name="ipfs",
                title=node.title,
                command=node.command,
                environment=node.environment,
                answers=lambda _: (
                    probes.kubo_rpc_answers(self.url("ipfs_rpc")) and probes.gateway_answers(self.url("ipfs_gateway"))
                ),
                address=self.url("ipfs_gateway"),
            ),
            Part(
                name="databases",
                title="databases (SQLite)",
                command=_python("hls_pipeline.local.databases"),
                answers=lambda _: True,
                once=True,
            ),
            Part(
                name="code-server",
                title="Dagster code server",
                command=_python(
                    *("hls_pipeline.cli", "code-server", "--port", str(self.ports["code_server"])),
                    *("--location", dagster_home.LOCATION),
                ),
                answers=lambda _: probes.listens(self.ports["code_server"]),
                needs=tables,
            ),
            Part(
                name="dagster",
                title="Dagster UI",
                command=_python(
                    "hls_pipeline.cli", "ui", "--port", str(self.ports["dagster"]), "--workspace", workspace
                ),
                answers=lambda _: probes.webserver_answers(self.url("dagster")),
                needs=tables,
                address=self.url("dagster"),
            ),
            Part(
                name="gateway",
                title="gateway and pages",
                command=_python("hls_pipeline.local.gateway", str(self.ports["gateway"])),
                answers=lambda _: probes.gateway_is_well(self.url("gateway")),
                needs=("databases",),
                address=self.url("gateway"),
            ),
            Part(
                name="daemon",
                title="Dagster daemon (watches the inbox)",
                command=_python("hls_pipeline.cli", "daemon", "--workspace", workspace),
                answers=lambda started: probes.daemons_beat(self.url("dagster"), started),
                needs=("s3", "databases"),
                follows=("code-server",),  # runs die with it; the daemon counts them as failed when it starts
            ),
        )

    def environment(self) -> dict[str, str]:
        """What every part gets. Dagster starts in a third of the time when Python may keep its byte code."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {
            processes.MARK: self.identity.stack_id,
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONUNBUFFERED": "1",
            "HLS_DATA": str(self.folder.path),
            "HLS_DATABASE_URL": self.database,
            "HLS_S3_ENDPOINT": self.url("s3"),
            "HLS_S3_ACCESS_KEY": self.identity.s3_access_key,
            "HLS_S3_SECRET_KEY": self.identity.s3_secret_key,
            "HLS_IPFS_RPC_URLS": json.dumps([self.url("ipfs_rpc")]),
            "HLS_IPFS_GATEWAY_URLS": json.dumps([self.url("ipfs_gateway")]),
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
            "ipfs_rpc": [self.url("ipfs_rpc")],
            "ipfs_gateway": self.url("ipfs_gateway"),
            "dagster": self.url("dagster"),
            "database": self.database,
        }

    def _address(self, port: str) -> str:
        return f"127.0.0.1:{self.ports[port]}"

    def _client_settings(self) -> Settings:
        return self.settings.model_copy(
            update={
                "s3_endpoint": self.url("s3"),
                "s3_access_key": self.identity.s3_access_key,
                "s3_secret_key": SecretStr(self.identity.s3_secret_key),
            }
        )


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)
