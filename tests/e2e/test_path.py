"""Real packages through the whole running stack: inbox, S3, IPFS, final JSON, clean-up."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
import requests

from hls_pipeline.uploads import State
from tests import services
from tests.e2e.conftest import CORPUS, ENDS, SAMPLE, Pipeline, folder
from tests.services import wait_until

REFUSED = {"bad-iframes-offsets"}
ROOTS = {"shaka-hls-interstitial": "main.m3u8"}
REPAIRED = {"names-nasty/index.m3u8"}

PROCESSES = ("weed", "ipfs_node", "forkserver", "code-server", "daemon", "ui", "gateway", "up")

PACKAGES = sorted(
    path for group in ("packages", "ffmpeg") for path in (CORPUS / group).iterdir() if path.name not in REFUSED
)


def frames(playlist: str) -> bytes:
    """Checksums of every decoded frame, as ffmpeg lists them."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-protocol_whitelist",
        "file,http,tcp,crypto,data",
        "-allowed_extensions",
        "ALL",
    ]
    done = subprocess.run(
        [*command, "-i", playlist, "-map", "0:v?", "-map", "0:a?", "-f", "framemd5", "-"],
        capture_output=True,
        timeout=240,
        check=False,
    )
    return done.stdout


@pytest.mark.timeout(600)
def test_every_package_of_the_corpus_comes_out_ready_and_plays_the_same(pipeline: Pipeline) -> None:
    began = time.monotonic()
    for path in PACKAGES:
        metadata = {"metadata.json": b'{"playlist": "%s"}' % ROOTS[path.name].encode()} if path.name in ROOTS else {}
        pipeline.drop(path.name, folder(path) | metadata)
    for path in PACKAGES:
        pipeline.wait(path.name, *ENDS, seconds=400)
    print(f"{len(PACKAGES)} packages of the corpus: {time.monotonic() - began:.0f} s from first drop to last clean-up")
    for path in PACKAGES:
        compare(pipeline, path)
    assert list(pipeline.objects.listing("inbox")) == []


def compare(pipeline: Pipeline, path: Path) -> None:
    upload = pipeline.store.latest_upload(path.name)
    assert upload is not None
    assert upload.state is State.CLEARED, (path.name, upload.error, upload.report)
    document = pipeline.document(path.name)
    assert document["status"] == "ready"
    root = document["video_assets"]["ipfs_directory"].removeprefix("ipfs://")
    for file in pipeline.store.inventory(upload.upload_id):
        if f"{path.name}/{file.path}" not in REPAIRED:
            assert pipeline.read(f"{root}/{file.path}") == (path / file.path).read_bytes(), f"{path.name}/{file.path}"
    playlist = document["video_assets"]["playlist"]
    published = f"{pipeline.settings.ipfs_gateway_urls[0]}/ipfs/{root}/{playlist}"
    assert frames(published) == frames(str(path / playlist)), path.name
    left = [item.key for item in pipeline.objects.listing("media", f"{path.name}/")]
    assert [key for key in left if "/unreferenced/" not in key] == [f"{path.name}/metadata.json"]


def test_the_temporary_json_of_the_sample_comes_before_the_final_one(pipeline: Pipeline) -> None:
    began = time.monotonic()
    pipeline.drop("timed", folder(SAMPLE))
    pipeline.wait("timed", State.STAGED, State.PINNED, State.PUBLISHED, State.CLEARED)
    temporary = time.monotonic() - began
    pipeline.wait("timed", State.PUBLISHED, State.CLEARED)
    final = time.monotonic() - began
    print(f"sample dropped → temporary JSON {temporary:.1f} s, → final JSON {final:.1f} s")
    statuses = [version.document for version in pipeline.store.versions("timed")]
    assert ['"status":"processing"' in statuses[0], '"status":"ready"' in statuses[1]] == [True, True]
    assert "s3://" not in statuses[1]


def test_the_same_bytes_again_change_nothing_and_other_bytes_are_the_next_revision(pipeline: Pipeline) -> None:
    package = folder(CORPUS / "ffmpeg" / "ts-single")
    pipeline.drop("again", package)
    first = pipeline.wait("again", State.CLEARED, revision=1)
    before = pipeline.store.versions("again")
    pipeline.drop("again", package)
    pipeline.wait("again", State.UNCHANGED)
    assert pipeline.store.versions("again") == before
    wait_until(lambda: not list(pipeline.objects.listing("inbox", "again/")), "the inbox to be empty")

    changed = package | {"seg_001.ts": package["seg_002.ts"]}
    pipeline.drop("again", changed)
    second = pipeline.wait("again", State.CLEARED, revision=2)
    assert second.root != first.root
    assert pipeline.document("again")["revision"] == 2
    assert pipeline.store.versions("again")[: len(before)] == before
    assert pipeline.read(f"{first.root}/seg_001.ts") == package["seg_001.ts"]
    assert pipeline.read(f"{second.root}/seg_001.ts") == package["seg_002.ts"]


