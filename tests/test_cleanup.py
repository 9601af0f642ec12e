"""S3 is emptied by itself and never a byte too early: what is odd, kept or held stays, and dying changes nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from hls_pipeline import clock, rehydration, tables, temp_storage, work
from hls_pipeline.cli import app
from hls_pipeline.errors import Corruption, DropChanged, LeaseLost, Outage, ProofMissing
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.metadata_store import TempObject
from hls_pipeline.uploads import State, Upload
from tests import crashes
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import block_file
from tests.services import MEDIA, CopiesOf, Postgres, World, package, ts

CLEAR = "clear_temp_storage"


@pytest.fixture
def bucket(world: World) -> Iterator[Callable[..., World]]:
    """The world with a new media bucket, versioned or with object lock; both are emptied afterwards."""
    made = []

    def make(*, lock: bool = False) -> World:
        name = f"media-{secrets.token_hex(4)}"
        client = world.objects._client
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        made.append(name)
        return world.having(s3_media=name)

    yield make
    for name in made:
        world.objects.delete_versions(name, "")


def addresses(world: World, upload: Upload) -> set[str]:
    return {item.cid for item in world.store.temp_objects(upload.upload_id)}


def row(world: World, upload: Upload, ending: str) -> TempObject:
    (found,) = (item for item in world.store.temp_objects(upload.upload_id) if item.cid.endswith(ending))
    return found


def key(world: World, item: TempObject) -> str:
    return item.cid.removeprefix(f"s3://{world.settings.s3_media}/")


def findings(world: World, upload: Upload) -> list[dict[str, Any]]:
    return list(world.store.receipts(upload.upload_id, "finding"))


def versions(world: World, prefix: str = "") -> list[str]:
    return [one.key for one in world.objects.versions(world.settings.s3_media, prefix)]


def refuses(world: World, upload: Upload) -> str:
    """The clean-up raises Corruption and everything stays; what it says."""
    before = versions(world), addresses(world, upload)
    with pytest.raises(Corruption) as caught:
        world.step(CLEAR, upload, "hand:clear")
    assert (versions(world), addresses(world, upload)) == before
    assert world.store.receipts(upload.upload_id, "deletion") == ()
    return str(caught.value)


# ---- anything odd -------------------------------------------------------------------------------------------------


def test_an_object_that_was_replaced_is_a_finding_that_status_shows_once(world: World, as_environment: Any) -> None:
    upload = world.publish_package("v", package("odd"))
    item = row(world, upload, "s3/master.m3u8")
    seen = world.objects.put(MEDIA, key(world, item), b"#EXTM3U", "text/plain")
    for _ in range(3):
        assert "somebody replaced it" in refuses(world, upload)
    (finding,) = findings(world, upload)
    assert (finding["finding"], finding["object"]) == ("object_changed", item.cid)
    assert finding["staged"] == {"etag": item.etag, "size": item.size, "version_id": None}
    assert finding["seen"] == {"etag": seen.etag, "size": 7, "version_id": None}

    as_environment(world.settings)
    text = CliRunner().invoke(app, ["status", "v"], catch_exceptions=False).stdout
    assert f"object_changed: {item.cid} is not what was staged" in text.replace("\n", "")
    about = json.loads(CliRunner().invoke(app, ["status", "v", "--json"], catch_exceptions=False).stdout)
    assert [found["object"] for found in about["findings"]] == [item.cid]
    assert about["in_s3"]["objects"] == len(addresses(world, upload))


def test_an_object_nobody_confirmed_is_odd_in_a_published_revision(world: World) -> None:
    upload = world.publish_package("v", package("unconfirmed"))
    item = row(world, upload, "s3/master.m3u8")
    with world.store.writing() as db:
        db.execute(sa.update(tables.temp_storage).filter_by(cid=item.cid).values(etag=None))
    assert "never confirmed" in refuses(world, upload)


def test_an_object_replaced_while_others_are_deleted_stays(world: World) -> None:
    """Between the look and the delete: the delete itself is tied to the ETag."""
    upload = world.publish_package("v", package("meanwhile"))
    item = row(world, upload, "s3/master.m3u8")

    def replace(**_: Any) -> None:
        events.unregister("before-call.s3.DeleteObjects", replace)
        world.objects.put(MEDIA, key(world, item), b"somebody else's", "text/plain")

    events = world.objects._client.meta.events
    events.register("before-call.s3.DeleteObjects", replace)
    with pytest.raises(Corruption, match="replaced just now"):
        world.step(CLEAR, upload, "hand:clear")
    assert world.read(key(world, item)) == b"somebody else's"
    assert addresses(world, upload) == {item.cid}
    assert [found["object"] for found in findings(world, upload)] == [item.cid]
    assert world.store.upload(upload.upload_id).state is State.PUBLISHED


def test_who_loses_the_video_between_two_batches_deletes_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_storage, "_AT_ONCE", 2)
    upload = world.publish_package("v", package("batches"))
    before = addresses(world, upload)

    def lose(**_: Any) -> None:
        with world.store.writing() as db:
            db.execute(sa.update(tables.video_lease).values(fence=tables.video_lease.c.fence + 1))

    events = world.objects._client.meta.events
    events.register("after-call.s3.DeleteObjects", lose)
    try:
        with pytest.raises(LeaseLost):
            world.step(CLEAR, upload, "hand:clear")
    finally:
        events.unregister("after-call.s3.DeleteObjects", lose)
    assert len(world.media() & {address.removeprefix(f"s3://{MEDIA}/") for address in before}) == len(before) - 2
    world.store.release_all()
    assert world.step(CLEAR, upload, "hand:next").state is State.CLEARED
    removed = [cid for receipt in world.store.receipts(upload.upload_id, "deletion") for cid in receipt["removed"]]
    assert sorted(removed) == sorted(before)


def test_who_was_suspended_between_two_batches_proves_again_before_it_deletes_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temp_storage, "_AT_ONCE", 2)
    upload = world.publish_package("v", package("suspended"))
    before = addresses(world, upload)
    real = clock.now

    def sleep(**_: Any) -> None:
        monkeypatch.setattr(clock, "now", lambda: real() + timedelta(hours=3))

    events = world.objects._client.meta.events
    events.register("after-call.s3.DeleteObjects", sleep)
    try:
        with pytest.raises(ProofMissing, match="the next try proves it anew"):
            world.step(CLEAR, upload, "hand:clear")
    finally:
        events.unregister("after-call.s3.DeleteObjects", sleep)
    assert len(addresses(world, upload)) == len(before) - 2
    assert world.step(CLEAR, upload, "hand:next").state is State.CLEARED


# ---- what stays on purpose ----------------------------------------------------------------------------------------


def test_what_a_pattern_keeps_stays_and_is_no_longer_due(world: World) -> None:
    keeping = world.having(s3_keep=("*/original/*", "other/*"))
    upload = keeping.publish_package("v", package("kept"))
    assert keeping.step(CLEAR, upload, "hand:clear").state is State.CLEARED
    left = {"v/r1/original/master.m3u8", "v/r1/original/v/index.m3u8"}
    assert world.media() == left | {"v/metadata.json"}
    assert addresses(world, upload) == {f"s3://{MEDIA}/{name}" for name in left}
    assert world.store.due(clock.now() + timedelta(days=1000)) == ()


def test_what_is_not_due_yet_is_not_touched(world: World) -> None:
    patient = world.having(s3_grace_seconds=3600.0)
    upload = patient.publish_package("v", package("grace"))
    before = world.media()
    assert patient.step(CLEAR, upload, "hand:clear").state is State.PUBLISHED
    assert world.media() == before


def test_a_legal_hold_is_respected_and_looked_at_again_in_a_day(bucket: Callable[..., World]) -> None:
    world = bucket(lock=True)
    name, client = world.settings.s3_media, world.objects._client
    upload = world.publish_package("v", package("held"))
    item = row(world, upload, "s3/master.m3u8")
    held = {"Bucket": name, "Key": key(world, item)}
    client.put_object_legal_hold(**held, LegalHold={"Status": "ON"})
    assert world.step(CLEAR, upload, "hand:clear").state is State.CLEARED
    assert versions(world, "v/r1/") == [key(world, item)]
    assert client.get_object_tagging(**held)["TagSet"] == [{"Key": "hls", "Value": "cleared"}]
    left = row(world, upload, "s3/master.m3u8")
    assert left.due_at is not None
    assert timedelta(hours=23) < left.due_at - clock.now() <= timedelta(days=1)
    assert world.store.due(clock.now()) == ()
    assert [due.upload_id for due in world.store.due(left.due_at)] == [upload.upload_id]

    client.put_object_legal_hold(**held, LegalHold={"Status": "OFF"})
    with world.store.writing() as db:
        db.execute(sa.update(tables.temp_storage).values(due_at=clock.now()))
    world.step(CLEAR, upload, "hand:clear")
    assert versions(world, "v/r1/") == []
    assert addresses(world, upload) == set()


def test_what_a_hold_kept_is_no_more_to_be_removed_by_s3_once_it_is_brought_back(bucket: Callable[..., World]) -> None:
    world = bucket(lock=True)
    upload = world.publish_package("v", package("held and brought back"))
    held = {"Bucket": world.settings.s3_media, "Key": key(world, row(world, upload, "s3/master.m3u8"))}
    client = world.objects._client
    client.put_object_legal_hold(**held, LegalHold={"Status": "ON"})
    world.step(CLEAR, upload, "hand:clear")
    assert client.get_object_tagging(**held)["TagSet"]
    with work.holding(upload, "hand:rehydrate", world.store, world.settings, last=True) as lease:
        rehydration.rehydrate(upload, lease, world.objects, world.nodes, world.store, world.settings)
    assert client.get_object_tagging(**held)["TagSet"] == []
    client.put_object_legal_hold(**held, LegalHold={"Status": "OFF"})


# ---- versioned buckets --------------------------------------------------------------------------------------------


def test_in_a_versioned_bucket_no_version_and_no_marker_stays_behind(bucket: Callable[..., World]) -> None:
    """An original was put twice, because a run was cut off before it could say so; somebody deleted a manifest."""
    world = bucket()
    files = package("versions")
    upload = world.walk(world.drop("v", files), "stage")
    item = row(world, upload, "original/master.m3u8")
    again = world.objects.put(world.settings.s3_media, key(world, item), files["master.m3u8"], "text/plain")
    with world.store.writing() as db:
        mine = sa.update(tables.temp_storage).filter_by(cid=item.cid)
        db.execute(mine.values(version_id=again.version_id))
    world.walk(upload)
    gone = row(world, upload, "s3/v/index.m3u8")
    world.objects._client.delete_object(Bucket=world.settings.s3_media, Key=key(world, gone))
    assert len(versions(world, "v/r1/")) == len(addresses(world, upload)) + 2
    assert world.step(CLEAR, upload, "hand:clear").state is State.CLEARED
    assert versions(world, "v/r1/") == []


def test_in_a_versioned_bucket_a_package_that_gave_way_leaves_no_version_behind(bucket: Callable[..., World]) -> None:
    """The next one has the same revision number and other bytes under the same keys: those would be odd for ever."""
    world = bucket().having(s3_parallel=1)
    upload = world.drop("v", package("gave way"))

    def change(**_: Any) -> None:
        world.put("v", {"v/s2.ts": ts("changed")})

    events = world.objects._client.meta.events
    events.register("after-call.s3.CopyObject", change)
    with pytest.raises(DropChanged):
        world.step("stage", upload)
    events.unregister("after-call.s3.CopyObject", change)
    assert versions(world) == []
    again = world.publish_package("v", package("next"))
    assert again.revision == 1
    assert world.step(CLEAR, again, "hand:clear").state is State.CLEARED


@pytest.mark.parametrize("same", [False, True], ids=["other bytes", "the same bytes"])
def test_in_a_versioned_bucket_a_version_that_is_not_ours_is_odd(bucket: Callable[..., World], same: bool) -> None:
    world = bucket()
    upload = world.publish_package("v", package("overwritten"))
    item = row(world, upload, "s3/master.m3u8")
    data = world.objects.read_all(world.settings.s3_media, key(world, item)) if same else b"#EXTM3U"
    world.objects.put(world.settings.s3_media, key(world, item), data, "text/plain")
    says = "was written again by somebody" if same else "somebody replaced it"
    assert says in refuses(world, upload)


def test_in_a_versioned_bucket_what_is_written_during_the_clean_up_stays_and_is_a_finding(
    bucket: Callable[..., World],
) -> None:
    """The delete names versions, so it does not notice a new one."""
    world = bucket()
    upload = world.publish_package("v", package("written meanwhile"))
    item = row(world, upload, "s3/master.m3u8")

    def write(**_: Any) -> None:
        events.unregister("before-call.s3.DeleteObjects", write)
        world.objects.put(world.settings.s3_media, key(world, item), b"somebody else's", "text/plain")

    events = world.objects._client.meta.events
    events.register("before-call.s3.DeleteObjects", write)
    with pytest.raises(Corruption, match="written again while it was removed"):
        world.step(CLEAR, upload, "hand:clear")
    assert versions(world, "v/r1/") == [key(world, item)]
    assert world.objects.read_all(world.settings.s3_media, key(world, item)) == b"somebody else's"
    assert [found["object"] for found in findings(world, upload)] == [item.cid]


# ---- nodes that lost something ------------------------------------------------------------------------------------


def test_a_node_of_the_quorum_that_lost_blocks_is_filled_up_before_anything_is_deleted(
    world: World, tmp_path: Path
) -> None:
    with ipfs_node_fixture.running(tmp_path / "second") as second:
        both = world.having(
            ipfs_quorum=2,
            ipfs_rpc_urls=(*world.settings.ipfs_rpc_urls, f"http://{second.rpc}"),
            ipfs_gateway_urls=(*world.settings.ipfs_gateway_urls, f"http://{second.gateway}"),
        )
        files = package("lost on one")
        upload = both.publish_package("v", files)
        assert upload.record is not None
        for lost in (Cid.of(files["v/s0.ts"]), Cid.of(files["v/s2.ts"]), Cid.parse(upload.record)):
            block_file(tmp_path / "second", lost).unlink()
        assert both.step(CLEAR, upload, "hand:clear").state is State.CLEARED
        for number in (0, 1):
            assert both.from_gateway(f"{upload.root}/v/s2.ts", node=number) == files["v/s2.ts"]
            assert both.from_gateway(f"{upload.record}/ipfs/master.m3u8", node=number)


def test_a_node_that_lost_a_block_whose_s3_copy_is_gone_too_keeps_the_rest_in_s3(world: World, tmp_path: Path) -> None:
    with ipfs_node_fixture.running(tmp_path / "own") as node:
        own = world.having(ipfs_rpc_urls=(f"http://{node.rpc}",), ipfs_gateway_urls=(f"http://{node.gateway}",))
        upload = own.publish_package("v", package("lost twice"))
        item = row(own, upload, "original/master.m3u8")
        own.objects.delete(MEDIA, [(key(own, item), item.etag or "", None)])
        block_file(tmp_path / "own", Cid.parse(upload.root or "")).unlink()
        before = own.media()
        with pytest.raises(ProofMissing, match="S3 cannot fill it up either"):
            own.step(CLEAR, upload, "hand:clear")
        assert own.media() == before


def test_a_node_that_lost_a_block_after_a_clean_up_was_cut_off_is_filled_up_from_what_s3_still_has(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some of its objects gone, all of the revision was looked for on IPFS alone."""
    monkeypatch.setattr(temp_storage, "_AT_ONCE", 2)
    files = package("cut off and lost")
    with ipfs_node_fixture.running(tmp_path / "own") as node:
        own = world.having(ipfs_rpc_urls=(f"http://{node.rpc}",), ipfs_gateway_urls=(f"http://{node.gateway}",))
        upload = own.publish_package("v", files)
        removed = iter(range(9))
        removing = type(own.store).objects_removed

        def one_batch(*arguments: Any) -> None:
            removing(*arguments)
            if next(removed) == 0:
                raise Outage("the database went away")

        monkeypatch.setattr(type(own.store), "objects_removed", one_batch)
        with pytest.raises(Outage):
            own.step(CLEAR, upload, "hand:clear")
        left = {item.content_id for item in own.store.temp_objects(upload.upload_id)}
        lost = next(cid for name in ("v/s0.ts", "v/s1.ts") if str(cid := Cid.of(files[name])) in left)
        block_file(tmp_path / "own", lost).unlink()
        assert own.step(CLEAR, upload, "hand:next").state is State.CLEARED
        for name in ("v/s0.ts", "v/s1.ts", "v/s2.ts"):
            assert own.from_gateway(f"{upload.root}/{name}") == files[name]
        assert not any(name.startswith("v/r1/") for name in own.media())


