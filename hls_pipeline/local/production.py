"""`hls-pipeline up --production`: the stack of `stack.py` with production's services in place of the embedded ones.

PostgreSQL, RabbitMQ, two IPFS nodes that must both hold the content, and two workers, all private to the data folder
and on loopback. Dagster reads the project's own `dagster.yaml` and `workspace.yaml`, as an installation does.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, ClassVar

from hls_pipeline.local import dagster_home, postgres, probes, rabbitmq
from hls_pipeline.local.narrator import ConsoleNarrator
from hls_pipeline.local.stack import Stack, role
from hls_pipeline.local.supervisor import Part

WORKERS = ("worker-1", "worker-2")
METADATA, DAGSTER = "hls", "dagster"
"""The databases."""

_PROJECT = Path(__file__).resolve().parents[2]
_WORKER_STOP_SECONDS = 3  # less than the supervisor waits


class ProductionStack(Stack):
    PORTS: ClassVar[tuple[str, ...]] = (
        *(*Stack.PORTS, "ipfs_rpc-2", "ipfs_gateway-2"),
        *("postgres", *rabbitmq.PORTS, *WORKERS),
    )

    def parts(self, narrator: ConsoleNarrator) -> tuple[Part, ...]:
        dagster_home.link(self.dagster_home, _PROJECT)
        return (
            self.database_server(),
            self.message_broker(),
            self.s3(),
            self.ipfs(narrator),
            self.ipfs(narrator, "-2"),
            self.databases("databases (PostgreSQL)", "postgres"),
            self.code_server("databases"),
            self.web_app("databases"),
            self.gateway(),
            self.daemon(),
            *map(self.worker, WORKERS),
        )

    @property
    def database(self) -> str:
        return self._postgres.url(METADATA)

    @property
    def broker(self) -> str:
        return rabbitmq.url(self.ports["amqp"], self.identity.password("rabbitmq"))

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "HLS_BROKER_URL": self.broker,
            "HLS_IPFS_QUORUM": str(len(self.ipfs_rpcs)),
            "HLS_WORKER_STOP_SECONDS": str(_WORKER_STOP_SECONDS),
            "HLS_CODE_SERVER_HOST": "127.0.0.1",
            "HLS_CODE_SERVER_PORT": str(self.ports["code_server"]),
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.ports["postgres"]),
            "DAGSTER_PG_USER": postgres.USER,
            "DAGSTER_PG_PASSWORD": self._postgres.password,
            "DAGSTER_PG_DB": DAGSTER,
        }

    def description(self) -> dict[str, Any]:
        return super().description() | {"broker": self.broker, "ipfs_quorum": len(self.ipfs_rpcs)}

    # ---- what the parts are -------------------------------------------------------------------------------------

    def database_server(self) -> Part:
        return Part(
            name="postgres",
            title="PostgreSQL",
            command=postgres.command(self.folder.path / "postgres", self._postgres.port),
            environment={postgres.PASSWORD: self._postgres.password},
            answers=lambda _: self._postgres.answers(),
            stop=signal.SIGINT,  # at once; SIGTERM waits for every client to leave
        )

    def message_broker(self) -> Part:
        folder = self.folder.path / "rabbitmq"
        rabbitmq.prepare(folder, self.ports["amqp"], self.identity.password("rabbitmq"))
        return Part(
            name="rabbitmq",
            title="RabbitMQ",
            command=(rabbitmq.program(),),
            environment=rabbitmq.environment(folder, self.ports),
            folder=folder,
            answers=lambda _: probes.listens(self.ports["amqp"]) and rabbitmq.answers(self.broker),
        )

    def worker(self, name: str) -> Part:
        return Part(
            name=name,
            title=name.replace("-", " "),
            command=role("worker", "--health-port", str(self.ports[name])),
            answers=lambda _: probes.is_healthy(self.url(name)),
            needs=("s3", "rabbitmq", "databases"),
        )

    @property
    def _postgres(self) -> postgres.Server:
        return postgres.Server(self.ports["postgres"], self.identity.password("postgres"))
