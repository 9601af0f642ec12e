"""Published revisions made once more from IPFS: new versions where something differs, the old ones kept."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from hls_pipeline import clock, evidence, keys, remaking, tables, withdrawal
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, FileBuilder
from hls_pipeline.upkeep import repinning
from hls_pipeline.uploads import State, Upload
from tests.services import TO_FINAL, World, media_playlist, package, published, ts

OTHER = "unixfs-v0-2015"


@pytest.fixture
def files(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """With a segment of several blocks, and a playlist that is published in another spelling."""
    seed = request.node.name
    playlist = media_playlist("s0.ts", "../v/s1.ts", "s2.ts", comment=seed)
    return {**package(seed), "v/index.m3u8": playlist, "v/s2.ts": ts(seed, 7000)}


@pytest.fixture
def cleared(world: World, files: dict[str, bytes]) -> Upload:
    return world.step("clear_temp_storage", world.publish_package("v", files), "hand:clear")


def by_hand(world: World, video_id: str, holder: str = "hand:run") -> Upload:
    """What a run by hand, or of a backfill, does with a partition."""
    upload = world.store.held_by(video_id, holder) or world.store.current_upload(video_id)
    assert upload
    if remaking.wanted(upload, world.settings):
        upload = remaking.begin(upload, holder, world.objects, world.nodes, world.store, world.settings)
    for name in TO_FINAL:
        upload = world.step(name, upload, holder)
    return upload


def versions(world: World, video_id: str = "v") -> list[dict[str, Any]]:
    return [json.loads(version.document) for version in world.store.versions(video_id)]


def test_the_same_content_once_more_changes_nothing(world: World, cleared: Upload) -> None:
    before, media = versions(world), world.media()
    assert by_hand(world, "v").state is State.CLEARED
    assert versions(world) == before
    assert world.media() == media
    assert [upload.upload_id for upload in world.store.uploads_of("v")] == [cleared.upload_id]


def test_another_profile_gives_a_new_revision_and_keeps_the_old_one(
    world: World, cleared: Upload, files: dict[str, bytes]
) -> None:
    other = world.having(ipfs_profile=OTHER)
    made = by_hand(other, "v")
    assert (made.state, made.revision, made.profile) == (State.PUBLISHED, 2, OTHER)
    assert (made.root or "").startswith("Qm")
    document = world.document("v")
    assert document["revision"] == 2
    assert document["title"] == versions(world)[0]["title"]
    builder = FileBuilder(PROFILES[OTHER])
    for _ in builder.feed(files["v/s2.ts"]):
        pass
    assert document["video_assets"]["segments"][2] == f"ipfs://{builder.finish()[0].cid}"
    for path, data in published(files).items():
        if path != "v/index.m3u8":
            assert world.from_gateway(f"{made.root}/{path}") == data
    assert b"".join(world.nodes[0].read(f"{made.record}/original/v/index.m3u8")) == files["v/index.m3u8"]
    assert [each["revision"] for each in versions(world)] == [1, 1, 2]
    for root in (cleared.root, cleared.record, made.root, made.record):
        assert world.nodes[0].pinned(Cid.parse(root or ""))
    assert world.store.upload(cleared.upload_id).state is State.CLEARED
    assert world.media() == {"v/metadata.json"}
    assert [version.actor for version in world.store.versions("v")] == ["inbox", "inbox", "backfill"]
    assert by_hand(other, "v").upload_id == made.upload_id
    assert len(versions(world)) == 3
    back = by_hand(world, "v")
    assert (back.revision, back.root) == (3, cleared.root)


def test_it_is_the_same_directory_as_if_the_package_had_come_under_that_profile(
    world: World, cleared: Upload, files: dict[str, bytes]
) -> None:
    other = world.having(ipfs_profile=OTHER)
    assert by_hand(other, "v").root == other.publish_package("w", files).root


def test_a_rewriting_fix_gives_a_new_version_of_the_same_revision(
    world: World, cleared: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(world)
    spelled = keys.ipfs_reference
    monkeypatch.setattr(keys, "ipfs_reference", lambda cid, path: spelled(cid, path) + "&fixed")
    made = by_hand(world, "v")
    *old, new = versions(world)
    assert old == before
    assert (new["revision"], made.upload_id, made.root) == (1, cleared.upload_id, cleared.root)
    assert new["video_assets"]["ipfs_record"] == f"ipfs://{made.record}" != before[-1]["video_assets"]["ipfs_record"]
    assert b"&fixed" in b"".join(world.nodes[0].read(f"{made.record}/ipfs/v/index.m3u8"))
    assert world.document("v") == new
    assert json.loads(world.read("v/metadata.json")) == new
    assert by_hand(world, "v").record == made.record
    assert len(versions(world)) == len(before) + 1
    assert list(evidence.problems(evidence.collect("v", world.store))) == []
    world.nodes[0].unpin(Cid.parse(cleared.record or ""))
    found = repinning.check(world.objects, world.nodes, world.store, world.settings)
    assert found.wanted == 3, "the record that older versions name is kept, too"
    assert world.nodes[0].pinned(Cid.parse(cleared.record or ""))


def test_what_was_withdrawn_is_left_alone(world: World, cleared: Upload) -> None:
    services = {"objects": world.objects, "nodes": world.nodes, "store": world.store, "settings": world.settings}
    withdrawal.withdraw("v", actor="test", reason="a test", **services)  # type: ignore[arg-type]
    gone = world.store.upload(cleared.upload_id)
    assert not remaking.wanted(gone, world.having(ipfs_profile=OTHER).settings)
    for name in TO_FINAL:
        assert world.step(name, gone, "hand:run").state is State.WITHDRAWN
    assert world.nodes[0].pinned(Cid.parse(cleared.root or "")) is None
    assert world.store.claims(cleared.upload_id) == ()


def test_a_video_whose_keys_a_service_has_names_them_where_the_service_is_now(world: World) -> None:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6", '#EXT-X-KEY:METHOD=AES-128,URI="one.key"']
    lines += ["#EXTINF:6.0,", "s0.ts", "#EXT-X-ENDLIST", ""]
    guarded = {"index.m3u8": "\n".join(lines).encode(), "one.key": bytes(range(16)), "s0.ts": ts("guarded", 4)}
    settings = {"keys": "external", "s3_keys": "inbox", "key_service_url": "https://keys.example/{path}"}
    world.having(**settings).publish_package("v", guarded)
    moved = {**settings, "key_service_url": "https://moved.example/{path}"}
    made = by_hand(world.having(**moved, ipfs_profile=OTHER), "v")
    assert (made.state, made.revision) == (State.PUBLISHED, 2)
    assert world.objects.read_all("inbox", "v/r2/one.key") == bytes(range(16)), "where the service looks"
    assert b'URI="https://moved.example/v/one.key"' in world.from_gateway(f"{made.root}/index.m3u8")
    assert b'URI="one.key"' in b"".join(world.nodes[0].read(f"{made.record}/original/index.m3u8"))


def test_settings_that_were_changed_since_change_nothing_of_what_is_published(world: World) -> None:
    """A video with its key inside could not be read again, nor be repinned, once keys were refused."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6", '#EXT-X-KEY:METHOD=AES-128,URI="/one.key"']
    lines += ["#EXTINF:6.0,", "/s0.ts", "#EXT-X-ENDLIST", ""]
    files = {"index.m3u8": "\n".join(lines).encode(), "one.key": bytes(range(16)), "s0.ts": ts("unprotected", 4)}
    world.having(keys="publish", root_relative=True).publish_package("v", files)
    made = by_hand(world.having(ipfs_profile=OTHER), "v")
    assert (made.state, made.revision) == (State.PUBLISHED, 2)
    assert world.from_gateway(f"{made.root}/one.key") == bytes(range(16))


