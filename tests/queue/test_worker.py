"""Runs from the queue to their end in workers of their own, and what is left when such a worker is killed, frozen or
stopped: every upload ends in one final version."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from urllib.request import urlopen

import pytest
from amqp.exceptions import NotFound
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from hls_pipeline import clock
from hls_pipeline.queue import broker, leases
from hls_pipeline.uploads import State
from tests.queue.conftest import Installation
from tests.queue.pausing_worker import STEPS
from tests.services import World, free_ports, package, wait_until


def test_a_package_goes_through_the_queue_to_its_final_document_and_is_cleared(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    (port,) = free_ports(1)
    installation.start_worker("--health-port", str(port))
    installation.drop("v", package(request.node.name))
    (run,) = installation.look()
    again = installation.look()
    assert {record.job_name for record in installation.runs() if record.run_id in again} <= {"clear"}
    installation.look_until(lambda: installation.state("v") is State.CLEARED, "the upload to be cleared")
    assert [run.tags[broker.QUEUE_TAG] for run in installation.ended_runs()] == ["light", "light"]
    assert installation.status(run) is DagsterRunStatus.SUCCESS
    installation.assert_published_once("v")
    assert json.load(urlopen(f"http://127.0.0.1:{port}/healthz"))["broker"] == "connected"
    with broker.celery_app(installation.settings).connection_for_write() as connection, pytest.raises(NotFound):
        connection.default_channel.queue_declare("celery_delayed_0", passive=True)  # Celery would make 28 of them


def test_a_worker_process_killed_in_each_step_costs_a_try_and_nothing_else(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    installation.start_worker(at="die-once:*", HLS_MAX_ATTEMPTS="9")
    installation.drop("v", package(request.node.name))
    installation.look_until(lambda: installation.state("v") is State.CLEARED, "the upload to be cleared", 180)
    installation.assert_published_once("v")
    assert {path.name for path in installation.folder.glob("died-in-*")} == {f"died-in-{step}" for step in STEPS}
    statuses = [run.status for run in installation.ended_runs()]
    assert statuses.count(DagsterRunStatus.FAILURE) >= len(STEPS)
    assert "true" not in {run.tags.get(WILL_RETRY_TAG) for run in installation.runs()}, "the sensor does so"
    assert set(statuses) <= {DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS}
    assert not installation.runs(DagsterRunStatus.STARTED)


def test_a_package_that_kills_its_worker_each_time_is_failed_and_holds_up_nobody(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    installation.start_worker(at="die:publish", HLS_MAX_ATTEMPTS="2")
    for video_id in ("poison", "v"):
        installation.drop(video_id, package(request.node.name + video_id))
    installation.look_until(
        lambda: (installation.state("poison"), installation.state("v")) == (State.FAILED, State.CLEARED),
        "one failed and one cleared upload",
        120,
    )
    installation.assert_published_once("v")
    (upload,) = installation.world.store.uploads_of("poison")
    assert "2 tries ended without a word" in (upload.error or "")
    assert installation.look() == []


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    frozen = installation.start_worker(at="hold:finalize")
    installation.drop("v", package(request.node.name))
    (first,) = installation.look()
    installation.wait_until_held()
    os.killpg(frozen.pid, signal.SIGSTOP)
    installation.start_worker()
    installation.look_until(lambda: installation.state("v") is State.CLEARED, "another worker to finish", 120)
    before = installation.world.store.versions("v"), installation.world.media()
    assert installation.status(first) is DagsterRunStatus.FAILURE
    installation.release()
    os.killpg(frozen.pid, signal.SIGCONT)
    wait_until(lambda: "Worker exited prematurely" in installation.log(), "it to notice")
    assert (installation.world.store.versions("v"), installation.world.media()) == before
    installation.assert_published_once("v")


def test_a_terminated_run_is_canceled_whether_it_waits_or_works(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    installation.drop("v", package(request.node.name))
    (waiting,) = installation.look()
    launcher = installation.instance.run_launcher
    assert launcher.terminate(waiting)
    assert installation.status(waiting) is DagsterRunStatus.CANCELED
    assert not launcher.terminate(waiting)
    installation.start_worker(at="hold:publish", HLS_LEASE_SECONDS="60")
    installation.make_due("v")
    (working,) = installation.look()
    installation.wait_until_held()
    assert launcher.terminate(working)
    wait_until(lambda: installation.status(working) is DagsterRunStatus.CANCELED, "the run to stop")
    wait_until(lambda: not installation.world.store.is_held("v", clock.now()), "the video to be free")
    installation.release()
    installation.look_until(lambda: installation.state("v") is State.CLEARED, "a third run to finish", 120)
    assert installation.status(waiting) is installation.status(working) is DagsterRunStatus.CANCELED
    installation.assert_published_once("v")


def test_workers_are_replaced_one_by_one_without_losing_or_failing_anything(
    installation: Installation, request: pytest.FixtureRequest
) -> None:
    videos = [f"v{number}" for number in range(4)]
    slow = installation.start_worker(at="hold:publish", HLS_WORKER_STOP_SECONDS="1", HLS_LEASE_SECONDS="20")
    for video_id in videos:
        installation.drop(video_id, package(request.node.name + video_id))
    installation.look()
    installation.wait_until_held()
    slow.send_signal(signal.SIGTERM)
    second = installation.start_worker(HLS_LEASE_SECONDS="20")
    assert slow.wait(60) == 0, installation.log()
    second.send_signal(signal.SIGTERM)
    installation.start_worker(HLS_LEASE_SECONDS="20")
    assert second.wait(60) == 0
    installation.look_until(
        lambda: all(installation.state(video_id) is State.CLEARED for video_id in videos), "all to be cleared", 180
    )
    for video_id in videos:
        installation.assert_published_once(video_id)
    assert DagsterRunStatus.FAILURE not in {run.status for run in installation.ended_runs()}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_no_sensor_asks_for_is_retried_by_dagster_when_its_worker_is_gone(
    installation: Installation, how: signal.Signals
) -> None:
    """A re-pin waited for the next night, and a video of a backfill for ever."""
    slow = installation.start_worker(at="hold:thin", HLS_WORKER_STOP_SECONDS="0")
    nightly = installation.launch("thin_history")
    installation.wait_until_held()
    os.killpg(slow.pid, how)
    slow.wait(60)
    installation.start_worker()
    wait_until(lambda: installation.runs()[0].tags.get(WILL_RETRY_TAG) == "true", "Dagster to be told", 60)
    assert [(run.run_id, run.status) for run in installation.runs()] == [(nightly, DagsterRunStatus.FAILURE)]
    wait_until(lambda: not leases.at_work(installation.world.store, nightly, clock.EPOCH), "its claim to be given up")


def test_a_run_whose_message_comes_twice_at_once_is_executed_once(installation: Installation) -> None:
    """Both workers found it not begun yet, and began it: one in four of these."""
    for _ in range(2):
        installation.start_worker("--queues", "upkeep", HLS_LEASE_SECONDS="60")
    runs = []
    for _ in range(12):
        runs.append(installation.launch("thin_history"))
        broker.send(installation.settings, runs[-1], broker.UPKEEP)
    assert {run.status for run in installation.ended_runs()} == {DagsterRunStatus.SUCCESS}
    started = [installation.instance.all_logs(run, of_type=DagsterEventType.RUN_START) for run in runs]
    assert [len(events) for events in started] == [1] * len(runs)


def test_a_run_belongs_to_the_worker_that_claimed_it_until_it_stops_showing_itself(world: World) -> None:
    def claimed(worker: str, after: float) -> bool:
        return leases.claim(world.store, "run", worker, now + timedelta(seconds=after), 60)

    now = clock.now()
    assert claimed("first", 0)
    assert not claimed("second", 1)
    assert claimed("first", 50)
    assert not claimed("second", 109)
    assert claimed("second", 111)
    assert not claimed("first", 112), "it was frozen"
    leases.hide(world.store, "run")
    assert not leases.at_work(world.store, "run", now)


def test_a_worker_that_finds_its_run_taken_ends_without_a_word(installation: Installation) -> None:
    """What it would report would be taken for its successor's."""
    installation.start_worker("--queues", "upkeep", at="hold:thin", HLS_LEASE_SECONDS="20")
    run = installation.launch("thin_history")
    installation.wait_until_held()
    frozen_until = clock.now() + timedelta(hours=1)
    assert leases.claim(installation.world.store, run, "another", frozen_until, 60)
    wait_until(lambda: "Worker exited prematurely" in installation.log(), "it to notice")
    assert installation.status(run) is DagsterRunStatus.STARTED
