"""What Dagster is told, and one run of it over real services: an accepted package and a refused one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from hls_pipeline import clock, metadata_store, tables
from hls_pipeline.definitions import defs
from hls_pipeline.queue.requests import UPLOAD_TAG
from hls_pipeline.sensors.cleanup import cleanup
from hls_pipeline.sensors.inbox import inbox
from hls_pipeline.upkeep import partitions
from hls_pipeline.uploads import State
from tests.services import World, free_ports, package

PATH_ASSETS = ["s3_segments", "s3_manifest", "ipfs_cids", "ipfs_manifest", "final_metadata"]


@pytest.fixture
def definitions() -> dg.Definitions:
    return defs()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def configured(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The settings of `world` as a production process gets them: from the environment."""
    settings = world.settings
    assert settings.s3_secret_key
    for name, value in {
        "DATABASE_URL": settings.database_url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "IPFS_RPC_URLS": json.dumps(settings.ipfs_rpc_urls),
        "IPFS_GATEWAY_URLS": json.dumps(settings.ipfs_gateway_urls),
        "INBOX_QUIET_SECONDS": "0",
    }.items():
        monkeypatch.setenv(f"HLS_{name}", str(value))
    return world


# ---- what Dagster is told -----------------------------------------------------------------------------------------


def test_everything_loads_with_an_empty_environment_and_is_valid() -> None:
    code = "import dagster as dg; from hls_pipeline.definitions import defs; dg.Definitions.validate_loadable(defs())"
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def of_group(graph: BaseAssetGraph[Any], name: str) -> set[dg.AssetKey]:
    return {key for key in graph.get_all_asset_keys() if graph.get(key).group_name == name}


def test_the_assets_are_these_and_follow_each_other(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    order = ["inbox_package", *PATH_ASSETS, "s3_cleanup"]
    assert {key.to_user_string() for key in of_group(graph, "path")} == set(order)
    for before, after in itertools.pairwise(order):
        assert graph.get(dg.AssetKey(after)).parent_keys == {dg.AssetKey(before)}
    assert not graph.get(dg.AssetKey("inbox_package")).is_executable
    checks = {"s3_segments:package_rules", "ipfs_cids:on_quorum", "ipfs_manifest:on_quorum"}
    of_path = {key.to_user_string() for key in graph.asset_check_keys if key.asset_key.to_user_string() in order}
    assert of_path == checks


def test_every_asset_has_one_partition_per_video_and_says_what_is_true_afterwards(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in of_group(graph, "path"):
        node = graph.get(key)
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == "videos"
        assert node.description
    for name in (*PATH_ASSETS, "s3_cleanup"):
        assert graph.get(dg.AssetKey(name)).code_version


def test_the_jobs_are_the_path_and_the_clean_up(definitions: dg.Definitions) -> None:
    for name, assets in (("ingest", PATH_ASSETS), ("clear", ["s3_cleanup"])):
        job = definitions.resolve_job_def(name)
        assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == set(assets)


def test_the_sensors_look_every_second_from_the_start(definitions: dg.Definitions) -> None:
    for sensor, job in ((inbox, "ingest"), (cleanup, "clear")):
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 1
        assert sensor.job_name == job


def test_the_schedule_archives_partitions_each_night(definitions: dg.Definitions) -> None:
    schedule = definitions.resolve_schedule_def("nightly_archive")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.job_name) == ("10 3 * * *", "archive_partitions")


# ---- a tick and a run ---------------------------------------------------------------------------------------------


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, definitions=defs()) as context:
        found = sensor(context, **_resources(sensor))
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def _resources(sensor: dg.SensorDefinition) -> dict[str, object]:
    declared = defs().resources or {}
    made = {
        "s3": declared["s3"].model_copy(update={"endpoint_url": os.environ.get("HLS_S3_ENDPOINT")}),
        "metadata": declared["metadata"],
    }
    return {name: made[name] for name in sensor.required_resource_keys}


def run(
    result: dg.SensorResult | dg.SkipReason, job: str, sensor: str, instance: dg.DagsterInstance
) -> dg.ExecuteInProcessResult:
    """The one run that a tick asked for, with the tags that the daemon adds."""
    assert isinstance(result, dg.SensorResult), result
    for request in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    (wanted,) = result.run_requests or ()
    return (
        defs()
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            partition_key=wanted.partition_key,
            tags={**wanted.tags, "dagster/sensor_name": sensor},
            raise_on_error=False,
        )
    )


def skipped(result: dg.SensorResult | dg.SkipReason) -> str:
    """Why a tick asked for nothing."""
    if isinstance(result, dg.SensorResult):
        assert not result.run_requests
        assert result.skip_reason
        result = result.skip_reason
    return result.skip_message or ""


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key]