def test_a_run_that_died_in_the_middle_is_taken_up_and_makes_no_second_revision(world: World, cleared: Upload) -> None:
    other = world.having(ipfs_profile=OTHER)
    begun = remaking.begin(cleared, "hand:dead", other.objects, other.nodes, other.store, other.settings)
    held = other.store.held_by("v", "hand:dead")
    assert held
    assert held.upload_id == begun.upload_id
    later = clock.now() + timedelta(seconds=other.settings.lease_seconds + 1)
    assert [upload.upload_id for upload in other.store.ready_to_run(later)] == [begun.upload_id]
    other.store.release_all()
    made = by_hand(other, "v", "hand:again")
    assert (made.upload_id, made.state, made.revision) == (begun.upload_id, State.PUBLISHED, 2)
    assert len(world.store.uploads_of("v")) == 2


def copied(world: World, names: list[str]) -> None:
    """The one video of the database under more names, as if the same package had been sent under each."""
    with world.store.writing() as db:
        for table in (table for table in tables.metadata.sorted_tables if table.name != "video_lease"):
            for row in db.execute(sa.select(table)).mappings().all():
                for name in names:
                    own = {"video_id": name, "upload_id": f"upload-{name}", "id": None}
                    db.execute(sa.insert(table).values({key: own.get(key, value) for key, value in row.items()}))


