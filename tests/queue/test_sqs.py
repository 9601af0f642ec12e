"""The same worker over SQS, as moto's server speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from moto.server import ThreadedMotoServer

from hls_pipeline.queue import broker
from hls_pipeline.uploads import State
from tests.queue.conftest import Installation, installed
from tests.services import World, package, wait_until


@pytest.fixture
def over_sqs(world_on_postgres: World, dagster_home: dict[str, str], tmp_path: Path) -> Iterator[Installation]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with installed(world_on_postgres, f"sqs://key:secret@{host}:{port}", dagster_home, tmp_path) as found:
            yield found
    finally:
        server.stop()


def test_packages_go_through_sqs_and_a_run_is_terminated_without_remote_control(
    over_sqs: Installation, request: pytest.FixtureRequest
) -> None:
    over_sqs.drop("v", package(request.node.name))
    (waiting,) = over_sqs.look()
    queues = broker.connect(over_sqs.settings)
    assert {state.name: state.ready for state in queues.states()} == {"ipfs": 0, "light": 1, "upkeep": 0, "dead": 0}
    over_sqs.start_worker(at="hold:publish")
    over_sqs.wait_until_held()
    assert over_sqs.instance.run_launcher.terminate(waiting)
    wait_until(lambda: over_sqs.status(waiting) is DagsterRunStatus.CANCELED, "the run to stop")
    over_sqs.release()
    over_sqs.look_until(lambda: over_sqs.state("v") is State.CLEARED, "the upload to be cleared", 120)
    over_sqs.assert_published_once("v")
