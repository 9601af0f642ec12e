"""The six steps over real S3, IPFS nodes and databases: what is true after each, and after each went wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from hls_pipeline import clock, drops, replicas, tables, work
from hls_pipeline.commands.doctor import check_all
from hls_pipeline.errors import Conflict, Corruption, DropChanged, Outage, PipelineError, ProofMissing, UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, build_directory
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import hash_bytes
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Drop, State, Upload
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode, block_file
from tests.services import (
    INBOX,
    MEDIA,
    TO_FINAL,
    World,
    doubled,
    free_ports,
    media_playlist,
    package,
    published,
    sample,
    ts,
    wait_until,
)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Makes the bytes of a test its own, so that nodes shared by the session do not have them yet."""
    return request.node.name


def states(world: World, video_id: str) -> list[State]:
    return [upload.state for upload in world.store.uploads_of(video_id)]


def statuses(world: World, video_id: str) -> list[str]:
    return [json.loads(version.document)["status"] for version in world.store.versions(video_id)]


def everything(world: World) -> tuple[Any, ...]:
    """What is in S3 and in the metadata store, with the contents of the media bucket."""
    with world.store._read() as db:
        rows = {t.name: sorted(map(repr, db.execute(t.select()).all())) for t in tables.metadata.sorted_tables}
    del rows["video_lease"]
    return world.inbox(), {key: world.read(key) for key in world.media()}, rows


def uris(playlist: bytes) -> list[str]:
    """Every reference in a playlist, in order."""
    text = playlist.decode()
    return [a or b for a, b in re.findall(r'URI="([^"]*)"|^([^#\s].*)$', text, re.MULTILINE)]


# ---- the whole path -----------------------------------------------------------------------------------------------

SAMPLE_CIDS = {
    "": "bafybeie4cyikolghff3gmcwgamz6fc3dgf65rhf6uwuzote6ng7fe3h37a",
    "master.m3u8": "bafkreiaklgyk3yihv3nuudip2nutct37xgfgulip5uf4npkccepguriwxe",
    "360p/seg_000.ts": "bafkreieruvawtmtg3upqtyjqsg4yfd4ydjlmhloykrmhw4vaasfiemhp4q",
    "audio/index.m3u8": "bafkreiah6a3cmr4b77z3xakgmvmq3gssquzbwyh4w7vokgkut36i3qgvzy",
}


def test_the_sample_goes_from_the_inbox_to_ipfs(world_on_each_database: World) -> None:
    world, files = world_on_each_database, sample()
    upload = world.publish_package("video_123", files)

    assert upload.state is State.PUBLISHED
    assert world.inbox() == set()
    assert statuses(world, "video_123") == ["processing", "ready"]

    cids = {file.path: file.cid for file in world.store.inventory(upload.upload_id)}
    assert {path: cids.get(path, upload.root) for path in SAMPLE_CIDS} == SAMPLE_CIDS
    assert cids.keys() == published(files).keys()
    for path, data in published(files).items():
        assert world.from_gateway(f"{upload.root}/{path}") == data, path

    cleared = world.step("clear_temp_storage", upload, "hand:clear")
    assert cleared.state is State.CLEARED
    assert world.media() == {"video_123/metadata.json"}
    assert json.loads(world.read("video_123/metadata.json")) == world.document("video_123")
    assert world.store.temp_objects(upload.upload_id) == ()
    assert world.from_gateway(f"{upload.root}/360p/seg_004.ts") == files["360p/seg_004.ts"]


def test_the_sample_has_these_content_ids() -> None:
    """A promise to everybody who has the links. Kubo's `ipfs add -rn` with this profile says the same."""
    profile = PROFILES["unixfs-v1-2025"]
    nodes = {path: hash_bytes(data, profile)[0] for path, data in published(sample()).items()}
    found = {"": build_directory(nodes, profile).root.cid, **{path: node.cid for path, node in nodes.items()}}
    assert {path: str(found[path]) for path in SAMPLE_CIDS} == SAMPLE_CIDS


def test_the_older_profile_makes_the_older_content_ids(world: World, seed: str) -> None:
    files = package(seed)
    upload = world.having(ipfs_profile="unixfs-v0-2015").publish_package("v", files)
    assert (upload.state, upload.profile) == (State.PUBLISHED, "unixfs-v0-2015")
    document = world.document("v")["video_assets"]
    for uri in (document["ipfs_directory"], document["ipfs_m3u8"], *document["segments"]):
        assert uri.startswith("ipfs://Qm")
    for path, data in published(files).items():
        assert world.from_gateway(f"{upload.root}/{path}") == data
    # A revision keeps the profile it was staged with, whatever the setting is by then.
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_a_package_without_metadata_is_a_package(world: World, seed: str) -> None:
    upload = world.publish_package("v", published(package(seed)))
    assert upload.state is State.PUBLISHED
    ours = {"video_id", "revision", "status", "play", "completed_at", "replicas", "video_assets"}
    assert world.document("v").keys() == ours