def test_a_refused_package_says_why_in_the_inbox_and_in_dagster_and_is_nowhere_on_ipfs(pipeline: Pipeline) -> None:
    package = folder(CORPUS / "ffmpeg" / "bad-iframes-offsets")
    pipeline.drop("refused", package)
    upload = pipeline.wait("refused", State.REJECTED)
    report = pipeline.objects.read_all("inbox", "refused/_REJECTED.json").decode()
    assert '"code": "HLS_BAD_BYTERANGE"' in report
    assert '"line": 9' in report
    assert {item.key.removeprefix("refused/") for item in pipeline.objects.listing("inbox", "refused/")} == {
        *package,
        "_READY",
        "_REJECTED.json",
    }
    assert not list(pipeline.objects.listing("media", "refused/"))
    assert not [pin for pin in pipeline.node.pins() if pin.name.startswith("refused")]
    run = dagster_run(pipeline, upload.upload_id)
    assert run["status"] == "SUCCESS"
    checks = [event for event in run["eventConnection"]["events"] if event["__typename"] == "AssetCheckEvaluationEvent"]
    (check,) = checks
    assert check["evaluation"]["checkName"] == "package_rules"
    assert check["evaluation"]["success"] is False
    assert "HLS_BAD_BYTERANGE" in check["evaluation"]["description"]
    assert not [
        event for event in run["eventConnection"]["events"] if event["__typename"] == "ExecutionStepFailureEvent"
    ]

    good = folder(CORPUS / "ffmpeg" / "ts-single")
    time.sleep(1.1)  # S3 tells time in seconds, and the new mark must be younger than the old one
    pipeline.drop("refused", good)
    assert pipeline.wait("refused", State.CLEARED).revision == 1
    assert not list(pipeline.objects.listing("inbox", "refused/"))


def dagster_run(pipeline: Pipeline, upload_id: str) -> dict[str, object]:
    query = """query ($tag: [ExecutionTag!]) { runsOrError(filter: {tags: $tag}) { ... on Runs { results {
        status eventConnection { events { __typename
            ... on AssetCheckEvaluationEvent { evaluation { checkName success description } } } } } } } }"""
    deadline = time.monotonic() + 60
    while True:
        answer = pipeline.graphql(query, tag=[{"key": "hls/upload_id", "value": upload_id}])
        (run,) = answer["runsOrError"]["results"]
        if run["status"] in ("SUCCESS", "FAILURE"):
            return dict(run)
        assert time.monotonic() < deadline, run["status"]
        time.sleep(0.2)


def test_what_the_gateway_takes_in_gets_one_run_from_whoever_asks_first(pipeline: Pipeline) -> None:
    """The gateway asks at once, the sensor within a second: Dagster gives a run of the sensor's a tick."""
    addresses = pipeline.stack.addresses
    uploads, ticks = [], []
    for video_id in ("sent-1", "sent-2", "sent-3"):
        sent = requests.post(
            f"{addresses['gateway']}/v1/videos?video_id={video_id}",
            files=[("files", (path, data)) for path, data in services.package(video_id).items()],
            headers={"Authorization": f"Bearer {addresses['api_key']}"},
            timeout=60,
        )
        assert sent.status_code == 202, sent.text
        uploads.append(pipeline.wait(video_id, State.PUBLISHED, State.CLEARED))
    query = """query ($tag: [ExecutionTag!]) { runsOrError(filter: {tags: $tag, pipelineName: "ingest"}) {
        ... on Runs { results { tags { key value } } } } }"""
    for upload in uploads:
        answer = pipeline.graphql(query, tag=[{"key": "hls/upload_id", "value": upload.upload_id}])
        (run,) = answer["runsOrError"]["results"]
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        assert tags["dagster/run_key"] == f"{upload.upload_id}:1"
        assert tags["dagster/sensor_name"] == "inbox"
        ticks.append(tags.get("dagster/tick"))
    assert None in ticks


def test_a_folder_without_mark_starts_by_itself_once_it_is_quiet_and_complete(pipeline: Pipeline) -> None:
    package = folder(CORPUS / "ffmpeg" / "audio-only")
    late = {"a_003.ts": package.pop("a_003.ts")}
    pipeline.put("unmarked", package)
    waiting = pipeline.wait("unmarked", State.RECEIVED)
    deadline = time.monotonic() + 60
    while not waiting.incomplete:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        waiting = pipeline.store.upload(waiting.upload_id)
    pipeline.put("unmarked", late)
    upload = pipeline.wait("unmarked", State.CLEARED)
    assert upload.revision == 1
    assert pipeline.store.upload(waiting.upload_id).state is State.SUPERSEDED


