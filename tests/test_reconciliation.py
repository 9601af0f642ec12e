"""Stores that drifted apart: each difference is named precisely, and mending never removes what nobody knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from hls_pipeline import clock, tables, withdrawal, work
from hls_pipeline import rehydration as copies
from hls_pipeline.cli import app
from hls_pipeline.errors import Corruption, Outage
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.upkeep import anchors, drift, looking, reconciliation
from hls_pipeline.upkeep.drift import Report
from hls_pipeline.uploads import State, Upload
from tests import services
from tests.services import MEDIA, World, free_ports, package
from tests.test_private_keys import encrypted_package, with_key_service


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture(autouse=True)
def judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written a moment ago counts as settled."""
    monkeypatch.setattr(reconciliation, "_SETTLING", -reconciliation._SETTLING)


@pytest.fixture(autouse=True)
def every_finding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is shared: pins of other tests are findings too."""
    monkeypatch.setattr(drift, "_NAMED", 1_000_000)


def look(world: World, **options: Any) -> Report:
    return reconciliation.reconcile(world.objects, world.nodes, world.store, world.settings, **options)


def kinds(found: Report) -> dict[str, int]:
    """Without the pins of other tests, which share the node."""
    return {kind: about["count"] for kind, about in found.kinds.items() if kind != "unclaimed_pins"}


def only(found: Report, kind: str) -> dict[str, Any]:
    (finding,) = [each for each in found.findings if each["kind"] == kind]
    return finding


def pins_named(found: Report, name: str) -> list[dict[str, Any]]:
    return [each for each in found.findings if each["kind"] == "unclaimed_pins" and f"'{name}" in each["subject"]]


def cleared(world: World, video_id: str, seed: str) -> Upload:
    return world.step("clear_temp_storage", world.publish_package(video_id, package(seed)), "hand:clear")


def aged(world: World) -> World:
    """Where everything is older than the limit for what nobody knows."""
    return world.having(orphan_days=1e-9)


def empty_media(world: World) -> None:
    """As a stranger would."""
    world.objects.delete(MEDIA, [(item.key, item.etag, None) for item in world.objects.listing(MEDIA)])


def test_stores_that_agree_have_no_findings(world: World, seed: str) -> None:
    cleared(world, "cleared", seed)
    world.publish_package("published", package(seed + "2"))
    world.walk(world.drop("staged", package(seed + "3")), "stage", "write_s3_manifest")
    found = look(world)
    assert kinds(found) == {}
    assert found.objects == len(world.media())
    assert look(world, apply=True).objects == found.objects
    with world.store.reading() as db:
        assert db.execute(sa.select(tables.checkpoint)).all() == []


def test_s3_emptied_before_publication_is_named_with_what_to_do(world: World, seed: str) -> None:
    upload = world.walk(world.drop("v", package(seed)), "stage", "write_s3_manifest")
    count = len([item for item in world.store.temp_objects(upload.upload_id) if item.etag])
    world.store.release_all()
    empty_media(world)
    found = look(world, apply=True)
    assert kinds(found) == {"missing_objects": count, "missing_document": 1}
    assert only(found, "missing_objects")["subject"] == "v/r1/"
    assert "must be sent again" in only(found, "missing_objects")["detail"]
    assert only(found, "missing_document")["done"]
    assert kinds(look(world)) == {"missing_objects": count}


def test_s3_emptied_after_publication_does_no_harm(world: World, seed: str) -> None:
    upload = world.publish_package("v", package(seed))
    empty_media(world)
    found = look(world, apply=True)
    assert "IPFS has them" in only(found, "missing_objects")["detail"]
    assert world.media() == {"v/metadata.json"}
    assert world.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert kinds(look(world)) == {}


def test_copies_that_were_to_stay_are_brought_back(world: World, seed: str) -> None:
    upload = cleared(world, "v", seed)
    with work.holding(upload, "hand:rehydrate", world.store, world.settings, last=True) as lease:
        copies.rehydrate(upload, lease, world.objects, world.nodes, world.store, world.settings)
    before = {key: world.read(key) for key in world.media()}
    gone, replaced = sorted(key for key in before if "/media/" in key)[:2]
    world.objects.delete(MEDIA, [(gone, world.objects.head(MEDIA, gone).etag, None)])
    world.objects.put(MEDIA, replaced, b"by a stranger", "text/plain")
    assert kinds(look(world)) == {"missing_objects": 1, "changed_objects": 1}
    look(world, apply=True)
    assert {key: world.read(key) for key in world.media()} == before
    assert kinds(look(world)) == {}


def test_an_object_replaced_by_a_stranger_is_named_with_both_tags(world: World, seed: str) -> None:
    world.publish_package("v", package(seed))
    key = next(key for key in sorted(world.media()) if "/media/" in key)
    etag = world.objects.put(MEDIA, key, b"by a stranger", "text/plain").etag
    found = only(look(world, apply=True), "changed_objects")
    assert found["subject"] == f"s3://{MEDIA}/{key}"
    assert etag in found["detail"]
    assert found["done"] is None
    assert world.read(key) == b"by a stranger"


def test_what_the_database_does_not_know_is_removed_only_when_it_is_old_and_somebody_says_so(
    world: World, seed: str
) -> None:
    cleared(world, "v", seed)
    for key in ("unknown/r1/media/a.ts", "unknown/r1/media/b.ts", "unknown/metadata.json", "v/r7/s3/x.m3u8"):
        world.objects.put(MEDIA, key, b"1234", "text/plain")
    for key in ("of somebody else", "_uploads/x/y", "v/other"):
        world.objects.put(MEDIA, key, b"1", "text/plain")
    before = world.media()
    found = look(world, apply=True)
    assert kinds(found) == {"orphan_objects": 4}
    assert found.foreign_objects == 2
    about = {each["subject"]: each for each in found.findings if each["kind"] == "orphan_objects"}
    assert {subject: each["count"] for subject, each in about.items()} == {
        "unknown/r1/": 2,
        "unknown/metadata.json": 1,
        "v/r7/": 1,
    }
    assert "restored from a backup" in about["v/r7/"]["detail"]
    assert world.media() == before
    assert kinds(look(aged(world))) == {"orphan_objects": 4}
    assert world.media() == before, "without --apply nothing is removed, however old"
    look(aged(world), apply=True)
    assert world.media() == before, "a restored database does not know the only copy of what came later"
    look(world, apply=True, remove_unknown=True)
    assert world.media() == before, "all of it is young"
    look(aged(world), apply=True, remove_unknown=True)
    assert world.media() == {"v/metadata.json", "of somebody else", "_uploads/x/y", "v/other"}


def test_leftovers_of_a_withdrawn_video_are_handed_to_the_clean_up(world: World, seed: str) -> None:
    upload = cleared(world, "v", seed)
    services = {"objects": world.objects, "nodes": world.nodes, "store": world.store, "settings": world.settings}
    withdrawal.withdraw("v", actor="test", reason="a test", **services)  # type: ignore[arg-type]
    world.nodes[0].pin(Cid.parse(upload.root or ""), "v r1", 0)
    found = look(world, apply=True)
    assert [pin["done"] for pin in found.findings if pin["subject"].startswith(upload.root or "?")] == [
        "handed to the clean-up"
    ]
    world.step("clear_temp_storage", upload, "hand:clear")
    assert world.nodes[0].pinned(Cid.parse(upload.root or "")) is None
    world.objects.put(MEDIA, "v/r1/media/late.ts", b"1", "text/plain")
    assert only(look(world, apply=True), "orphan_objects")["done"] == "handed to the clean-up"
    world.step("clear_temp_storage", upload, "hand:clear")
    assert kinds(look(world)) == {}
    assert world.media() == set()


def test_keys_that_no_revision_has_and_revisions_without_their_keys_are_named(world: World) -> None:
    """Nobody looked into that bucket."""
    guarded = with_key_service(world, "reconciled-keys")
    upload = guarded.publish_package("guarded", encrypted_package())
    assert upload.private_keys
    assert not kinds(look(guarded)).keys() & {"orphan_keys", "missing_keys"}
    for key in ("guarded/r7/secret/one.key", "unknown/r1/one.key", "notes.txt"):
        guarded.objects.put("reconciled-keys", key, b"0123456789abcdef", "application/octet-stream")
    guarded.objects.delete_versions("reconciled-keys", "guarded/r1/")
    for options in ({}, {"apply": True, "remove_unknown": True}):
        found = look(aged(guarded) if options else guarded, **options)
        orphans = [each for each in found.findings if each["kind"] == "orphan_keys"]
        assert [each["subject"] for each in orphans] == [
            "s3://reconciled-keys/guarded/r7/",
            "s3://reconciled-keys/unknown/r1/",
        ]
        assert only(found, "missing_keys")["subject"] == "s3://reconciled-keys/guarded/r1/"
        assert only(found, "missing_keys")["detail"] == "secret/one.key"
        assert found.foreign_objects == 1
    assert len(list(guarded.objects.listing("reconciled-keys"))) == 3


def test_uploads_in_parts_that_nobody_completed_are_given_up_when_old(world: World) -> None:
    for key in ("v/r1/media/x.ts", "_uploads/x/y"):
        world.objects._client.create_multipart_upload(Bucket=MEDIA, Key=key)
    assert kinds(look(world)) == {}, "they are young"
    old = aged(world).having(stuck_seconds=1e-6, orphan_days=1e-9)
    assert kinds(look(old)) == {"dangling_parts": 1}
    assert kinds(look(old, apply=True)) == {"dangling_parts": 1}
    assert kinds(look(old)) == {}
    assert [key for key, _, _ in world.objects.unfinished(MEDIA)] == ["_uploads/x/y"]


def test_stuck_and_failed_uploads_are_named(world: World, seed: str) -> None:
    stuck = world.walk(world.drop("stuck", package(seed)), "stage")
    world.store.release_all()
    failed = world.drop("failed", package(seed + "2"))
    lease = world.store.take_lease(failed, "hand:x", clock.now(), 60)
    world.store.fail(lease, "the disk is full", clock.now())
    assert kinds(look(world)) == {"failed_upload": 1}
    found = look(world.having(stuck_seconds=1e-6))
    assert kinds(found) == {"failed_upload": 1, "stuck_upload": 1}
    assert stuck.upload_id in only(found, "stuck_upload")["subject"]
    assert "the disk is full" in only(found, "failed_upload")["detail"]


def test_a_missing_claim_is_made_again_and_missing_pins_are_left_to_repin(world: World, seed: str) -> None:
    upload = cleared(world, "v", seed)
    with world.store.writing() as db:
        db.execute(sa.delete(tables.claim))
    world.nodes[0].unpin(Cid.parse(upload.record or ""))
    assert kinds(look(world)) == {"missing_claim": 2, "missing_pins": 1}
    found = look(world, apply=True)
    assert not [each for each in found.findings if each["subject"].startswith(f"{upload.root},")], "told once is enough"
    assert set(world.store.claims(upload.upload_id)) == {upload.root, upload.record}
    assert kinds(look(world)) == {"missing_pins": 1}


def test_a_node_that_does_not_answer_is_not_taken_for_an_empty_one(world: World, seed: str) -> None:
    cleared(world, "v", seed)
    down = f"http://127.0.0.1:{free_ports(1)[0]}"
    found = look(world.having(ipfs_rpc_urls=(down,), ipfs_gateway_urls=(down,)), apply=True)
    assert kinds(found) == {"not_looked_at": 1}


def test_partitions_of_videos_that_are_not_known_are_named(world: World, seed: str) -> None:
    cleared(world, "v", seed)
    found = look(world, partitions=lambda: iter(["v", "newer"]))
    assert only(found, "unknown_partitions")["subject"] == "newer"


def test_a_database_restored_from_an_hour_ago_finds_what_is_newer(world: World, seed: str, tmp_path: Path) -> None:
    """A new video, and a new revision of an old one, were published after the backup; nothing of them is touched."""
    cleared(world, "old", seed)
    url = world.settings.database_url
    backup = services.copy_sqlite(Path(url.removeprefix("sqlite:///")), tmp_path / "backup.sqlite")
    newer = cleared(world, "old", seed + "2")
    world.publish_package("new", package(seed + "3"))
    restored = world.over(backup)
    before = world.media()
    found = look(aged(restored).over(restored.settings.database_url), partitions=lambda: iter(["old", "new"]))
    assert kinds(found)["unknown_partitions"] == 1
    about = {each["subject"]: each["detail"] for each in found.findings if each["kind"] == "orphan_objects"}
    assert about.keys() == {"new/r1/", "new/metadata.json"}
    (revision,) = [pin for pin in pins_named(found, "old r2") if pin["subject"].startswith(newer.root or "?")]
    assert "revision 2 is not in the database; was it restored from a backup?" in revision["detail"]
    assert look(aged(restored), apply=True).kinds["orphan_objects"]["done"] == 0
    assert world.media() == before
    assert world.nodes[0].pinned(Cid.parse(newer.root or ""))
    assert restored.document("old")["revision"] == 1


def test_nothing_unknown_is_removed_while_an_anchor_knows_more_than_the_database(
    world: World, seed: str, tmp_path: Path
) -> None:
    """The package was staged after the backup: S3 has the only copy of it."""
    cleared(world, "old", seed)
    backup = services.copy_sqlite(
        Path(world.settings.database_url.removeprefix("sqlite:///")), tmp_path / "backup.sqlite"
    )
    world.walk(world.drop("new", package(seed + "2")), "stage", "write_s3_manifest")
    anchors.make(world.store, world.objects, world.nodes, world.settings, clock.now())
    restored = aged(world.over(backup))
    before = world.media()
    with pytest.raises(Corruption, match=r"video new: version 1 .* nothing is removed"):
        look(restored, apply=True, remove_unknown=True)
    assert world.media() == before
    anchors.make(restored.store, world.objects, world.nodes, world.settings, clock.now(), restored=True)
    look(restored, apply=True, remove_unknown=True)
    assert not any(key.startswith("new/") for key in world.media())


@pytest.mark.parametrize("phase", ["parts", "pins", "partitions"])
def test_a_look_that_was_cut_off_in_any_phase_finds_nothing_twice(
    world: World, seed: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a phase of one page had found was told again by the look that went on."""
    cleared(world, "v", seed)
    world.nodes[0].unpin(Cid.parse(world.store.current_upload("v").root))
    parts_id = world.objects._client.create_multipart_upload(Bucket=MEDIA, Key="v/r1/media/big.ts")["UploadId"]
    settings = world.having(stuck_seconds=1e-9)
    partitions = {"partitions": lambda: iter(["newer"])}
    whole = look(settings, **partitions).kinds
    assert whole.keys() >= {"dangling_parts", "missing_pins", "unknown_partitions"}
    note, noted = drift.note, []

    def killed_behind(store: Any, name: str, mark: drift.Mark) -> None:
        note(store, name, mark)
        if phase in (mark.phase, *mark.done[-1:]) and not noted:
            noted.append(mark)
            raise KeyboardInterrupt

    monkeypatch.setattr(drift, "note", killed_behind)
    with pytest.raises(KeyboardInterrupt):
        look(settings, **partitions)
    found = look(settings, **partitions)
    assert found.resumed
    assert found.kinds == whole
    world.objects.give_up_parts(MEDIA, "v/r1/media/big.ts", parts_id)


