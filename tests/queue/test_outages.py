"""RabbitMQ away, killed, cut off: uploads wait and go on by themselves, no try is used up, nobody is paged."""

from __future__ import annotations

import json

import pytest
from dagster import DagsterRunStatus
from typer.testing import CliRunner

from hls_pipeline.cli import app
from hls_pipeline.queue import broker
from hls_pipeline.uploads import State
from tests.queue.conftest import Installation, RabbitServer
from tests.services import package, wait_until


def test_rabbitmq_killed_with_messages_queued_and_at_work_loses_nothing(
    installation: Installation, rabbit: RabbitServer, request: pytest.FixtureRequest
) -> None:
    world = installation.world
    installation.start_worker(at="hold:publish", HLS_LEASE_SECONDS="20")
    for video_id in ("working", "queued"):
        installation.drop(video_id, package(request.node.name + video_id))
    installation.look()
    installation.wait_until_held()
    installation.drop("arriving", package(request.node.name + "arriving"))
    rabbit.kill()
    assert installation.look() == []
    assert world.store.latest_upload("arriving") is not None
    launched = installation.launch("ingest", "arriving", {"dagster/sensor_name": "inbox"})
    assert installation.status(launched) is DagsterRunStatus.CANCELED
    rabbit.start()
    installation.release()
    installation.make_due("arriving")
    videos = ("working", "queued", "arriving")
    installation.look_until(
        lambda: all(installation.state(video_id) is State.CLEARED for video_id in videos), "all to be cleared", 180
    )
    for video_id in videos:
        installation.assert_published_once(video_id)
    assert DagsterRunStatus.FAILURE not in {run.status for run in installation.ended_runs()}
    assert not installation.runs(DagsterRunStatus.STARTED)


def test_a_run_goes_on_while_its_worker_has_lost_the_broker_and_another_gets_its_message(
    installation: Installation, rabbit: RabbitServer, request: pytest.FixtureRequest
) -> None:
    installation.start_worker(at="hold:publish", HLS_LEASE_SECONDS="20")
    installation.drop("v", package(request.node.name))
    (run,) = installation.look()
    installation.wait_until_held()
    installation.start_worker(HLS_LEASE_SECONDS="20")
    rabbit.cut_connections()
    wait_until(lambda: installation.log().count(f"execute_run[{run}] received") > 1, "the message to come again", 60)
    installation.release()
    installation.look_until(lambda: installation.state("v") is State.CLEARED, "the upload to be cleared", 120)
    assert len(installation.ended_runs()) == 2
    assert installation.status(run) is DagsterRunStatus.SUCCESS
    installation.assert_published_once("v")


def test_a_run_without_a_video_goes_on_too(installation: Installation) -> None:
    """A re-pin takes hours: it was taken for dead, and interrupted, when its message came once more."""
    installation.start_worker(at="hold:thin", HLS_LEASE_SECONDS="20")
    run = installation.launch("thin_history")
    installation.wait_until_held()
    installation.start_worker()
    for _ in range(2):  # the second is received when the first has been dealt with
        broker.send(installation.settings, run, broker.UPKEEP, looked=True)
    wait_until(lambda: installation.log().count(f"execute_run[{run}] received") > 2, "another to look at it", 60)
    assert installation.status(run) is DagsterRunStatus.STARTED
    installation.release()
    installation.ended_runs()
    assert installation.status(run) is DagsterRunStatus.SUCCESS


def test_an_upload_whose_message_is_gone_gets_another_run(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    installation.drop("v", package(request.node.name))
    (first,) = installation.look()
    installation.make_due("v")
    assert installation.look() == []
    with broker.celery_app(installation.settings).connection_for_write() as connection:
        connection.default_channel.queue_purge(broker.named(installation.settings, broker.LIGHT))
    installation.make_due("v")
    (second,) = installation.look()
    assert installation.status(first) is DagsterRunStatus.CANCELED
    assert installation.status(second) is DagsterRunStatus.STARTING


def test_messages_that_nobody_can_handle_are_kept_shown_and_sent_back(installation: Installation) -> None:
    config = installation.settings
    said = CliRunner()
    with broker.celery_app(config).connection_for_write() as connection:
        broker.connect(config).declare()
        connection.Producer().publish("none of ours", routing_key=broker.named(config, broker.LIGHT))
    broker.send(config, "no-such-run", broker.LIGHT)
    installation.start_worker()

    def states() -> dict[str, int]:
        found = json.loads(said.invoke(app, ["queue", "status", "--json"]).stdout)["queues"]
        return {state["name"]: state["ready"] for state in found}

    wait_until(lambda: states() == {"ipfs": 0, "light": 0, "upkeep": 0, "dead": 1}, "one dead letter")
    (letter,) = json.loads(said.invoke(app, ["queue", "dead", "--json"]).stdout)["dead_letters"]
    assert (letter["queue"], letter["body"]) == ("light", "none of ours")
    assert "none of ours" in said.invoke(app, ["queue", "dead", letter["message_id"]]).stdout
    assert said.invoke(app, ["queue", "redrive", "another"]).stdout == "0 sent back\n"
    assert said.invoke(app, ["queue", "redrive", "--all"]).stdout == "1 sent back\n"
    wait_until(lambda: states() == {"ipfs": 0, "light": 0, "upkeep": 0, "dead": 1}, "it to come back")