def test_names_that_need_encoding_go_through_the_whole_path(world: World, seed: str) -> None:
    segment = "ü b, c&d?=#%20+.ts"
    quoted = "%C3%BC%20b,%20c&d%3F=%23%2520+.ts"
    files = {"a list.m3u8": media_playlist(quoted), segment: ts(seed)}
    upload = world.publish_package("v", files)
    assert upload.state is State.PUBLISHED
    for path, data in files.items():
        assert world.from_gateway(f"{upload.root}/{path}") == data
    manifest = world.from_gateway(upload.manifest or "")
    (reference,) = uris(manifest)
    assert parse_qs(urlsplit(reference).query) == {"filename": [segment]}


def test_two_names_for_the_same_bytes_are_two_files_on_ipfs_and_one_object_on_s3(world: World, seed: str) -> None:
    files = {"m.m3u8": media_playlist("a.ts", "b.ts"), "a.ts": ts(seed), "b.ts": ts(seed)}
    upload = world.walk(world.drop("v", files), "stage", "write_s3_manifest")
    assert len([key for key in world.media() if key.startswith("v/r1/media/")]) == 1
    temporary = world.document("v")["video_assets"]["segments"]
    assert len(temporary) == 2
    upload = world.walk(upload, *TO_FINAL)
    assert len(world.document("v")["video_assets"]["segments"]) == 2
    assert world.from_gateway(f"{upload.root}/b.ts") == files["b.ts"]
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_a_file_of_several_blocks_goes_through(world: World, seed: str) -> None:
    large = ts(seed, packets=14_000)  # 2.6 MB: three blocks
    files = {"m.m3u8": media_playlist("large.ts"), "large.ts": large}
    upload = world.publish_package("v", files)
    assert upload.state is State.PUBLISHED, upload.report
    assert world.from_gateway(f"{upload.root}/large.ts") == large
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


# ---- 1. stage -----------------------------------------------------------------------------------------------------


def test_stage_stores_every_file_where_the_design_says(world: World, seed: str) -> None:
    files = {**package(seed), "notes/read me.txt": b"kept", "v/unused.ts": ts("unused " + seed)}
    upload = world.step("stage", world.drop("v", files))
    cids = {file.path: file.cid for file in world.store.inventory(upload.upload_id)}
    kept = {
        **{f"v/r1/media/{cids[f'v/s{n}.ts']}.ts": files[f"v/s{n}.ts"] for n in range(3)},
        **{f"v/r1/original/{path}": files[path] for path in ("master.m3u8", "v/index.m3u8")},
        **{f"v/r1/unreferenced/{path}": files[path] for path in ("notes/read me.txt", "v/unused.ts")},
    }
    assert {key: world.read(key) for key in world.media()} == kept
    assert world.inbox() == set()
    assert (upload.state, upload.revision, upload.playlist) == (State.RECEIVED, 1, "master.m3u8")


def test_the_inventory_lists_playlists_depth_first_and_then_media_at_first_mention(world: World, seed: str) -> None:
    master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2\nhi.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlo.m3u8\n"
    files = {
        "master.m3u8": master.encode(),
        "hi.m3u8": media_playlist("z.ts", "a.ts", "z.ts"),
        "lo.m3u8": media_playlist("m.ts", "a.ts"),
        **{name: ts(f"{seed} {name}") for name in ("a.ts", "m.ts", "z.ts")},
    }
    upload = world.walk(world.drop("v", files), "stage", "write_s3_manifest")
    paths = ["master.m3u8", "hi.m3u8", "lo.m3u8", "z.ts", "a.ts", "m.ts"]
    inventory = world.store.inventory(upload.upload_id)
    assert [file.path for file in inventory] == paths
    segments = [f"s3://media/{file.key}" for file in inventory[3:]]
    assert world.document("v")["video_assets"]["segments"] == segments


