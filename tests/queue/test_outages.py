"""RabbitMQ away, killed, cut off: uploads wait and go on by themselves, no try is used up, nobody is paged."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from typer.testing import CliRunner

from hls_pipeline.cli import app
from hls_pipeline.queue import broker
from hls_pipeline.queue.requests import SENSOR_TAG, UPLOAD_TAG
from hls_pipeline.uploads import State
from tests.queue.conftest import Installation, RabbitServer, installed
from tests.services import World, package, wait_until

PassOn = Callable[[bytes, socket.socket, bool], None]
"""Gets what was said, whom to tell, and whether the server said it."""
InstallationBehind = Callable[[PassOn], AbstractContextManager[Installation]]


@pytest.fixture
def installation_behind(
    world_on_postgres: World, rabbit: RabbitServer, dagster_home: dict[str, str], tmp_path: Path
) -> InstallationBehind:
    """One that talks to its broker through somebody else, and has a connection already, which is used again."""

    @contextmanager
    def behind(pass_on: PassOn) -> Iterator[Installation]:
        port = rabbit.ports["amqp"]
        with between(port, pass_on) as ours:
            url = rabbit.url.replace(f":{port}", f":{ours}")
            with installed(world_on_postgres, url, dagster_home, tmp_path) as installation:
                installation.launch("clear", "none")
                yield installation

    return behind


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
    (arriving,) = world.store.uploads_of("arriving")
    tags = {SENSOR_TAG: "inbox", UPLOAD_TAG: arriving.upload_id}
    launched = installation.launch("ingest", "arriving", tags)
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


def test_a_run_that_was_published_although_the_broker_fell_silent_is_not_done_twice(
    installation_behind: InstallationBehind, request: pytest.FixtureRequest
) -> None:
    """RabbitMQ has the message, and its confirmation is lost on the way: nobody can tell whether it arrived. A question
    that it did not answer used to hold up the daemon for ever."""
    silent = threading.Event()
    with installation_behind(falling_silent(silent)) as installation:
        queues = broker.connect(installation.settings)
        silent.set()
        nightly = installation.launch("thin_history")  # asks whether queue upkeep is there
        silent.clear()
        assert installation.status(nightly) is DagsterRunStatus.FAILURE, "it is no upload's"
        installation.launch("clear", "none")
        installation.drop("v", package(request.node.name))
        installation.world.receive()
        (upload,) = installation.world.store.uploads_of("v")
        tags = {SENSOR_TAG: "inbox", UPLOAD_TAG: upload.upload_id, broker.QUEUE_TAG: broker.LIGHT}
        silent.set()
        published = installation.launch("ingest", "v", tags)
        silent.clear()
        assert installation.status(published) is DagsterRunStatus.CANCELED
        assert queues.waiting() == 3
        installation.start_worker()
        installation.look_until(lambda: installation.state("v") is State.CLEARED, "the upload to be cleared", 120)
        installation.assert_published_once("v")
        ingested = [run.status.value for run in installation.ended_runs() if run.job_name == "ingest"]
        assert sorted(ingested) == ["CANCELED", "SUCCESS"]


def test_a_message_in_the_middle_of_which_rabbitmq_dies_is_done_once_when_it_is_back(
    installation_behind: InstallationBehind, request: pytest.FixtureRequest
) -> None:
    """Half of it has arrived, or all of it and nobody was told."""
    death = Death()
    with installation_behind(death.pass_on) as installation:
        for video_id, share in (("half", 0.5), ("all", 1.0)):
            installation.drop(video_id, package(request.node.name + video_id))
            death.comes_after = share
            installation.look()
            assert death.came, "in the middle of the message"
            assert installation.look() == [], "nothing is asked for as long as it is away"
            death.is_over()
        for video_id in ("half", "all"):
            installation.make_due(video_id)
        installation.start_worker()
        installation.look_until(
            lambda: all(installation.state(video_id) is State.CLEARED for video_id in ("half", "all")), "both", 120
        )
        for video_id in ("half", "all"):
            installation.assert_published_once(video_id)
        ingested = [run.status.value for run in installation.ended_runs() if run.job_name == "ingest"]
        assert sorted(ingested) == ["CANCELED", "CANCELED", "SUCCESS", "SUCCESS"], "each once, with another run"


@dataclass
class Death:
    """Of a broker, as those who talk to it see it: in the middle of a run's message, and until it `is_over`."""

    comes_after: float | None = None
    """Share of the message that still arrives."""
    came: bool = False

    def pass_on(self, data: bytes, target: socket.socket, from_server: bool) -> None:
        if self.comes_after and broker.EXECUTE_RUN.encode() in data and not from_server:
            target.sendall(data[: round(len(data) * self.comes_after)])
            self.comes_after, self.came = None, True
        if self.came:
            raise ConnectionError
        target.sendall(data)

    def is_over(self) -> None:
        self.came = False


def falling_silent(silent: threading.Event) -> PassOn:
    """While `silent` is set, what is said to the server arrives, and its answers are lost."""

    def pass_on(data: bytes, target: socket.socket, from_server: bool) -> None:
        if not (from_server and silent.is_set()):
            target.sendall(data)

    return pass_on


@contextmanager
def between(port: int, pass_on: PassOn) -> Iterator[int]:
    """A port that leads to another; when `pass_on` raises an OSError, both sides hang up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def listen(source: socket.socket, target: socket.socket, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                pass_on(data, target, from_server)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=listen, args=(source, target, source is server), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_run_goes_on_while_its_worker_has_lost_the_broker_and_another_gets_its_message(
    installation: Installation, rabbit: RabbitServer, request: pytest.FixtureRequest
) -> None:
    installation.start_worker(at="hold:publish", HLS_LEASE_SECONDS="20")
    installation.drop("v", package(request.node.name))
    (run,) = installation.look()
    installation.wait_until_held()
    installation.start_worker(HLS_LEASE_SECONDS="20")
    rabbit.cut_connections()
    wait_until(lambda: installation.log().count(f"execute_run[{run}] received") > 1, "the message to come again")
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
    wait_until(lambda: installation.log().count(f"execute_run[{run}] received") > 2, "another to look at it")
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