class Breaking(ObjectStore):
    """S3 that stops answering in the middle of a listing."""

    left = 0

    def listing(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[Any]:
        for item in super().listing(bucket, prefix, after):
            if self.left == 0:
                raise Outage("S3 is gone")
            self.left -= 1
            yield item


def test_a_look_that_was_cut_off_goes_on_where_it_was(world: World, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_PAGE", 2)
    upload = world.publish_package("v", package(seed))
    world.objects.put(MEDIA, "a-stray/r1/media/x.ts", b"1", "text/plain")
    lost = sorted(key for key in world.media() if "/media/" in key and key.startswith("v/"))[-1]
    world.objects.delete(MEDIA, [(lost, world.objects.head(MEDIA, lost).etag, None)])
    total = len(world.media())
    breaking = Breaking(world.objects._client)
    breaking.left = 5
    with pytest.raises(Outage):
        look(replace(world, objects=breaking))
    found = look(world)
    assert found.resumed
    assert found.objects == total
    assert kinds(found) == {"orphan_objects": 1, "missing_objects": 1}
    assert not look(world).resumed
    assert upload.state is State.PUBLISHED


@pytest.mark.parametrize("content", [{"report": {"began": "x", "counted": 1}}, {"report": {}, "page": 3}, {}])
def test_a_look_that_another_release_began_begins_anew(world: World, content: dict[str, Any]) -> None:
    """It ended with a TypeError, every night for as long as checkpoints are kept."""
    values = {"name": "reconcile", "time": clock.now(), "content": content}
    with world.store.writing() as db:
        db.execute(sa.insert(tables.checkpoint).values(**values))
    assert not look(world).resumed


def test_the_command_reports_and_says_what_it_did(world: World, seed: str, as_environment: Any) -> None:
    as_environment(world.settings)
    cleared(world, "v", seed)
    empty_media(world)
    told = CliRunner().invoke(app, ["reconcile"])
    assert told.exit_code == 1
    assert "missing_document  s3://media/v/metadata.json" in told.stdout
    about = json.loads(CliRunner().invoke(app, ["reconcile", "--apply", "--json"]).stdout)
    assert about["kinds"]["missing_document"] == {"findings": 1, "count": 1, "bytes": 0, "done": 1}
    assert about["applied"] is True
    assert set(about["kinds"]) <= set(drift.KINDS)
    assert world.media() == {"v/metadata.json"}


def test_without_the_variables_of_a_production_instance_all_but_dagster_is_looked_at(
    world: World, seed: str, as_environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reconcile --data` ended at once with five stack traces beside a stack that ran `up --production`."""
    as_environment(world.settings)
    cleared(world, "v", seed)
    monkeypatch.setenv("DAGSTER_HOME", str(Path(__file__).parents[1]))
    monkeypatch.delenv("DAGSTER_PG_HOST", raising=False)
    told = CliRunner().invoke(app, ["reconcile"])
    assert "1 objects looked at" in told.stdout
    assert "Dagster was not looked at" in told.stdout