def test_every_object_is_on_record_before_it_is_put(world: World, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at from S3's side: at each write the row is committed already."""
    recorded: list[bool] = []
    store_of = type(world.objects)

    def watching(method: Any) -> Any:
        def watched(self: Any, *args: Any, **options: Any) -> Any:
            bucket, key = args[1] if isinstance(args[1], tuple) else args[:2]
            upload = world.store.latest_upload("v")
            if bucket == MEDIA and upload and key != "v/metadata.json":
                recorded.append(f"s3://{bucket}/{key}" in {o.cid for o in world.store.temp_objects(upload.upload_id)})
            return method(self, *args, **options)

        return watched

    upload = world.drop("v", package(seed))
    monkeypatch.setattr(store_of, "copy", watching(store_of.copy))
    monkeypatch.setattr(store_of, "put", watching(store_of.put))
    upload = world.walk(upload)
    assert len(recorded) == 7
    assert all(recorded)
    rows = world.store.temp_objects(upload.upload_id)
    assert {row.cid for row in rows} == {f"s3://media/{key}" for key in world.media() - {"v/metadata.json"}}
    assert all(world.objects.head(MEDIA, row.cid.removeprefix("s3://media/")).etag == row.etag for row in rows)


def test_a_refused_package_gets_its_report_and_stays_where_it_is(world: World, seed: str) -> None:
    files = {**package(seed), "v/s1.ts": b"<html>not media " + seed.encode()}
    upload = world.walk(world.drop("v", files))
    assert upload.state is State.REJECTED
    assert upload.revision is None
    assert world.inbox() == {f"v/{path}" for path in files} | {"v/_READY", "v/_REJECTED.json"}
    assert world.media() == set()
    assert not any(world.on_ipfs(data) for data in files.values())
    report = json.loads(world.objects.read_all(INBOX, "v/_REJECTED.json"))
    assert report == upload.report
    (error,) = report["errors"]
    assert (error["path"], error["code"]) == ("v/s1.ts", "MEDIA_UNKNOWN_TYPE")
    assert error["advice"]
    assert world.receive()[0] == []


def test_a_package_whose_metadata_names_another_video_than_its_folder_is_refused(world: World, seed: str) -> None:
    """It was published under the folder's name, and its own field was overwritten without a word."""
    files = {**package(seed), "metadata.json": b'{"video_id": "other"}'}
    upload = world.walk(world.drop("v", files))
    assert upload.state is State.REJECTED
    assert upload.report
    (error,) = upload.report["errors"]
    assert (error["code"], error["path"]) == ("META_BAD_VALUE", "metadata.json")
    assert "'other'" in error["message"]


def test_a_marked_package_that_misses_files_is_refused_at_once(world: World, seed: str) -> None:
    files = package(seed)
    del files["v/s1.ts"]
    upload = world.walk(world.drop("v", files))
    assert upload.state is State.REJECTED
    report = json.loads(world.objects.read_all(INBOX, "v/_REJECTED.json"))
    assert [(error["code"], error["path"], error["line"]) for error in report["errors"]] == [
        ("URI_MISSING_FILE", "v/index.m3u8", 8)
    ]
    assert "s1.ts" in report["errors"][0]["message"]


def test_an_unmarked_folder_that_misses_files_waits_for_them(world: World, seed: str) -> None:
    files = package(seed)
    late = {"v/s1.ts": files.pop("v/s1.ts")}
    world.put("v", files)
    first = world.walk(world.take_up())
    assert first.incomplete
    assert first.not_before is not None
    assert first.not_before > clock.now() + timedelta(minutes=59)
    assert world.inbox() == {f"v/{path}" for path in files}
    world.put("v", late)
    assert world.walk(world.take_up()).state is State.PUBLISHED
    assert states(world, "v") == [State.SUPERSEDED, State.PUBLISHED]
    assert world.inbox() == set()


@pytest.mark.parametrize(("folders", "line"), [("ab", ""), ("a", '#EXT-X-DEFINE:IMPORT="of-the-master"')])
def test_an_unmarked_folder_whose_master_comes_last_waits_for_it(
    world: World, seed: str, folders: str, line: str
) -> None:
    child = media_playlist("s.ts").replace(b"#EXT-X-VERSION:3", b"#EXT-X-VERSION:8\n" + line.encode())
    for folder in folders:
        world.put("v", {f"{folder}/index.m3u8": child, f"{folder}/s.ts": ts(seed)})
    assert world.walk(world.take_up()).incomplete


def test_an_unmarked_folder_that_stays_incomplete_is_refused_when_its_time_is_over(world: World, seed: str) -> None:
    files = package(seed)
    del files["v/s1.ts"]
    world.put("v", files)
    upload = world.walk(world.take_up())
    assert upload.incomplete
    impatient = world.having(inbox_abandon_seconds=0.0)
    assert impatient.walk(upload).state is State.REJECTED
    report = json.loads(world.objects.read_all(INBOX, "v/_REJECTED.json"))
    assert "s1.ts" in report["errors"][0]["message"]
    assert world.receive()[0] == []


@pytest.mark.parametrize("changed", ["v/s1.ts", "master.m3u8", "notes.txt"])
def test_a_drop_written_to_before_it_is_read_gives_way(world: World, seed: str, changed: str) -> None:
    files = {**package(seed), "notes.txt": b"old"}
    upload = world.drop("v", files)
    world.put("v", {changed: files[changed] + b"\n"})
    with pytest.raises(DropChanged):
        world.step("stage", upload)
    assert states(world, "v") == [State.SUPERSEDED]
    assert world.media() == set()
    assert world.inbox() == {f"v/{path}" for path in files} | {"v/_READY"}
    assert world.store.next_revision("v") == 1


def test_a_drop_written_to_while_it_is_copied_leaves_nothing_and_frees_its_number(
    world: World, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The creator's write comes after the package was accepted, between two copies."""
    files, accept = package(seed), type(world.store).accept
    upload = world.drop("v", files)

    def accept_then_overwrite(*args: Any, **options: Any) -> Upload:
        done = accept(*args, **options)
        world.put("v", {"v/s2.ts": ts("other " + seed)})
        return done

    monkeypatch.setattr(type(world.store), "accept", accept_then_overwrite)
    with pytest.raises(DropChanged):
        world.step("stage", upload)
    monkeypatch.undo()
    assert world.media() == set()
    assert world.store.temp_objects(upload.upload_id) == ()
    assert states(world, "v") == [State.SUPERSEDED]

    world.mark("v")
    again = world.walk(world.take_up())
    assert (again.state, again.revision) == (State.PUBLISHED, 1)
    assert world.from_gateway(f"{again.root}/v/s2.ts") == ts("other " + seed)
    assert world.inbox() == set()


def test_once_everything_is_copied_nothing_is_undone(world: World, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox was half empty when the run died. That an extra had gone from S3 meanwhile cost the whole package."""
    upload = world.drop("v", {**package(seed), "notes.txt": b"kept"})

    def take_out_some(objects: ObjectStore, drop: Drop) -> None:
        gone = [(item.key, item.etag, None) for item in drop.objects if item.key in ("v/notes.txt", "v/v/s1.ts")]
        objects.delete(INBOX, gone)
        raise Outage("S3 went away")

    monkeypatch.setattr(drops, "take_out", take_out_some)
    with pytest.raises(Outage):
        world.step("stage", upload)
    monkeypatch.undo()
    notes = world.objects.head(MEDIA, "v/r1/unreferenced/notes.txt")
    world.objects.delete(MEDIA, [("v/r1/unreferenced/notes.txt", notes.etag, None)])
    assert world.walk(upload).state is State.PUBLISHED
    assert world.inbox() == set()


def test_a_file_added_after_freezing_belongs_to_the_next_drop(world: World, seed: str) -> None:
    upload = world.drop("v", package(seed))
    world.put("v", {"late.ts": ts("late " + seed)})
    upload = world.walk(upload)
    assert upload.state is State.PUBLISHED
    assert world.inbox() == {"v/late.ts"}
    assert not any("late" in file.path for file in world.store.inventory(upload.upload_id))


def test_the_same_package_again_is_unchanged(world: World, seed: str) -> None:
    first = world.publish_package("v", package(seed))
    world.step("clear_temp_storage", first, "hand:clear")
    before = world.media(), world.store.versions("v")
    wait_until(lambda: clock.now() - first.created_at > timedelta(seconds=1.1), "S3's next second")
    again = world.publish_package("v", package(seed))
    assert again.state is State.UNCHANGED
    assert again.upload_id != first.upload_id
    assert (world.media(), world.store.versions("v")) == before
    assert world.inbox() == set()
    assert world.store.current_upload("v") == world.store.upload(first.upload_id)


@pytest.mark.parametrize("lost", ["a file", "the record"])
def test_the_same_package_again_mends_what_the_nodes_lost(world: World, seed: str, tmp_path: Path, lost: str) -> None:
    """The drop was taken for unchanged and deleted, though nobody had its bytes any more."""
    files = package(seed)
    with ipfs_node_fixture.running(tmp_path / "own") as node:
        own = world.having(ipfs_rpc_urls=(f"http://{node.rpc}",), ipfs_gateway_urls=(f"http://{node.gateway}",))
        first = own.publish_package("v", files)
        own.step("clear_temp_storage", first, "hand:clear")
        gone = Cid.of(files["v/s1.ts"]) if lost == "a file" else Cid.parse(first.record or "")
        block_file(tmp_path / "own", gone).unlink()
        wait_until(lambda: clock.now() - first.created_at > timedelta(seconds=1.1), "S3's next second")
        again = own.publish_package("v", files)
        assert (again.state, again.revision, again.root) == (State.PUBLISHED, 2, first.root)
        assert own.step("clear_temp_storage", again, "hand:clear").state is State.CLEARED
        assert own.from_gateway(f"{first.root}/v/s1.ts") == files["v/s1.ts"]
        assert own.from_gateway(f"{again.record}/original/master.m3u8") == files["master.m3u8"]


def test_the_same_package_again_waits_in_the_inbox_while_nobody_can_be_asked(world: World, seed: str) -> None:
    first = world.publish_package("v", package(seed))
    wait_until(lambda: clock.now() - first.created_at > timedelta(seconds=1.1), "S3's next second")
    again, waiting = world.drop("v", package(seed)), world.inbox()
    rpc, gateway = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with pytest.raises(Outage):
        world.having(ipfs_rpc_urls=(rpc,), ipfs_gateway_urls=(gateway,)).step("stage", again)
    assert world.inbox() == waiting
    assert world.step("stage", again).state is State.UNCHANGED


def test_a_changed_package_is_the_next_revision_and_the_old_one_stays_readable(world: World, seed: str) -> None:
    first = world.publish_package("v", package(seed))
    first = world.step("clear_temp_storage", first, "hand:clear")
    changed = {**package(seed), "v/s1.ts": ts("changed " + seed)}
    second = world.publish_package("v", changed)
    assert (second.state, second.revision) == (State.PUBLISHED, 2)
    assert statuses(world, "v") == ["processing", "ready", "processing", "ready"]
    assert world.document("v")["revision"] == 2
    old = json.loads(world.store.versions("v")[1].document)
    assert old["revision"] == 1
    assert world.from_gateway(f"{first.root}/v/s1.ts") == package(seed)["v/s1.ts"]
    assert world.from_gateway(f"{second.root}/v/s1.ts") == changed["v/s1.ts"]
    world.step("clear_temp_storage", second, "hand:clear")
    assert world.media() == {"v/metadata.json"}


def test_changed_metadata_alone_is_a_revision_too(world: World, seed: str) -> None:
    first = world.publish_package("v", package(seed))
    second = world.publish_package("v", {**package(seed), "metadata.json": b'{"title": "other"}'})
    assert (second.revision, second.root) == (2, first.root)
    assert world.document("v")["title"] == "other"
    for upload in (first, second):
        assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert world.from_gateway(f"{first.root}/v/s0.ts") == package(seed)["v/s0.ts"]


def test_while_the_next_revision_is_on_its_way_readers_keep_the_ready_one(world: World, seed: str) -> None:
    world.publish_package("v", package(seed))
    ready = world.document("v")
    upload = world.drop("v", {**package(seed), "v/s1.ts": ts("changed " + seed)})
    for name in TO_FINAL[:-1]:
        world.step(name, upload)
        assert world.document("v") == ready
        assert json.loads(world.read("v/metadata.json")) == ready
    world.step("finalize", upload)
    assert world.document("v")["revision"] == 2


# ---- every step twice ---------------------------------------------------------------------------------------------


def test_every_step_run_twice_changes_nothing_more(world: World, seed: str) -> None:
    files = {**package(seed), "notes.txt": b"kept"}
    upload = world.drop("v", files)
    for name in TO_FINAL:
        upload = world.step(name, upload)
        before = everything(world)
        again = world.step(name, upload)
        assert (again.state, again.root, again.record) == (upload.state, upload.root, upload.record)
        assert _without_proofs(everything(world)) == _without_proofs(before), name
    world.step("clear_temp_storage", upload, "hand:clear")
    before = everything(world)
    world.step("clear_temp_storage", upload, "hand:clear")
    assert _without_proofs(everything(world)) == _without_proofs(before)
    assert len(world.store.receipts(upload.upload_id, "deletion")) == 1


def _without_proofs(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """A step run again asks the nodes again and keeps their answers; tries and times of rows differ too."""
    inbox, media, rows = found
    kept = {name: values for name, values in rows.items() if name not in ("receipt", "upload")}
    return inbox, media, kept


def test_the_whole_path_walked_again_by_hand_changes_nothing(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    before = _without_proofs(everything(world))
    for name in TO_FINAL:
        world.step(name, upload, "hand:again")
    assert _without_proofs(everything(world)) == before
    world.step("clear_temp_storage", upload, "hand:clear")
    before = _without_proofs(everything(world))
    for name in TO_FINAL:
        assert world.step(name, upload, "hand:again").state is State.CLEARED
    assert _without_proofs(everything(world)) == before


def test_an_upload_without_a_revision_cannot_be_published(world: World, seed: str) -> None:
    upload = world.walk(world.drop("v", {**package(seed), "v/s1.ts": b"no media"}))
    for name in ("publish", "write_ipfs_manifest"):
        with pytest.raises(Conflict, match="is rejected and has no revision"):
            world.step(name, upload, f"hand:{name}")
    before = everything(world)
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.REJECTED
    assert _without_proofs(everything(world)) == _without_proofs(before)


# ---- 2. the s3 manifest -------------------------------------------------------------------------------------------


def test_every_reference_of_the_s3_manifest_is_an_object_with_the_right_bytes(world: World, seed: str) -> None:
    files = package(seed)
    world.walk(world.drop("v", files), "stage", "write_s3_manifest")
    document = world.document("v")
    assert document["s3_manifest"] == "s3://media/v/r1/s3/master.m3u8"

    def fetch(uri: str) -> bytes:
        assert uri.startswith("s3://media/v/r1/")
        return world.read(unquote(uri.removeprefix("s3://media/")))

    (rendition,) = uris(fetch(document["s3_manifest"]))
    assert rendition == "s3://media/v/r1/s3/v/index.m3u8"
    segments = uris(fetch(rendition))
    assert [fetch(uri) for uri in segments] == [files[f"v/s{n}.ts"] for n in range(3)]
    assert document["video_assets"]["segments"] == segments
    assert json.loads(world.read("v/metadata.json")) == document


def test_the_estimate_is_in_the_future_and_near(world: World, seed: str) -> None:
    world.walk(world.drop("v", package(seed)), "stage", "write_s3_manifest")
    (told,) = world.store.versions("v")
    left = clock.parse(json.loads(told.document)["estimated_completion"]) - told.time
    assert timedelta(0) < left < timedelta(seconds=10)


# ---- 3. and 4. IPFS -----------------------------------------------------------------------------------------------


def test_the_node_confirms_pin_completeness_and_our_content_ids(world: World, seed: str) -> None:
    upload = world.walk(world.drop("v", package(seed)), "stage", "write_s3_manifest", "publish")
    assert upload.state is State.PINNED
    assert world.nodes[0].pinned(Cid.parse(upload.root or "")) is not None
    receipts = world.store.receipts(upload.upload_id, "proof")
    assert {receipt["level"] for receipt in receipts} >= {"pinned", "complete"}
    assert {receipt["root"] for receipt in receipts} == {upload.root}
    assert {receipt["peer_id"] for receipt in receipts} == {world.nodes[0].peer_id()}


def test_the_record_holds_ipfs_playlists_originals_and_inventory(world: World, seed: str) -> None:
    files = package(seed)
    upload = world.publish_package("v", files)
    for path in ("master.m3u8", "v/index.m3u8"):
        assert world.from_gateway(f"{upload.record}/original/{path}") == files[path]
    inventory = json.loads(world.from_gateway(f"{upload.record}/inventory.json"))
    assert {name: inventory[name] for name in ("video_id", "revision", "directory", "playlist", "profile")} == {
        "video_id": "v",
        "revision": 1,
        "directory": upload.root,
        "playlist": "master.m3u8",
        "profile": "unixfs-v1-2025",
    }
    assert {file["path"]: file["size"] for file in inventory["files"]} == {
        path: len(data) for path, data in published(files).items()
    }
    assert world.nodes[0].pinned(Cid.parse(upload.record or "")) is not None
    listed = {file["path"]: file["cid"] for file in inventory["files"]}
    assert all(world.from_gateway(listed[path]) == data for path, data in published(files).items())


def test_every_reference_of_the_ipfs_manifest_leads_to_the_right_bytes(world: World, seed: str) -> None:
    files = package(seed)
    upload = world.publish_package("v", files)
    document = world.document("v")
    assert document["video_assets"]["ipfs_m3u8"] == f"ipfs://{upload.manifest}"

    def fetch(uri: str) -> bytes:
        return world.from_gateway(urlsplit(uri).netloc)

    master = fetch(document["video_assets"]["ipfs_m3u8"])
    assert master == world.from_gateway(f"{upload.record}/ipfs/master.m3u8")
    (rendition,) = uris(master)
    assert rendition.endswith("?filename=index.m3u8")
    assert fetch(rendition) == world.from_gateway(f"{upload.record}/ipfs/v/index.m3u8")
    segments = uris(fetch(rendition))
    assert [fetch(uri) for uri in segments] == [files[f"v/s{n}.ts"] for n in range(3)]
    assert [uri.partition("?")[2] for uri in segments] == [f"filename=s{n}.ts" for n in range(3)]


def test_files_that_no_playlist_reaches_never_go_to_ipfs(world: World, seed: str) -> None:
    secret = {"notes.txt": f"private {seed}".encode(), "v/unused.ts": ts("unused " + seed)}
    files = {**package(seed), **secret}
    upload = world.publish_package("v", files)
    world.step("clear_temp_storage", upload, "hand:clear")
    assert {key for key in world.media() if "unreferenced" in key} == {f"v/r1/unreferenced/{path}" for path in secret}
    for path, data in {**secret, "metadata.json": files["metadata.json"]}.items():
        assert not world.on_ipfs(data), path
    assert all(world.on_ipfs(data) for path, data in published(files).items() if path not in secret)


def test_s3_giving_other_bytes_than_were_staged_stops_everything(world: World, seed: str) -> None:
    upload = world.walk(world.drop("v", package(seed)), "stage", "write_s3_manifest")
    key = next(key for key in world.media() if key.startswith("v/r1/media/"))
    world.objects.put(MEDIA, key, ts("tampered " + seed), "video/mp2t")
    with pytest.raises(Corruption, match="other bytes than were staged"):
        world.step("publish", upload)
    assert states(world, "v") == [State.FAILED]
    assert statuses(world, "v") == ["processing"]


# ---- 5. the final document ----------------------------------------------------------------------------------------


def test_segments_of_both_documents_are_the_same_files_in_the_same_order(world: World, seed: str) -> None:
    files = package(seed, segments=12)
    world.publish_package("v", files)
    temporary, final = (json.loads(version.document)["video_assets"] for version in world.store.versions("v"))
    assert len(temporary["segments"]) == len(final["segments"]) == 12
    for n, (there, here) in enumerate(zip(temporary["segments"], final["segments"], strict=True)):
        data = files[f"v/s{n}.ts"]
        assert world.read(there.removeprefix("s3://media/")) == data
        assert world.from_gateway(here.removeprefix("ipfs://")) == data


def test_the_final_document_names_nothing_on_s3(world: World, seed: str) -> None:
    world.publish_package("v", package(seed))
    current = world.store.current("v")
    assert current is not None
    assert "s3" not in current.document.replace(seed, "").lower()
    assert world.document("v")["status"] == "ready"
    assert world.document("v")["replicas"] == 1


def test_finalizing_without_proof_is_refused(world: World, seed: str) -> None:
    """Here the quorum was raised after the pin: one node's word is not enough any more."""
    upload = world.walk(world.drop("v", package(seed)), *TO_FINAL[:-1])
    with pytest.raises(ProofMissing, match=r"not proven on 2 node\(s\)"):
        world.having(ipfs_quorum=2, **doubled(world.settings)).step("finalize", upload)
    assert statuses(world, "v") == ["processing"]


def test_one_node_under_two_addresses_is_no_quorum_of_two(world: World, seed: str) -> None:
    twice = world.having(ipfs_quorum=2, **doubled(world.settings))
    with pytest.raises(ProofMissing):
        twice.publish_package("v", package(seed))
    assert statuses(world, "v") == ["processing"]


def test_the_doctor_sees_that_two_addresses_are_one_node(world: World, as_environment: Any) -> None:
    as_environment(world.having(ipfs_quorum=2, **doubled(world.settings)).settings)
    found = {health.service: health for health in check_all(None)}
    first, second = doubled(world.settings)["ipfs_rpc_urls"]
    assert f"IPFS node {first}, identity" not in found
    assert first in found[f"IPFS node {second}, identity"].detail
    assert not found[f"IPFS node {second}, identity"].ok


def test_a_revision_that_failed_and_was_overtaken_gives_way(world: World, seed: str) -> None:
    first = world.walk(world.drop("v", package(seed)), *TO_FINAL[:-1])
    one_try = world.settings.model_copy(update={"max_attempts": 1})
    with pytest.raises(RuntimeError), work.holding(first, "path:run", world.store, one_try):
        raise RuntimeError("this try fails")
    assert states(world, "v") == [State.FAILED]
    second = world.publish_package("v", {**package(seed), "v/s1.ts": ts("changed " + seed)})
    assert (second.state, second.revision) == (State.PUBLISHED, 2)
    assert states(world, "v") == [State.SUPERSEDED, State.PUBLISHED]
    assert first.upload_id in [upload.upload_id for upload in world.store.due(clock.now())]
    world.step("clear_temp_storage", first, "hand:clear")
    assert not any(key.startswith("v/r1/") for key in world.media())
    assert any(key.startswith("v/r2/") for key in world.media())


# ---- 6. clean-up --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[tuple[EmbeddedNode, Path]]:
    """A node whose disk a test may damage."""
    repo = tmp_path / "own-ipfs"
    with ipfs_node_fixture.running(repo) as node:
        yield node, repo


def on(world: World, *nodes: EmbeddedNode, **changes: Any) -> World:
    return world.having(
        ipfs_rpc_urls=tuple(f"http://{node.rpc}" for node in nodes),
        ipfs_gateway_urls=tuple(f"http://{node.gateway}" for node in nodes),
        **changes,
    )


def assert_nothing_is_deleted(world: World, upload: Upload, error: type[PipelineError]) -> None:
    media, rows = world.media(), world.store.temp_objects(upload.upload_id)
    with pytest.raises(error) as caught:
        world.step("clear_temp_storage", upload, "hand:clear")
    assert world.media() == media
    assert world.store.temp_objects(upload.upload_id) == rows
    assert world.store.receipts(upload.upload_id, "deletion") == ()
    known = world.store.upload(upload.upload_id)
    assert (known.state, known.error) == (State.PUBLISHED, str(caught.value))


@pytest.mark.parametrize("which", ["root", "record"])
def test_a_pin_that_is_gone_is_made_again_before_anything_is_deleted(world: World, seed: str, which: str) -> None:
    upload = world.publish_package("v", package(seed))
    root = Cid.parse(getattr(upload, which))
    assert world.nodes[0].unpin(root)
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert world.nodes[0].pinned(root) is not None
    assert_read_back(world, upload)


def test_a_block_that_a_node_lost_is_sent_again_before_anything_is_deleted(
    world: World, seed: str, own_node: tuple[EmbeddedNode, Path]
) -> None:
    node, repo = own_node
    world = on(world, node)
    upload = world.publish_package("v", package(seed))
    block_file(repo, Cid.of(package(seed)["v/s1.ts"])).unlink()
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert world.from_gateway(f"{upload.root}/v/s1.ts") == package(seed)["v/s1.ts"]
    assert_read_back(world, upload)


def assert_read_back(world: World, upload: Upload) -> None:
    """The receipt of the deletion names evidence that every block of both directories was given back."""
    (receipt,) = world.store.receipts(upload.upload_id, "deletion")
    evidence = {item["root"] for item in receipt["evidence"] if item["level"] == "read_back"}
    assert evidence == {upload.root, upload.record}


@pytest.mark.parametrize("damage", ["other bytes", "cut short"])
def test_a_block_damaged_on_the_nodes_disk_is_mended_from_s3_or_nothing_is_deleted(
    world: World, seed: str, own_node: tuple[EmbeddedNode, Path], damage: str
) -> None:
    node, repo = own_node
    world = on(world, node)
    upload = world.publish_package("v", package(seed))
    block = block_file(repo, Cid.of(package(seed)["v/s1.ts"]))
    whole = block.read_bytes()
    block.write_bytes(bytes(len(whole)) if damage == "other bytes" else whole[:-1])
    (item,) = (item for item in world.store.temp_objects(upload.upload_id) if item.content_id == block_cid(seed))
    key = item.cid.removeprefix(f"s3://{MEDIA}/")
    world.objects.delete(MEDIA, [(key, item.etag or "", None)])
    assert_nothing_is_deleted(world, upload, ProofMissing)
    world.objects.put(MEDIA, key, package(seed)["v/s1.ts"], "video/mp2t")
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert world.from_gateway(f"{upload.root}/v/s1.ts") == package(seed)["v/s1.ts"]


def block_cid(seed: str) -> str:
    return str(Cid.of(package(seed)["v/s1.ts"]))


def test_nothing_is_deleted_when_an_object_was_replaced(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    key = sorted(key for key in world.media() if key.startswith("v/r1/media/"))[-1]
    world.objects.put(MEDIA, key, b"somebody else's", "video/mp2t")
    assert_nothing_is_deleted(world, upload, Corruption)
    assert world.read(key) == b"somebody else's"


def test_nothing_is_deleted_when_the_node_is_down(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    rpc, gateway = free_ports(2)
    down = world.having(ipfs_rpc_urls=(f"http://127.0.0.1:{rpc}",), ipfs_gateway_urls=(f"http://127.0.0.1:{gateway}",))
    assert_nothing_is_deleted(down, upload, Outage)
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_an_object_that_is_gone_already_does_not_hold_up_the_clean_up(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    item = next(item for item in world.objects.listing(MEDIA, "v/r1/media/"))
    world.objects.delete(MEDIA, [(item.key, item.etag, None)])
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_the_clean_up_leaves_a_receipt_of_what_went_and_on_whose_evidence(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    addresses = [item.cid for item in world.store.temp_objects(upload.upload_id)]
    world.step("clear_temp_storage", upload, "hand:clear")
    (receipt,) = world.store.receipts(upload.upload_id, "deletion")
    assert receipt["removed"] == addresses
    assert_read_back(world, upload)
    assert {item["peer_id"] for item in receipt["evidence"]} == {world.nodes[0].peer_id()}


def test_the_clean_up_touches_no_other_revision_and_no_other_video(world: World, seed: str) -> None:
    first = world.publish_package("v", package(seed))
    world.publish_package("v", {**package(seed), "v/s1.ts": ts("changed " + seed)})
    world.publish_package("v-2", package(seed))
    others = {key for key in world.media() if not key.startswith("v/r1/")}
    world.step("clear_temp_storage", first, "hand:clear")
    assert world.media() == others


# ---- a quorum of nodes --------------------------------------------------------------------------------------------


def test_with_a_quorum_of_two_both_nodes_hold_it(
    world: World, seed: str, ipfs_node: EmbeddedNode, second_ipfs_node: EmbeddedNode
) -> None:
    both = on(world, ipfs_node, second_ipfs_node, ipfs_quorum=2)
    upload = both.publish_package("v", package(seed))
    assert both.document("v")["replicas"] == 2
    for number in (0, 1):
        assert both.from_gateway(f"{upload.root}/v/s2.ts", node=number) == package(seed)["v/s2.ts"]
    assert both.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_a_quorum_that_is_not_there_waits_and_goes_on_when_the_node_is_back(
    world: World, seed: str, ipfs_node: EmbeddedNode, tmp_path: Path
) -> None:
    """A node that is down is an outage: it uses up none of the upload's tries."""
    rpc, gateway = (f"127.0.0.1:{port}" for port in free_ports(2))
    settings = on(world, ipfs_node).settings
    both = world.having(
        ipfs_rpc_urls=(*settings.ipfs_rpc_urls, f"http://{rpc}"),
        ipfs_gateway_urls=(*settings.ipfs_gateway_urls, f"http://{gateway}"),
        ipfs_quorum=2,
    )
    upload = both.walk(both.drop("v", package(seed)), "stage", "write_s3_manifest")
    for _ in range(3):
        with pytest.raises((Outage, ProofMissing)):
            both.step("publish", upload)
    waiting = world.store.upload(upload.upload_id)
    assert (waiting.state, waiting.attempts) == (State.STAGED, 0)
    assert rpc in (waiting.error or "")
    with ipfs_node_fixture.running(tmp_path / "ipfs", "--rpc", rpc, "--gateway", gateway):
        done = both.walk(upload, *TO_FINAL)
        assert done.state is State.PUBLISHED
        assert both.document("v")["replicas"] == 2


def test_a_quorum_of_one_is_served_while_another_node_is_down(world: World, seed: str, ipfs_node: EmbeddedNode) -> None:
    rpc, gateway = free_ports(2)
    settings = on(world, ipfs_node).settings
    some = world.having(
        ipfs_rpc_urls=(f"http://127.0.0.1:{rpc}", *settings.ipfs_rpc_urls),
        ipfs_gateway_urls=(f"http://127.0.0.1:{gateway}", *settings.ipfs_gateway_urls),
    )
    assert some.publish_package("v", package(seed)).state is State.PUBLISHED
    assert some.document("v")["replicas"] == 1


# ---- services that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stage", "write_s3_manifest", "publish", "write_ipfs_manifest"])
def test_an_outage_of_s3_puts_the_upload_off_and_uses_up_no_try(world: World, seed: str, name: str) -> None:
    upload = world.drop("v", package(seed))
    for earlier in TO_FINAL[: TO_FINAL.index(name)]:
        upload = world.step(earlier, upload)
    world.store.release_all()
    before = world.store.upload(upload.upload_id)
    (port,) = free_ports(1)
    with pytest.raises(Outage):
        world.having(s3_endpoint=f"http://127.0.0.1:{port}").step(name, upload, "path:other")
    after = world.store.upload(upload.upload_id)
    assert (after.state, after.attempts) == (before.state, before.attempts)
    assert after.not_before is not None
    assert world.walk(upload, *TO_FINAL).state is State.PUBLISHED


def test_settings_that_cannot_make_the_quorum_are_a_usage_error(s3_and_ipfs: Settings) -> None:
    with pytest.raises(UsageError, match="HLS_IPFS_QUORUM is 2, but only 1"):
        replicas.connect(s3_and_ipfs.model_copy(update={"ipfs_quorum": 2}))
    with pytest.raises(UsageError, match="HLS_IPFS_GATEWAY_URLS"):
        replicas.connect(s3_and_ipfs.model_copy(update={"ipfs_gateway_urls": ()}))
    two = doubled(s3_and_ipfs)
    for name in two:
        same = {**two, name: (two[name][0], f"{two[name][0]}/")}
        with pytest.raises(UsageError, match=f"HLS_{name.upper()} names an address twice"):
            replicas.connect(s3_and_ipfs.model_copy(update=same))