def test_a_drop_that_goes_on_being_written_ends_with_whole_revisions(pipeline: Pipeline) -> None:
    one = folder(CORPUS / "ffmpeg" / "ts-single")
    other = one | {"seg_000.ts": one["seg_001.ts"], "seg_001.ts": one["seg_002.ts"], "seg_002.ts": one["seg_000.ts"]}
    pipeline.drop("restless", one)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.3):
            pipeline.put("restless", other)
        pipeline.drop("restless", other)

    writer = threading.Thread(target=go_on)
    writer.start()
    time.sleep(6)
    stop.set()
    writer.join()
    whole_revisions(pipeline, "restless", [one, other])


def test_two_drops_of_one_id_in_flight_end_with_whole_revisions(pipeline: Pipeline) -> None:
    one = folder(CORPUS / "ffmpeg" / "ts-single")
    other = {**one, "seg_000.ts": one["seg_001.ts"], "seg_001.ts": one["seg_000.ts"]}
    pipeline.drop("twice", one)
    time.sleep(1.2)
    pipeline.drop("twice", other)
    whole_revisions(pipeline, "twice", [one, other])


def whole_revisions(pipeline: Pipeline, video_id: str, drops: list[dict[str, bytes]]) -> None:
    """Every revision is one of `drops`, the last one is current, and the inbox is empty in the end."""
    last = drops[-1]
    deadline = time.monotonic() + 150
    while True:
        current = pipeline.store.current_upload(video_id)
        if current and pipeline.read(f"{current.root}/seg_000.ts") == last["seg_000.ts"]:
            break
        assert time.monotonic() < deadline, pipeline.store.uploads_of(video_id)
        time.sleep(0.2)
    for upload in pipeline.store.uploads_of(video_id):
        if upload.state in (State.PUBLISHED, State.CLEARED):
            published = {path: pipeline.read(f"{upload.root}/{path}") for path in last}
            assert published in drops
    pipeline.wait(video_id, State.CLEARED, State.UNCHANGED)


@pytest.mark.timeout(400)
def test_a_large_package_passes_without_large_processes(pipeline: Pipeline, tmp_path: Path) -> None:
    size, count = 13_900 * 188, 100
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6", "#EXT-X-PLAYLIST-TYPE:VOD"]
    for number in range(count):
        data = bytearray(os.urandom(size))
        data[::188] = b"\x47" * (size // 188)
        pipeline.put("large", {f"seg_{number:03}.ts": bytes(data)})
        lines += ["#EXTINF:6.000,", f"seg_{number:03}.ts"]
    pipeline.put("large", {"index.m3u8": "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()})
    largest: dict[str, int] = {}
    done = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(pipeline, largest, done))
    watcher.start()
    began = time.monotonic()
    pipeline.mark("large")
    try:
        pipeline.wait("large", State.CLEARED, seconds=300)
    finally:
        done.set()
        watcher.join()
    print(f"250 MiB in {count} files: {time.monotonic() - began:.0f} s from mark to clean-up; resident MiB: {largest}")
    ours = {name: mebibytes for name, mebibytes in largest.items() if name != "weed"}
    assert max(ours.values()) <= 300, ours


def watch_memory(pipeline: Pipeline, largest: dict[str, int], done: threading.Event) -> None:
    while not done.wait(0.2):
        for pid in pipeline.stack.processes():
            try:
                process = psutil.Process(pid)
                words = process.cmdline()
                name = next((name for name in PROCESSES if any(name in word for word in words)), "others")
                largest[name] = max(largest.get(name, 0), process.memory_info().rss >> 20)
            except psutil.NoSuchProcess:
                continue


def test_the_dagster_ui_has_every_asset_materialised_with_metadata_and_a_check(pipeline: Pipeline) -> None:
    pipeline.drop("shown", folder(SAMPLE))
    pipeline.wait("shown", State.CLEARED)
    query = """{ assetNodes { assetKey { path } hasAssetChecks
        assetMaterializations(partitions: ["shown"], limit: 1) { metadataEntries { label } } } }"""
    deadline = time.monotonic() + 60
    expected = {
        "inbox_package",
        "s3_segments",
        "s3_manifest",
        "ipfs_cids",
        "ipfs_manifest",
        "final_metadata",
        "s3_cleanup",
    }
    while True:
        nodes = {node["assetKey"]["path"][0]: node for node in pipeline.graphql(query)["assetNodes"]}
        if all(nodes[name]["assetMaterializations"] for name in expected):
            break
        assert time.monotonic() < deadline, nodes
        time.sleep(0.5)
    assert set(nodes) == expected | {"pin_health", "reconciliation", "version_anchor", "inventory"}
    labels = {entry["label"] for entry in nodes["s3_segments"]["assetMaterializations"][0]["metadataEntries"]}
    assert {"directory", "files", "bytes", "inventory"} <= labels
    assert nodes["s3_segments"]["hasAssetChecks"]