def test_fifty_videos_stopped_half_way_and_resumed(world: World, cleared: Upload) -> None:
    """The first try ends in the middle of the 25th video; the second begins with the last that was finished."""
    names = [f"v{number:02}" for number in range(1, 50)]
    copied(world, names)
    other = world.having(ipfs_profile=OTHER)
    for name in names[:24]:
        by_hand(other, name)
    current = other.store.current_upload(names[24])
    assert current
    died = remaking.begin(current, "hand:died", other.objects, other.nodes, other.store, other.settings)
    other.walk(died, "publish", holder="hand:died")
    other.store.release_all()
    for name in ("v", *names[23:]):
        by_hand(other, name, "hand:second")
    for name in ("v", *names):
        upload = world.store.current_upload(name)
        assert upload
        assert (upload.state, upload.revision, upload.profile) == (State.PUBLISHED, 2, OTHER)
        assert [each["revision"] for each in versions(world, name)] == [1, 1, 2]
        assert world.document(name)["video_assets"]["ipfs_directory"] == f"ipfs://{upload.root}"
        assert upload.upload_id == died.upload_id or name != names[24]
    assert repinning.check(world.objects, world.nodes, world.store, world.settings).healthy


def test_a_backfill_that_was_stopped_has_only_the_rest_left_to_do(
    world: World, cleared: Upload, files: dict[str, bytes]
) -> None:
    world.publish_package("w", {**files, "v/s2.ts": ts("w", 7000)})
    world.walk(world.drop("staged", package("staged")), "stage", "write_s3_manifest")
    assert world.store.ready_videos() == world.store.ready_videos(OTHER) == ("v", "w")
    by_hand(world.having(ipfs_profile=OTHER), "v")
    assert world.store.ready_videos(OTHER) == ("w",)


def test_a_revision_from_ipfs_that_a_newer_package_overtook_leaves_no_pins_and_no_keys(world: World) -> None:
    """It has nothing in S3 that would become due: its pins stayed for ever."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6", '#EXT-X-KEY:METHOD=AES-128,URI="one.key"']
    lines += ["#EXTINF:6.0,", "s0.ts", "#EXT-X-ENDLIST", ""]
    guarded = {"index.m3u8": "\n".join(lines).encode(), "one.key": bytes(range(16)), "s0.ts": ts("overtaken", 4)}
    world = world.having(keys="external", s3_keys="media", key_service_url="https://keys.example/{path}")
    first = world.publish_package("v", guarded)
    other = world.having(ipfs_profile=OTHER)
    begun = remaking.begin(first, "hand:dead", other.objects, other.nodes, other.store, other.settings)
    overtaken = other.walk(begun, "publish", "write_ipfs_manifest", holder="hand:dead")
    lease = world.store.take_lease(overtaken, "hand:dead", clock.now(), 20)
    world.store.fail(lease, "its tries are used up", clock.now())
    world.store.release(lease)
    newest = world.publish_package("v", package("newer"))
    assert world.store.upload(overtaken.upload_id).state is State.SUPERSEDED
    assert overtaken.upload_id in [upload.upload_id for upload in world.store.due(clock.now())]
    assert world.step("clear_temp_storage", overtaken, "hand:clear").state is State.SUPERSEDED
    assert world.store.claims(overtaken.upload_id) == world.store.temp_objects(overtaken.upload_id) == ()
    pinned = {root: bool(world.nodes[0].pinned(Cid.parse(root or ""))) for root in (overtaken.root, overtaken.record)}
    assert pinned == {overtaken.root: False, overtaken.record: False}
    assert all(world.nodes[0].pinned(Cid.parse(root or "")) for root in (first.root, newest.root))
    assert {key for key in world.media() if key.endswith(".key")} == {"v/r1/one.key"}
