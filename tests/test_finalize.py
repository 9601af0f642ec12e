"""The change from S3 to IPFS is one step: at any moment, under any crash and any race, readers see one side of it."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from hls_pipeline import audit, clock, documents, drops, metadata_store
from hls_pipeline.errors import LeaseLost, Outage
from hls_pipeline.metadata_store import PATH, MetadataStore
from hls_pipeline.uploads import State
from tests import crashes, services
from tests.services import INBOX, TO_FINAL, CopiesOf, Postgres, World, free_ports, package, wait_until
from tests.test_metadata_store import after, drop, file, temp

BEFORE_FINAL = TO_FINAL[:-1]


def check_whole(world: World, upload_id: str) -> str:
    """What readers get fits everything else that is on record; its status."""
    upload, document = world.store.upload(upload_id), world.document("v")
    rows = world.store.temp_objects(upload_id)
    if document["status"] == "processing":
        assert upload.state is State.PINNED
        assert world.store.newest_ready_revision("v") == 0
        assert all(row.due_at is None for row in rows)
    else:
        assert upload.state is State.PUBLISHED
        assert world.store.newest_ready_revision("v") == 1
        assert all(row.due_at is not None for row in rows)
    assert audit.verify(audit.on_record(world.store)).holds
    return str(document["status"])


def test_killed_between_any_two_statements_readers_see_the_old_or_the_new(
    world_on_each_database: World, copies_of: CopiesOf
) -> None:
    upload = world_on_each_database.walk(world_on_each_database.drop("v", package("killed")), *BEFORE_FINAL)
    world_on_each_database.store.release_all()
    copies = copies_of(world_on_each_database)
    seen = []
    for point, world in zip(crashes.points(), copies, strict=False):
        through = crashes.survives(world.settings, "finalize", upload.upload_id, point)
        seen.append(check_whole(world, upload.upload_id))
        world.store.release_all()
        assert world.step("finalize", upload, PATH + "next").state is State.PUBLISHED
        assert check_whole(world, upload.upload_id) == "ready"
        assert [version.reason.split(",")[0] for version in world.store.versions("v")] == ["staged", "published"]
        assert json.loads(world.read("v/metadata.json")) == world.document("v")
        world.store._engine.dispose()
        if through:
            break
    assert seen == sorted(seen)  # processing, …, processing, ready, …, ready
    assert set(seen) == {"processing", "ready"}
    assert len(seen) > 10


def test_a_database_that_goes_down_in_the_middle_leaves_the_old_document_and_the_work_goes_on(
    world_on_postgres: World, postgres: Postgres
) -> None:
    world = world_on_postgres
    upload = world.walk(world.drop("v", package("hung up")), *BEFORE_FINAL)
    database = world.settings.database_url.rpartition("/")[2]
    crashes.arm(world, 5, lambda: postgres.take_down(database))
    for _ in range(2):
        with pytest.raises(Outage):
            world.step("finalize", upload)
    postgres.bring_up(database)
    assert check_whole(world, upload.upload_id) == "processing"
    world.store.release_all()
    assert world.step("finalize", upload).state is State.PUBLISHED


def test_a_document_that_could_not_be_put_beside_the_media_is_put_by_the_next_run(world: World) -> None:
    """The creator found the temporary one until the clean-up, a day later, and Dagster never heard of the final one."""
    upload = world.walk(world.drop("v", package("not mirrored")), *TO_FINAL[:-1])
    (port,) = free_ports(1)
    with pytest.raises(Outage):
        world.having(s3_endpoint=f"http://127.0.0.1:{port}").step("finalize", upload)
    assert world.store.upload(upload.upload_id).state is State.PUBLISHED
    assert json.loads(world.read("v/metadata.json"))["status"] == "processing"
    wait_until(lambda: world.store.ready_to_run(clock.now()), "the upload to be offered")
    assert world.store.due(clock.now()) == ()
    world.step("finalize", upload, PATH + "next")
    assert json.loads(world.read("v/metadata.json")) == world.document("v")
    assert world.store.ready_to_run(clock.now()) == ()
    assert [due.upload_id for due in world.store.due(clock.now())] == [upload.upload_id]


def test_nothing_of_s3_is_left_in_the_final_document_and_every_reference_resolves(world: World) -> None:
    files = package("references", segments=4)
    upload = world.publish_package("v", files)
    document = world.document("v")
    assert not re.search(r"s3://|\bs3_", json.dumps(document))
    assets = document["video_assets"]
    for address in (assets["ipfs_m3u8"], *assets["segments"]):
        assert world.from_gateway(address.removeprefix("ipfs://"))
    assert world.from_gateway(f"{assets['ipfs_directory'].removeprefix('ipfs://')}/{assets['playlist']}")
    temporary = json.loads(world.store.versions("v")[0].document)["video_assets"]["segments"]
    names = [f"v/s{n}.ts" for n in range(4)]
    assert [world.from_gateway(a.removeprefix("ipfs://")) for a in assets["segments"]] == [files[n] for n in names]
    assert len(temporary) == len(assets["segments"])
    assert upload.revision == 1


def test_two_runs_at_once_finalize_once(world_on_each_database: World) -> None:
    """The second run comes late with what it knew; both have stores of their own, like two processes."""
    world = world_on_each_database
    upload = world.walk(world.drop("v", package("twice")), *BEFORE_FINAL)
    world.store.release_all()
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def run(number: int) -> None:
        own = world.over(world.settings.database_url)
        start.wait()
        try:
            own.step("finalize", upload, f"{PATH}run {number}")
            outcomes.append("done")
        except LeaseLost:
            outcomes.append("gave way")
        own.store._engine.dispose()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (1, 2)))
    assert "done" in outcomes
    assert len(world.store.versions("v")) == 2
    assert check_whole(world, upload.upload_id) == "ready"


def test_a_lower_revision_that_is_late_never_takes_the_place_of_a_higher_one(world_on_each_database: World) -> None:
    """Its run was cut off before the last step; meanwhile one that came by another door went all the way."""
    world = world_on_each_database
    first = world.walk(world.drop("v", package("first")), *BEFORE_FINAL)
    world.store.release_all()
    world.put("v", package("second"))
    frozen = drops.folder(world.objects, INBOX, "v").freeze()
    second = world.walk(world.store.receive(frozen, clock.now()))
    assert world.store.upload(first.upload_id).state is State.SUPERSEDED
    world.step("finalize", first, PATH + "late")
    assert world.store.current_upload("v") == second
    assert world.document("v")["revision"] == 2
    assert audit.verify(audit.on_record(world.store)).holds


def test_of_fifty_uploads_at_once_the_highest_revision_is_current(store: MetadataStore, database_url: str) -> None:
    """Fifty writers, each with a drop of its own of the same video and, like a process, a pool of its own."""
    start = threading.Barrier(50)
    pools = [MetadataStore(database_url) for _ in range(10)]

    def publish(number: int) -> None:
        mine, holder = pools[number % 10], f"{PATH}run {number}"
        start.wait()
        upload = mine.receive(drop("v", number), after(number))
        while True:
            with suppress(LeaseLost):
                lease = mine.take_lease(upload, holder, clock.now(), 60)
                break
            threading.Event().wait(0.02)
        revision = mine.next_revision("v")
        about: dict[str, Any] = {"root": f"bafy{number}", "playlist": "master.m3u8", "size": 1}
        objects = [temp(1, revision)]
        mine.accept(lease, revision=revision, facts={}, files=[file()], objects=objects, **about)
        said = {"actor": "inbox", "run_id": lease.run_id, "now": clock.now()}
        mine.staged(lease, {"status": "processing", "revision": revision}, reason="staged", **said)
        mine.pinned(lease, [], clock.now())
        mine.finalize(lease, {"status": "ready", "revision": revision}, clock.now(), reason="published", **said)
        mine.release(lease)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(publish, range(50)))
    for each in pools:
        each._engine.dispose()
    current = store.current("v")
    assert current is not None
    assert (current.revision, json.loads(current.document)["status"]) == (50, "ready")
    assert sorted(upload.revision or 0 for upload in store.uploads_of("v")) == list(range(1, 51))
    assert audit.verify(audit.on_record(store)) == audit.Verdict(1, 100, None)
    assert len(store.due(clock.now(), limit=100)) == 50


def test_what_is_read_while_everything_changes_is_whole(world_on_each_database: World) -> None:
    """Readers ask for the document all the time while a second revision is published over the first."""
    world = world_on_each_database
    world.publish_package("v", package("one"))
    seen: list[dict[str, Any]] = []
    done = threading.Event()
    reader_store = metadata_store.MetadataStore(world.settings.database_url)

    def read() -> None:
        while not done.is_set():
            version = reader_store.current("v")
            assert version is not None
            assert documents.sha256(version.document) == version.document_sha256
            seen.append(json.loads(version.document))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        world.publish_package("v", package("two"))
        services.wait_until(lambda: seen and seen[-1]["revision"] == 2, "the second revision")
    finally:
        done.set()
        reader.join()
    assert {document["status"] for document in seen} == {"ready"}
    revisions = [document["revision"] for document in seen]
    assert revisions == sorted(revisions)
    reader_store._engine.dispose()