# ---- dying in the middle ------------------------------------------------------------------------------------------


def test_killed_between_any_two_statements_the_clean_up_is_finished_by_the_next_run(
    world_on_each_database: World, copies_of: CopiesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = world_on_each_database
    upload = prepared.publish_package("v", package("killed while clearing"))
    prepared.store.release_all()
    staged = {item.key: prepared.read(item.key) for item in prepared.objects.listing(MEDIA)}
    all_rows = addresses(prepared, upload)
    for point, world in zip(crashes.points(), copies_of(prepared), strict=False):
        for name in staged.keys() - world.media():
            world.objects.put(MEDIA, name, staged[name], "text/plain")
        through = crashes.survives(world.settings, CLEAR, upload.upload_id, point)
        there = {f"s3://{MEDIA}/{name}" for name in world.media() if name.startswith("v/r1/")}
        assert there <= addresses(world, upload)  # what is left is on record
        world.store.release_all()
        assert world.step(CLEAR, upload, "path:next").state is State.CLEARED
        assert world.media() == {"v/metadata.json"}
        receipts = world.store.receipts(upload.upload_id, "deletion")
        assert sorted(cid for receipt in receipts for cid in receipt["removed"]) == sorted(all_rows)
        assert all(receipt["evidence"] for receipt in receipts)
        assert world.store.due(clock.now() + timedelta(days=1)) == ()
        world.store._engine.dispose()
        if through:
            break
    assert point > 8


def test_a_database_that_goes_down_in_the_middle_costs_nothing(world_on_postgres: World, postgres: Postgres) -> None:
    world = world_on_postgres
    upload = world.publish_package("v", package("hung up while clearing"))
    database = world.settings.database_url.rpartition("/")[2]
    crashes.arm(world, 8, lambda: postgres.take_down(database))
    for _ in range(2):
        with pytest.raises(Outage):
            world.step(CLEAR, upload, "path:first")
    postgres.bring_up(database)
    there = {f"s3://{MEDIA}/{name}" for name in world.media() if name.startswith("v/r1/")}
    assert there <= addresses(world, upload)
    world.store.release_all()
    assert world.step(CLEAR, upload, "path:next").state is State.CLEARED
    assert world.media() == {"v/metadata.json"}


# ---- what was overtaken -------------------------------------------------------------------------------------------


def test_the_pins_of_a_revision_that_was_overtaken_are_given_up_where_nobody_else_needs_them(world: World) -> None:
    shared = package("shared with another video")
    world.publish_package("w", shared)
    first = world.walk(world.drop("v", shared), "stage", "write_s3_manifest", "publish", "write_ipfs_manifest")
    with world.store.writing() as db:
        mine = sa.update(tables.upload).filter_by(upload_id=first.upload_id)
        db.execute(mine.values(state="failed", failed_in="pinned"))
    world.store.release_all()
    world.publish_package("v", {**shared, "v/s1.ts": ts("another segment")})
    overtaken = world.store.upload(first.upload_id)
    assert overtaken.state is State.SUPERSEDED
    world.step(CLEAR, overtaken, "hand:clear")
    assert world.nodes[0].pinned(Cid.parse(overtaken.root or "")) is not None
    assert world.nodes[0].pinned(Cid.parse(overtaken.record or "")) is None
    assert not any(name.startswith("v/r1/") for name in world.media())