def test_an_empty_inbox_is_skipped_with_a_reason(configured: World, instance: dg.DagsterInstance) -> None:
    for sensor, reason in ((inbox, "the inbox is empty"), (cleanup, "nothing is due")):
        found = tick(sensor, instance)
        assert skipped(found) == reason


def test_services_that_are_down_are_a_reason_to_skip_and_no_failure(
    configured: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("HLS_S3_ENDPOINT", f"http://127.0.0.1:{port}")
    found = tick(inbox, instance)
    assert "is S3 running and reachable" in skipped(found)


def test_an_accepted_package_is_materialized_from_end_to_end(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> None:
    world = configured
    world.put("video_123", package(request.node.name))
    world.mark("video_123")
    asked = tick(inbox, instance)
    assert isinstance(asked, dg.SensorResult)
    (event,) = asked.asset_events
    assert (event.asset_key.to_user_string(), event.partition) == ("inbox_package", "video_123")  # type: ignore[union-attr]
    assert skipped(tick(inbox, instance))

    done = run(asked, "ingest", "inbox", instance)
    assert done.success
    assert materialized(done) == PATH_ASSETS
    checks = [(check.check_name, check.passed) for check in done.get_asset_check_evaluations()]
    assert checks == [("package_rules", True), ("on_quorum", True), ("on_quorum", True)]
    (upload,) = world.store.uploads_of("video_123")
    assert upload.state is State.PUBLISHED
    versions = {
        asset: instance.get_latest_materialization_event(dg.AssetKey(asset)).asset_materialization.tags[  # type: ignore[union-attr]
            "dagster/data_version"
        ]
        for asset in PATH_ASSETS
    }
    assert versions == {
        "s3_segments": upload.root,
        "s3_manifest": upload.root,
        "ipfs_cids": upload.root,
        "ipfs_manifest": upload.record,
        "final_metadata": upload.manifest,
    }
    assert {run_id for _, _, run_id in world.store.history(upload.upload_id)} == {None, done.run_id}

    cleared = run(tick(cleanup, instance), "clear", "cleanup", instance)
    assert cleared.success
    assert materialized(cleared) == ["s3_cleanup"]
    assert world.media() == {"video_123/metadata.json"}
    assert skipped(tick(cleanup, instance))


def test_the_event_log_and_the_version_table_tell_the_same_story_of_three_revisions(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New content, then new metadata alone, then new content again; each is cleared before the next arrives."""
    world, files = configured, package(request.node.name)
    monkeypatch.setenv("HLS_GATEWAY_URL", "https://videos.example/")
    arrivals = [files, {**files, "metadata.json": b'{"title": "another"}'}, package(f"{request.node.name} 2")]
    runs = []
    for arrival in arrivals:
        world.put("v", arrival)
        world.mark("v")
        path = run(tick(inbox, instance), "ingest", "inbox", instance)
        runs.append((path.run_id, run(tick(cleanup, instance), "clear", "cleanup", instance).run_id))

    versions, uploads = world.store.versions("v"), world.store.uploads_of("v")
    assert [upload.revision for upload in uploads] == [1, 2, 3]
    assert [(version.n, version.revision, version.reason.split(",")[0]) for version in versions] == [
        (2 * number + offset, number + 1, reason)
        for number in range(3)
        for offset, reason in ((1, "staged"), (2, "published"))
    ]
    assert [version.run_id for version in versions] == [path for path, _ in runs for _ in range(2)]
    for asset in (*PATH_ASSETS, "s3_cleanup"):
        story = []
        for record in instance.fetch_materializations(dg.AssetKey(asset), limit=10, ascending=True).records:
            found = record.asset_materialization
            assert found is not None
            shown: dict[str, Any] = {name: value.value for name, value in found.metadata.items()}
            number, tags = shown["version"], found.tags or {}
            version = versions[number - 1] if number else None
            if version:
                assert shown["hash"] == version.hash
                assert shown["read version"] == f"https://videos.example/v1/videos/v/versions/{number}"
            if asset in ("s3_manifest", "final_metadata"):
                assert version is not None
                assert record.run_id == version.run_id
                assert shown["document"] == json.loads(version.document)
            assert shown["page"] == "https://videos.example/videos/v"
            story.append(
                (record.run_id, shown["revision"], number, tags["dagster/data_version"], tags["dagster/code_version"])
            )
        seen = {"s3_segments": None, "final_metadata": 2, "s3_cleanup": 2}.get(asset, 1)
        data = {"ipfs_manifest": "record", "final_metadata": "manifest"}.get(asset, "root")
        assert story == [
            (run_ids[asset == "s3_cleanup"], number + 1, 2 * number + seen if seen else 0, getattr(upload, data), "1")
            for number, (run_ids, upload) in enumerate(zip(runs, uploads, strict=True))
        ]


def test_a_refused_package_is_a_run_that_succeeds_with_a_failed_check(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> None:
    world = configured
    world.put("video_123", {**package(request.node.name), "v/s1.ts": b"no media"})
    world.mark("video_123")
    done = run(tick(inbox, instance), "ingest", "inbox", instance)
    assert done.success
    assert materialized(done) == []
    assert [event for event in done.all_events if event.is_failure] == []
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("package_rules", False)
    assert "MEDIA_UNKNOWN_TYPE at v/s1.ts" in (check.description or "")
    assert [upload.state for upload in world.store.uploads_of("video_123")] == [State.REJECTED]
    assert "video_123/_REJECTED.json" in world.inbox()
    assert skipped(tick(inbox, instance))


def test_a_run_that_fails_says_why_and_is_asked_for_again(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = configured
    world.put("video_123", package(request.node.name))
    world.mark("video_123")
    asked = tick(inbox, instance)
    (port,) = free_ports(1)
    with monkeypatch.context() as outage:
        outage.setenv("HLS_IPFS_RPC_URLS", f'["http://127.0.0.1:{port}"]')
        outage.setenv("HLS_RETRY_SECONDS", "0.01")
        failed = run(asked, "ingest", "inbox", instance)
    assert not failed.success
    assert materialized(failed) == ["s3_segments", "s3_manifest"]
    failure = failed.failure_data_for_node("ipfs_cids")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert str(port) in (failure.user_failure_data.description or "")
    again = tick(inbox, instance)
    assert isinstance(again, dg.SensorResult)
    assert [request.run_key for request in again.run_requests or ()] != [
        request.run_key
        for request in asked.run_requests or ()  # type: ignore[union-attr]
    ]
    assert run(again, "ingest", "inbox", instance).success
    assert [upload.state for upload in world.store.uploads_of("video_123")] == [State.PUBLISHED]


def test_a_run_by_hand_means_the_current_revision(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> None:
    upload = configured.publish_package("video_123", package(request.node.name))
    instance.add_dynamic_partitions("videos", ["video_123"])
    job = defs().resolve_job_def("ingest")
    done = job.execute_in_process(instance=instance, partition_key="video_123")
    assert done.success
    assert materialized(done) == PATH_ASSETS
    assert len(configured.store.versions("video_123")) == 2
    unknown = job.execute_in_process(
        instance=instance, partition_key="video_123", tags={UPLOAD_TAG: "nothing"}, raise_on_error=False
    )
    assert not unknown.success
    assert configured.store.upload(upload.upload_id).state is State.PUBLISHED


def test_a_video_at_rest_is_archived_its_history_stays_and_work_on_it_brings_it_back(
    configured: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`waits` is published and not cleared; nobody knows `by_hand`, which a person added."""
    world, files = configured, package(request.node.name)
    world.put("v", files)
    world.mark("v")
    path = run(tick(inbox, instance), "ingest", "inbox", instance)
    assert run(tick(cleanup, instance), "clear", "cleanup", instance).success
    world.publish_package("waits", package(f"{request.node.name} waits"))
    monkeypatch.setattr(partitions, "_AT_ONCE", 2)
    instance.add_dynamic_partitions("videos", ["waits", "by_hand"])

    def archive(days: float) -> set[str]:
        monkeypatch.setenv("HLS_PARTITION_KEEP_DAYS", str(days))
        assert defs().resolve_job_def("archive_partitions").execute_in_process(instance=instance).success
        return set(instance.get_dynamic_partitions("videos"))

    assert archive(1) == {"v", "waits", "by_hand"}
    with world.store.writing() as db:  # its last lease would have run out in some seconds
        db.execute(sa.update(tables.video_lease).values(expires_at=clock.now()))
    assert archive(0) == {"waits", "by_hand"}
    about = dg.AssetRecordsFilter(asset_key=dg.AssetKey("final_metadata"), asset_partitions=["v"])
    assert [record.run_id for record in instance.fetch_materializations(about, limit=10).records] == [path.run_id]
    assert len(world.store.versions("v")) == 2

    world.put("v", {**files, "metadata.json": b"{}"})
    world.mark("v")
    assert run(tick(inbox, instance), "ingest", "inbox", instance).success
    assert "v" in instance.get_dynamic_partitions("videos")


def test_the_stores_of_a_process_are_made_once(configured: World) -> None:
    assert metadata_store.connect(configured.settings.database_url) is configured.store
