"""`hls-pipeline up --production`: PostgreSQL, RabbitMQ, two IPFS nodes and two workers, and packages under way while
each of its parts dies. Nothing may be lost and nothing done twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from hls_pipeline import replicas
from hls_pipeline.commands import doctor
from hls_pipeline.dagster_client import LOCATION
from hls_pipeline.uploads import State
from tests import services
from tests.e2e.conftest import Pipeline
from tests.stack_fixture import running_stack

ARRIVED = (State.PUBLISHED, State.CLEARED)
TOGETHER = (
    ("ipfs-2", "gateway"),
    ("worker-1", "worker-2"),
    ("postgres",),
    ("rabbitmq", "daemon", "code-server", "dagster"),
)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    environment = {"HLS_LOCAL_IPFS": "embedded", "HLS_LEASE_SECONDS": "4", "HLS_RETRY_SECONDS": "1"}
    with running_stack(tmp_path_factory.mktemp("production") / "data", environment, "--production") as stack:
        yield Pipeline(stack)


def test_five_packages_at_once_are_published_on_both_nodes(production: Pipeline) -> None:
    packages = {f"five-{n}": services.package(f"five {n}") for n in range(5)}
    for video_id, files in packages.items():
        production.put(video_id, files)
    for video_id in packages:
        production.mark(video_id)
    for video_id, files in packages.items():
        published_once(production, video_id, files)


@pytest.mark.timeout(400)
def test_whatever_is_killed_meanwhile_nothing_is_lost_or_done_twice(production: Pipeline) -> None:
    packages: dict[str, dict[str, bytes]] = {}
    for names in TOGETHER:
        both = {f"{names[0]}-dies-{n}": services.package(f"{names} {n}", segments=20) for n in range(2)}
        packages |= both
        for video_id, files in both.items():
            production.drop(video_id, files)
        services.wait_until(lambda both=both: any(begun(production, name) for name in both), "a run at work")
        kill(production, names)
    for video_id, files in packages.items():
        published_once(production, video_id, files)


def test_a_package_whose_gateway_is_killed_in_the_middle_of_it_is_sent_again(production: Pipeline) -> None:
    files = services.package("halfway")
    request = requests.Request(
        "POST",
        f"{production.stack.addresses['gateway']}/v1/videos?video_id=halfway",
        files=[("files", (path, data)) for path, data in files.items()],
        headers={"Authorization": f"Bearer {production.stack.addresses['api_key']}"},
    ).prepare()
    assert isinstance(request.body, bytes)
    with contextlib.closing(HTTPConnection(urlsplit(request.url).netloc)) as client:  # type: ignore[type-var]
        client.putrequest("POST", request.path_url)
        for name, value in request.headers.items():
            client.putheader(name, value)
        client.endheaders(request.body[: len(request.body) // 2])
        kill(production, ("gateway",))
    assert production.store.latest_upload("halfway") is None
    assert list(production.objects.listing("inbox", "halfway/")) == []
    assert requests.Session().send(request, timeout=60).status_code == 202
    published_once(production, "halfway", files)


def test_a_repin_whose_workers_are_killed_is_done_by_another_run(production: Pipeline) -> None:
    """It waited for the next night."""
    with frozen(production.stack.part("ipfs-2")):
        first = launch(production, "repin")
        services.wait_until(lambda: statuses(production, first)[first] == "STARTED", "it to be at work")
        kill(production, ("worker-1", "worker-2"))
    services.wait_until(lambda: "SUCCESS" in statuses(production, first).values(), "another to do it", 120)
    assert sorted(statuses(production, first).values()) == ["FAILURE", "SUCCESS"]


def test_a_run_that_waits_for_a_worker_is_terminated_from_the_ui(production: Pipeline) -> None:
    """Dagster said that it could not be, due to its status."""
    with contextlib.ExitStack() as stack:
        for worker in (production.stack.part("worker-1"), production.stack.part("worker-2")):
            for process in (worker, *worker.children()):
                stack.enter_context(frozen(process))
        waiting = launch(production, "report")
        assert statuses(production, waiting) == {waiting: "STARTING"}
        terminate = "mutation ($run: String!) {terminateRun(runId: $run) {__typename}}"
        assert production.graphql(terminate, run=waiting)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        assert statuses(production, waiting) == {waiting: "CANCELED"}


def test_nothing_listens_anywhere_but_on_loopback(production: Pipeline) -> None:
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in production.stack.processes()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}


def test_the_doctor_finds_every_service_in_good_health_afterwards(production: Pipeline) -> None:
    found = list(doctor.check_all(production.stack.data))
    assert [health for health in found if not health.ok] == []
    assert {"metadata store", "queue", "Dagster"} <= {health.service for health in found}
    assert len([health for health in found if health.service.endswith("gateway")]) == 2


def kill(pipeline: Pipeline, names: tuple[str, ...]) -> None:
    """All of them at once, with SIGKILL; returns when they are back."""
    said = len(pipeline.stack.said())
    for part in [pipeline.stack.part(name) for name in names]:
        part.kill()
    services.wait_until(lambda: pipeline.stack.said()[said:].count(" is back after ") >= len(names), f"{names}", 90)


def launch(pipeline: Pipeline, job: str) -> str:
    """By hand; the run's id."""
    launched = pipeline.graphql(
        "mutation ($job: JobOrPipelineSelector!) {launchRun(executionParams: {selector: $job, runConfigData: {}}) "
        "{... on LaunchRunSuccess {run {runId}}}}",
        job={"repositoryLocationName": LOCATION, "repositoryName": "__repository__", "jobName": job},
    )
    return str(launched["launchRun"]["run"]["runId"])


@contextlib.contextmanager
def frozen(part: psutil.Process) -> Iterator[None]:
    part.suspend()
    try:
        yield
    finally:
        part.resume()


def statuses(pipeline: Pipeline, run_id: str) -> dict[str, str]:
    """Of a run and of those that were started in its place."""
    group = "query ($run: ID!) {runGroupOrError(runId: $run) {... on RunGroup {runs {runId status}}}}"
    found = pipeline.graphql(group, run=run_id)["runGroupOrError"]["runs"]
    return {run["runId"]: run["status"] for run in found}


def begun(pipeline: Pipeline, video_id: str) -> bool:
    upload = pipeline.store.latest_upload(video_id)
    return upload is not None and upload.state is not State.RECEIVED


def published_once(pipeline: Pipeline, video_id: str, files: dict[str, bytes]) -> None:
    """One upload, one temporary and one final document, and every byte on both nodes."""
    upload = pipeline.wait(video_id, *ARRIVED)
    assert pipeline.store.uploads_of(video_id) == (upload,)
    versions = [json.loads(version.document) for version in pipeline.store.versions(video_id)]
    assert [version["status"] for version in versions] == ["processing", "ready"]
    document = pipeline.document(video_id)
    assert document["replicas"] == 2
    root = document["video_assets"]["ipfs_directory"].removeprefix("ipfs://")
    for node in replicas.connect(pipeline.settings):
        for path, data in services.published(files).items():
            assert b"".join(node.read(f"{root}/{path}")) == data
        assert len([pin for pin in node.pins() if str(pin.cid) == root]) == 1
