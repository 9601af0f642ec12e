"""RabbitMQ, PostgreSQL, S3 and IPFS for the queue's tests, and the processes of an installation on top of them.

`Installation` is what an operator has: it drops packages, lets the sensors look once as the daemon does each second,
and starts workers as processes of their own, which the tests kill, freeze and stop. Services are shared by all tests;
each test has its own databases and its own virtual host.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.definitions.reconstruct import ReconstructableRepository
from pydantic import SecretStr

from hls_pipeline import clock
from hls_pipeline.definitions import defs
from hls_pipeline.local import processes, rabbitmq
from hls_pipeline.queue import leases
from hls_pipeline.queue.instance import keep_connections
from hls_pipeline.sensors.cleanup import cleanup
from hls_pipeline.sensors.inbox import inbox
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import State
from tests.services import Files, Postgres, World, free_ports, wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class RabbitServer:
    """A node of ours that can be killed and started again over the same files."""

    folder: Path
    ports: dict[str, int]
    password: str = field(repr=False)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return rabbitmq.url(self.ports["amqp"], self.password)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **rabbitmq.environment(self.folder / "node", self.ports), processes.MARK: self.password}

    def start(self) -> None:
        log = self.folder / "log"
        self._process = processes.start((rabbitmq.program(),), self.environment, self.folder, log)
        wait_until(lambda: rabbitmq.answers(self.url), f"RabbitMQ; see {log}", 120)

    def kill(self) -> None:
        if self._process is not None:
            processes.signal_group(self._process, signal.SIGKILL)
            self._process.wait()

    def cut_connections(self) -> None:
        """All at once, from the server's side; they may come back at once."""
        command = (rabbitmq.program().replace("rabbitmq-server", "rabbitmqctl"), "close_all_connections", "test")
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running_rabbitmq(folder: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(
        folder, dict(zip(rabbitmq.PORTS, free_ports(len(rabbitmq.PORTS)), strict=True)), secrets.token_hex(16)
    )
    rabbitmq.prepare(folder / "node", server.ports["amqp"], server.password)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        processes.end_all(server.password, 0)  # Erlang's port mapper leaves the group of who started it


@dataclass
class Installation:
    world: World
    instance: DagsterInstance
    folder: Path
    environment: dict[str, str]
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.world.settings

    # what a creator does

    def drop(self, video_id: str, files: Files) -> None:
        self.world.put(video_id, files)
        self.world.mark(video_id)

    # what the daemon does

    def look(self) -> list[str]:
        """Both sensors look once, and what they ask for is launched; the ids of the runs."""
        return [run_id for sensor, job in ((inbox, "ingest"), (cleanup, "clear")) for run_id in self._tick(sensor, job)]

    def _tick(self, sensor: dg.SensorDefinition, job: str) -> Iterator[str]:
        definitions = defs()
        resources = {name: (definitions.resources or {})[name] for name in sensor.required_resource_keys}
        with dg.build_sensor_context(instance=self.instance, definitions=definitions) as context:
            found = sensor(context, **resources)
        if isinstance(found, dg.SkipReason):
            return
        assert isinstance(found, dg.SensorResult)
        for request in found.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        for request in found.run_requests or ():
            yield self.launch(job, request.partition_key, {**request.tags, "dagster/sensor_name": sensor.name})

    def launch(self, job: str, video_id: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        about = {"dagster/partition": video_id} if video_id else {}
        repository = ReconstructableRepository.for_module("hls_pipeline.definitions", "defs", str(ROOT))
        definition = defs().resolve_job_def(job)
        run = self.instance.create_run_for_job(
            definition,
            tags={**definition.run_tags, **(tags or {}), **about},
            job_code_origin=repository.get_reconstructable_job(job).get_python_origin(),
        )
        self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
        return run.run_id

    def look_until(self, true: Any, what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{self.log()}"
            self.look()
            time.sleep(0.2)

    # workers

    def start_worker(self, *options: str, at: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """A worker that takes runs; `at` names a point of a step where it does what the test says."""
        if at.startswith("hold"):
            (self.folder / "hold").touch()
        module = "tests.queue.pausing_worker" if at else "hls_pipeline.cli"
        number = len(self._processes)
        with self.log_file(number).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, "worker", *options],
                env={
                    **self.environment,
                    **environment,
                    "PAUSING_WORKER_AT": at,
                    "PAUSING_WORKER_FOLDER": str(self.folder),
                },
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        wait_until(lambda: self._ready(number), f"worker {number}", 90)
        return process

    def _ready(self, number: int) -> bool:
        assert self._processes[number].poll() is None, self.log_file(number).read_text()
        return " ready." in self.log_file(number).read_text()

    def wait_until_held(self) -> None:
        wait_until((self.folder / "held").exists, f"a step to be held:\n{self.log()}")

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def log_file(self, number: int) -> Path:
        return self.folder / f"worker-{number}.log"

    def log(self) -> str:
        return "\n".join(self.log_file(number).read_text()[-6000:] for number in range(len(self._processes)))

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.world.store._engine.dispose()

    # what is there

    def runs(self, *statuses: DagsterRunStatus) -> Sequence[DagsterRun]:
        return self.instance.get_runs(RunsFilter(statuses=list(statuses) or None))

    def ended_runs(self) -> Sequence[DagsterRun]:
        """All runs, once none is under way: an upload is in its last state a moment before the run that put it there
        has ended."""
        wait_until(lambda: all(run.is_finished for run in self.runs()), "all runs to end")
        return self.runs()

    def state(self, video_id: str) -> State | None:
        upload = self.world.store.latest_upload(video_id)
        return upload and upload.state

    def make_due(self, video_id: str) -> None:
        """What was asked for is asked for again now, not in half a minute."""
        (upload,) = self.world.store.uploads_of(video_id)
        leases.wait(self.world.store, [upload.upload_id], clock.now())

    def assert_published_once(self, video_id: str) -> None:
        statuses = [json.loads(version.document)["status"] for version in self.world.store.versions(video_id)]
        assert statuses == ["processing", "ready"]
        (upload,) = self.world.store.uploads_of(video_id)
        for file in self.world.store.inventory(upload.upload_id):
            assert len(self.world.from_gateway(f"{upload.root}/{file.path}")) == file.size

    def status(self, run_id: str) -> DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def dagster_template(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with Dagster's tables, to be copied."""
    home = tmp_path_factory.mktemp("dagster")
    with postgres.new_database("template0") as url, pytest.MonkeyPatch.context() as patch:
        for name, value in dagster_variables(postgres, url, home).items():
            patch.setenv(name, value)
        with DagsterInstance.get():
            pass
        yield url.rpartition("/")[2]


def dagster_variables(postgres: Postgres, url: str, home: Path) -> dict[str, str]:
    shutil.copy(ROOT / "dagster.yaml", home / "dagster.yaml")
    return {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(postgres.port),
        "DAGSTER_PG_USER": "hls",
        "DAGSTER_PG_PASSWORD": postgres.password,
        "DAGSTER_PG_DB": url.rpartition("/")[2],
    }


@pytest.fixture
def installation(
    world_on_postgres: World, rabbit: RabbitServer, dagster_home: dict[str, str], tmp_path: Path
) -> Iterator[Installation]:
    """Over RabbitMQ, ready to take packages, without a worker."""
    with installed(world_on_postgres, rabbit.url, dagster_home, tmp_path) as found:
        yield found


@pytest.fixture
def dagster_home(postgres: Postgres, dagster_template: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a new Dagster instance as `dagster.yaml` describes it."""
    home = tmp_path / "dagster"
    home.mkdir()
    with postgres.new_database(dagster_template) as url:
        yield dagster_variables(postgres, url, home)


@contextmanager
def installed(world: World, broker_url: str, dagster_home: dict[str, str], folder: Path) -> Iterator[Installation]:
    world = world.having(
        broker_url=SecretStr(broker_url), queue_prefix=f"{secrets.token_hex(4)}-", lease_seconds=2.0, retry_seconds=0.2
    )
    variables = dagster_home | as_variables(world.settings)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with DagsterInstance.get() as instance:
            keep_connections(instance)
            found = Installation(world, instance, folder, {**os.environ, **variables})
            try:
                yield found
            finally:
                found.stop()


def as_variables(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a process that is to have them."""

    def text(value: Any) -> str:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return json.dumps(value) if isinstance(value, tuple) else str(value)

    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {f"HLS_{name.upper()}": text(value) for name, value in given.items() if value is not None}
