"""What Dagster shows of an installation as a whole: its assets without partitions, run as a schedule runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from hls_pipeline import clock, schedules, work
from hls_pipeline.definitions import defs
from hls_pipeline.errors import Corruption, ObjectMissing, ServiceError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import retries
from hls_pipeline.uploads import State, Upload
from tests.services import MEDIA, World, package


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(job: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs().resolve_job_def(job).execute_in_process(instance=instance)


def checks(done: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in done.get_asset_check_evaluations()}


def test_the_nightly_repin_mends_and_shows_each_node(
    world: World, as_environment: Callable[[Settings], None], instance: dg.DagsterInstance, request: Any
) -> None:
    as_environment(world.settings)
    upload = world.publish_package("v", package(request.node.name))
    world.nodes[0].unpin(Cid.parse(upload.root or ""))
    done = run("repin", instance)
    assert done.success
    assert checks(done) == {"nodes_answer": True, "on_quorum": True, "proof_age": True}
    (seen,) = [event for event in done.all_events if event.is_asset_observation]
    shown = seen.asset_observation_data.asset_observation.metadata
    assert (shown["node"].value, shown["missing"].value, shown["mended"].value) == (world.nodes[0].name, 1, 1)
    assert world.nodes[0].pinned(Cid.parse(upload.root or ""))


def test_the_nightly_reconciliation_reports_and_changes_nothing(
    world: World, as_environment: Callable[[Settings], None], instance: dg.DagsterInstance, request: Any
) -> None:
    as_environment(world.settings)
    world.publish_package("v", package(request.node.name))
    world.objects.delete(MEDIA, [(item.key, item.etag, None) for item in world.objects.listing(MEDIA)])
    instance.add_dynamic_partitions("videos", ["v", "unknown"])
    done = run("reconcile", instance)
    assert done.success
    assert checks(done) == {"agreement": False}
    (event,) = done.get_asset_materialization_events()
    rows = event.materialization.metadata["kinds"].records
    assert {"missing_objects", "missing_document", "unknown_partitions"} <= {row.data["kind"] for row in rows}  # type: ignore[union-attr]
    assert world.media() == set()


def test_failed_uploads_are_taken_up_again_ever_more_rarely(world: World, request: Any) -> None:
    def fails(upload: Upload, error: Exception) -> datetime:
        with pytest.raises(type(error)), work.holding(upload, "path:run", hasty.store, hasty.settings, last=True):
            raise error
        failed = world.store.upload(upload.upload_id)
        assert failed.state is State.FAILED
        return failed.updated_at

    hasty = world.having(max_attempts=1)
    upload, *hopeless = (world.drop(name, package(f"{request.node.name} {name}")) for name in ("v", "w", "x"))
    for one, error in zip(
        hopeless, (Corruption("two things differ"), ObjectMissing("somebody removed it")), strict=True
    ):
        fails(one, error)
    for hours in (1, 2, 4):
        since = fails(upload, ServiceError("no"))
        assert retries.take_up(world.store, since + timedelta(hours=hours, seconds=-1)) == ()
        (again,) = retries.take_up(world.store, since + timedelta(hours=hours, seconds=1))
        assert (again.upload_id, again.state, again.attempts) == (upload.upload_id, State.RECEIVED, 0)
    assert world.walk(again).state is State.PUBLISHED
    assert retries.take_up(world.store, clock.now() + timedelta(days=30)) == ()


def test_a_backfill_after_clean_up_makes_new_versions_from_ipfs(
    world: World,
    as_environment: Callable[[Settings], None],
    monkeypatch: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
    request: Any,
) -> None:
    as_environment(world.settings)
    world.step("clear_temp_storage", world.publish_package("v", package(request.node.name)), "hand:clear")
    instance.add_dynamic_partitions("videos", ["v"])
    monkeypatch.setenv("HLS_IPFS_PROFILE", "unixfs-v0-2015")
    job = defs().resolve_job_def("ingest")
    for _ in range(2):
        done = job.execute_in_process(instance=instance, partition_key="v", tags={"dagster/backfill": "all"})
        assert done.success
    made = world.store.current_upload("v")
    assert made
    assert (made.revision, made.profile, made.state) == (2, "unixfs-v0-2015", State.PUBLISHED)
    assert [version.revision for version in world.store.versions("v")] == [1, 1, 2]
    assert instance.get_latest_data_version_record(dg.AssetKey("ipfs_cids"), partition_key="v")
    latest = instance.get_latest_materialization_event(dg.AssetKey("ipfs_cids"))
    assert latest
    assert latest.asset_materialization
    assert (latest.asset_materialization.tags or {})["dagster/data_version"] == made.root


def test_a_health_asset_goes_stale_when_nobody_looks() -> None:
    policy = defs().resolve_asset_graph().get(dg.AssetKey("pin_health")).freshness_policy
    assert policy is not None


@pytest.mark.parametrize(
    ("schedule", "job"),
    [
        ("nightly_repin", "repin"),
        ("nightly_reconciliation", "reconcile"),
        ("nightly_thinning", "thin_history"),
        ("failed_uploads", "ingest"),
    ],
)
def test_the_clock_looks_after_the_installation(schedule: str, job: str) -> None:
    found = defs().resolve_schedule_def(schedule)
    assert found.job_name == job
    assert found.default_status is dg.DefaultScheduleStatus.RUNNING


def test_what_the_clock_starts_waits_in_a_queue_of_its_own_and_holds_up_no_package() -> None:
    started = {defs().resolve_schedule_def(schedule.name).job_name for schedule in schedules.ALL} - {"ingest"}
    queues = {name: defs().resolve_job_def(name).run_tags.get("dagster-celery/queue") for name in started}
    assert queues == dict.fromkeys(started, "upkeep")
