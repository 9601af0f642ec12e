"""The local stack as a process: what it promises to a person at a terminal and to whoever reads `stack.json`."""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from hls_pipeline import metadata_store, object_store, settings
from hls_pipeline.dagster_client import DagsterClient
from hls_pipeline.errors import ServiceError, UsageError
from hls_pipeline.local import dagster_home, probes, seaweed
from hls_pipeline.local.data_folder import settings_of
from tests import stack_fixture
from tests.stack_fixture import RunningStack, running_stack, wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack") / "data") as started:
        yield started


def everything_answers(stack: RunningStack) -> bool:
    addresses = stack.addresses
    return (
        probes.kubo_rpc_answers(addresses["ipfs_rpc"][0])
        and probes.gateway_answers(addresses["ipfs_gateway"])
        and probes.webserver_answers(addresses["dagster"])
        and seaweed.buckets_are_ready(settings_of(settings.Settings(data=stack.data)))
    )


def test_when_stack_json_is_there_every_part_answers(stack: RunningStack) -> None:
    assert everything_answers(stack)
    assert probes.daemons_beat(stack.addresses["dagster"], since=time.time() - 120)
    metadata_store.connect(stack.addresses["database"]).ping()


def test_stack_json_names_what_other_programs_rely_on_and_is_its_owners_alone(stack: RunningStack) -> None:
    assert set(stack.addresses) >= {
        *("s3", "s3_access_key", "s3_secret_key", "buckets", "ipfs_rpc", "ipfs_gateway", "dagster", "database")
    }
    assert stack.addresses["buckets"] == {"inbox": "inbox", "media": "media"}
    for path in (stack.data / "stack.json", stack.data / "identity.json", stack.data / "metadata.sqlite"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(stack.data.stat().st_mode) == 0o700


def test_no_part_listens_anywhere_but_on_loopback(stack: RunningStack) -> None:
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")  # IPv4 as gRPC's two-family sockets show it (RFC 4291, 2.5.5.2)
        for pid in stack.processes()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_s3_and_the_servers_behind_it_refuse_a_stranger(stack: RunningStack) -> None:
    ports = json.loads((stack.data / "ports.json").read_text())
    for address in (f"{ports['s3']}/inbox/?list-type=2", f"{ports['filer']}/buckets/inbox/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{address}", timeout=60)
        assert refused.value.code in (401, 403), address


def test_a_second_stack_on_the_same_data_is_refused_and_told_who_holds_it(stack: RunningStack) -> None:
    second = stack_fixture.start(stack.data.with_name("data"))
    assert second.process.wait(60) == UsageError.exit_code
    assert f"already running on {stack.data} (process {stack.process.pid})" in second.said()
    assert everything_answers(stack)


def test_the_doctor_finds_a_running_stack_in_good_health_and_leaves_nothing_behind(stack: RunningStack) -> None:
    answer = hls_pipeline("doctor", "--json", "--data", str(stack.data))
    assert answer.returncode == 0, answer.stdout
    checks = {check["service"]: check for check in json.loads(answer.stdout)["checks"]}
    assert {"S3 bucket inbox", "S3 bucket media", "metadata store", "Dagster", "free disk"} < set(checks)
    assert all(check["ok"] for check in checks.values())
    client = object_store.client(settings_of(settings.Settings(data=stack.data)))
    for bucket in ("inbox", "media"):
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
        assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_the_doctor_says_which_service_is_missing_and_what_to_do(stack: RunningStack, tmp_path: Path) -> None:
    wrong = {
        "HLS_DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite",
        "HLS_S3_ENDPOINT": stack.addresses["ipfs_gateway"],
        "HLS_S3_ACCESS_KEY": "a",
        "HLS_S3_SECRET_KEY": "b",
        "HLS_IPFS_RPC_URLS": json.dumps([stack.addresses["s3"]]),
        "HLS_IPFS_GATEWAY_URLS": json.dumps(["http://127.0.0.1:9"]),
    }
    answer = hls_pipeline("doctor", "--json", environment=wrong)
    assert answer.returncode == 3
    checks = json.loads(answer.stdout)["checks"]
    assert [check["service"] for check in checks if check["ok"]] == ["package rules", "IPFS configuration"]
    assert all(check["detail"] and check["advice"] for check in checks if not check["ok"])
    assert "Traceback" not in answer.stderr


def test_without_any_stack_the_doctor_says_how_to_start_one(tmp_path: Path) -> None:
    answer = hls_pipeline("doctor", "--data", str(tmp_path))
    assert answer.returncode == 3
    assert "hls-pipeline up" in answer.stdout


def hls_pipeline(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hls_pipeline.cli", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", ["s3", "ipfs", "code-server", "dagster", "daemon"])
def test_a_part_that_is_killed_is_restarted_with_a_message(stack: RunningStack, name: str) -> None:
    killed, moment, before = stack.part(name), time.time(), len(stack.said())
    killed.kill()
    stack.wait_until_said(f"was ended by SIGKILL; starting it again (its log: {stack.data}/logs/{name}.log)")
    stack.wait_until_said(" is back after ", after=before)
    wait_until(lambda: everything_answers(stack), 60, lambda: f"all parts:\n{stack.said()}")
    assert stack.part(name).pid != killed.pid
    if name in ("code-server", "daemon"):
        beats = functools.partial(probes.daemons_beat, stack.addresses["dagster"], moment)
        wait_until(beats, 60, lambda: f"the daemon's first beat:\n{stack.said()}")
    if name == "code-server":
        wait_until(lambda: repositories(stack) == ["hls_pipeline"], 60, lambda: "the UI to know the new code server")


def repositories(stack: RunningStack) -> list[str]:
    """The code locations that the Dagster UI has loaded."""
    query = "{repositoriesOrError {... on RepositoryConnection {nodes {location {name}}}}}"
    nodes = DagsterClient(stack.addresses["dagster"]).ask(query)["repositoriesOrError"].get("nodes", [])
    return [node["location"]["name"] for node in nodes]


def test_a_stack_that_is_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    starting = stack_fixture.start(tmp_path / "data")
    starting.wait_until_said("S3 (SeaweedFS)")
    stack_fixture.stop(starting)
    assert starting.process.returncode == 0


def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "metadata.sqlite").write_text("this was overwritten by an accident, " * 100)
    broken = stack_fixture.start(data)
    assert broken.process.wait(120) == ServiceError.exit_code
    assert "databases (SQLite) did not start" in broken.said()
    assert "file is not a database" in broken.said()
    assert broken.processes() == []


def test_after_kill_9_the_next_up_ends_what_was_left_and_carries_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_stack(data, {"HLS_LOCAL_IPFS": "embedded"}) as first:
        addresses = first.addresses
        object_store.connect(settings_of(settings.Settings(data=data))).put("inbox", "v/_READY", b"", "text/plain")
        with dagster_instance(data) as instance:
            lost = create_run_for_test(instance, job_name="ingest", status=DagsterRunStatus.STARTED).run_id
        children = first.processes()
        first.process.kill()
        first.process.wait()
        second = stack_fixture.start(data, {"HLS_LOCAL_IPFS": "embedded"})
        stack_fixture.wait_until_ready(second)
        assert not set(children) & set(second.processes())
        assert second.addresses == addresses, "ports and credentials are kept"
        assert object_store.connect(settings_of(settings.Settings(data=data))).head("inbox", "v/_READY").size == 0
        with dagster_instance(data) as instance:
            assert instance.get_run_by_id(lost).status is DagsterRunStatus.FAILURE
        stack_fixture.stop(second)


@contextmanager
def dagster_instance(data: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.from_config(str(dagster_home.path(data))) as instance:
        yield instance
