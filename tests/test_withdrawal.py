"""Taking a video back: at once for readers, everywhere in the end, with what others need left alone."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from hls_pipeline import audit, claims, clock, tables, withdrawal, work
from hls_pipeline.cli import app
from hls_pipeline.commands import videos
from hls_pipeline.errors import Conflict, LeaseLost, NotFound, Outage, UserError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import State, Upload
from hls_pipeline.withdrawal import Withdrawal
from tests import crashes
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import MEDIA, TO_FINAL, CopiesOf, World, free_ports, package
from tests.test_metadata_store import held, pinned, received

CLEAR = "clear_temp_storage"


def withdraw(world: World, video_id: str = "v", reason: str = "rights ended") -> Withdrawal:
    return withdrawal.withdraw(
        video_id,
        actor="person:ann",
        reason=reason,
        objects=world.objects,
        nodes=world.nodes,
        store=world.store,
        settings=world.settings,
    )


def pins(world: World, upload: Upload) -> list[bool]:
    """Whether directory and record are pinned on the first node."""
    roots = [root for root in (upload.root, upload.record) if root]
    return [world.nodes[0].pinned(Cid.parse(root)) is not None for root in roots]


def nothing_left(world: World, video_id: str = "v") -> None:
    assert not [key for key in world.media() | world.inbox() if key.startswith(f"{video_id}/")]
    for upload in world.store.uploads_of(video_id):
        assert upload.state is State.WITHDRAWN
        assert world.store.temp_objects(upload.upload_id) == ()
        assert world.store.claims(upload.upload_id) == ()
        assert not any(pins(world, upload))
    assert video_id not in [due.video_id for due in world.store.due(clock.now() + timedelta(days=2))]


@pytest.mark.parametrize("last", [*TO_FINAL, CLEAR])
def test_wherever_a_video_is_on_its_way_nothing_of_it_is_left(world: World, last: str) -> None:
    files = {**package(f"withdrawn after {last}"), "notes.txt": b"kept beside it"}
    upload = world.drop("v", files)
    for name in (*TO_FINAL, CLEAR):
        upload = world.step(name, upload)
        if name == last:
            break
    done = withdraw(world)
    assert done.left == ()
    nothing_left(world)
    document = world.document("v")
    assert (document["status"], document["reason"]) == ("withdrawn", "rights ended")
    assert (done.version.actor, done.version.reason) == ("person:ann", "rights ended")
    assert world.store.current_upload("v") is None
    assert audit.verify(audit.on_record(world.store)).holds


def test_a_package_that_only_waits_in_the_inbox_is_withdrawn_too(world: World) -> None:
    world.drop("v", package("waiting"))
    assert withdraw(world).version.revision == 0
    assert world.inbox() == set()
    nothing_left(world)
    assert world.receive() == ([], [])


def test_all_revisions_go_and_what_was_read_before_stays_readable(world: World) -> None:
    first = world.publish_package("v", package("one"))
    world.step(CLEAR, first, "hand:clear")
    world.publish_package("v", package("two"))
    before = world.store.versions("v")
    withdraw(world)
    nothing_left(world)
    assert world.store.versions("v")[:-1] == before
    assert world.store.as_of("v", before[-1].time) == before[-1]
    assert world.store.as_of("v", clock.now()).actor == "person:ann"


def test_withdrawing_again_changes_nothing(world: World) -> None:
    world.publish_package("v", package("again"))
    first = withdraw(world)
    assert withdraw(world, reason="another reason") == first
    assert len(world.store.versions("v")) == 3


def test_what_another_video_needs_stays_pinned_until_that_is_withdrawn_too(world: World) -> None:
    files = package("both have it")
    mine = world.publish_package("v", files)
    other = world.publish_package("w", files)
    assert mine.root == other.root
    world.step(CLEAR, other, "hand:clear")
    withdraw(world)
    assert pins(world, mine) == [True, False]
    assert world.from_gateway(f"{other.root}/v/s1.ts") == files["v/s1.ts"]
    assert "w/metadata.json" in world.media()
    receipts = world.store.receipts(mine.upload_id, "withdrawal")
    kept = [receipt["kept"] for receipt in receipts if receipt["root"] == mine.root]
    assert kept == ["another revision or video has it too"]
    withdraw(world, "w")
    assert pins(world, other) == [False, False]


def test_videos_with_one_root_withdrawn_at_once_leave_no_pin(world_on_each_database: World) -> None:
    world = world_on_each_database
    files = package("four have it")
    names = ["a", "b", "c", "d"]
    uploads = [world.publish_package(name, files) for name in names]
    start = threading.Barrier(4)

    def take_back(name: str) -> None:
        own = world.over(world.settings.database_url)
        start.wait()
        withdraw(own, name)
        own.store._engine.dispose()

    threads = [threading.Thread(target=take_back, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [pins(world, upload) for upload in uploads] == [[False, False]] * 4
    for name in names:
        nothing_left(world, name)


def test_a_node_that_is_down_keeps_neither_readers_nor_s3_waiting(world: World, tmp_path: Path) -> None:
    """The clean-up, started by its sensor since the upload is due, finishes when the node is back."""
    rpc, gateway = (f"127.0.0.1:{port}" for port in free_ports(2))
    both = world.having(
        ipfs_rpc_urls=(*world.settings.ipfs_rpc_urls, f"http://{rpc}"),
        ipfs_gateway_urls=(*world.settings.ipfs_gateway_urls, f"http://{gateway}"),
        ipfs_quorum=2,
    )
    arguments = ("--rpc", rpc, "--gateway", gateway)
    with ipfs_node_fixture.running(tmp_path / "second", *arguments):
        upload = both.publish_package("v", package("one node is down"))
    (problem,) = withdraw(both).left
    assert rpc in problem
    assert world.document("v")["status"] == "withdrawn"
    assert world.media() == set()
    assert pins(world, upload) == [False, False]
    assert world.store.upload(upload.upload_id).error == problem

    (due,) = world.store.due(clock.now() + timedelta(minutes=5))
    assert due.upload_id == upload.upload_id
    with ipfs_node_fixture.running(tmp_path / "second", *arguments) as node:
        assert upload.root in node.names_of_pins()
        both.step(CLEAR, upload, "hand:clear")
        assert node.names_of_pins() == {}
    nothing_left(world)


def test_a_node_is_not_told_to_unpin_what_was_claimed_while_another_took_its_time(
    world: World, second_ipfs_node: EmbeddedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was silent for longer than a claim waits, so that another video found the pin on the second."""
    both = world.having(
        ipfs_rpc_urls=(*world.settings.ipfs_rpc_urls, f"http://{second_ipfs_node.rpc}"),
        ipfs_gateway_urls=(*world.settings.ipfs_gateway_urls, f"http://{second_ipfs_node.gateway}"),
        ipfs_quorum=2,
    )
    files = package("slow")
    mine = both.publish_package("v", files)
    other = both.walk(both.drop("w", files), "stage", "write_s3_manifest")
    unpin, taken = Kubo.unpin, list[str]()

    def take_time(node: Kubo, root: Cid) -> bool:
        if str(root) == mine.root and not taken:
            taken.append(node.name)
            with both.store.writing() as db:
                db.execute(sa.update(tables.claim).values(released_at=clock.now() - claims._UNPIN))
            with work.holding(other, "path:run", both.store, both.settings) as lease:
                both.store.claim(lease, mine.root or "")
        return unpin(node, root)

    monkeypatch.setattr(Kubo, "unpin", take_time)
    assert withdraw(both).left == ()
    assert taken == [both.nodes[0].name]
    assert both.nodes[1].pinned(Cid.parse(mine.root or "")) is not None
    assert both.store.claims(mine.upload_id) == ()


def test_the_same_content_can_be_published_again_while_a_node_is_still_down(world: World) -> None:
    """A claim that could not be given up does not close the root."""
    files = package("again at once")
    world.publish_package("v", files)
    rpc, gateway = free_ports(2)
    down = world.having(
        ipfs_rpc_urls=(*world.settings.ipfs_rpc_urls, f"http://127.0.0.1:{rpc}"),
        ipfs_gateway_urls=(*world.settings.ipfs_gateway_urls, f"http://127.0.0.1:{gateway}"),
    )
    assert withdraw(down).left
    again = world.publish_package("w", files)
    assert withdraw(world).left == ()
    assert pins(world, again) == [True, True]
    (upload,) = world.store.uploads_of("v")
    assert world.store.claims(upload.upload_id) == ()


def test_s3_that_is_down_is_emptied_later(world: World) -> None:
    upload = world.publish_package("v", package("s3 is down"))
    (port,) = free_ports(1)
    (problem,) = withdraw(world.having(s3_endpoint=f"http://127.0.0.1:{port}")).left
    assert "is S3 running" in problem
    assert world.document("v")["status"] == "withdrawn"
    world.step(CLEAR, upload, "hand:clear")
    nothing_left(world)


def test_a_run_at_work_on_the_video_stops_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is withdrawn between the import and the pin, the worst moment: the run pins what nobody claims any more."""
    upload = world.walk(world.drop("v", package("at work")), "stage", "write_s3_manifest")
    pin = Kubo.pin

    def lose_and_pin(*arguments: Any) -> Any:
        withdraw(world)
        return pin(*arguments)

    monkeypatch.setattr(Kubo, "pin", lose_and_pin)
    with pytest.raises(LeaseLost):
        world.step("publish", upload)
    assert pins(world, upload) == [True]
    (due,) = world.store.due(clock.now() + timedelta(minutes=5))
    world.step(CLEAR, due, "hand:clear")
    nothing_left(world)


def test_a_run_that_puts_the_document_when_the_video_is_withdrawn_leaves_none(world: World) -> None:
    """It had read the final document before, and puts it after everything else was removed."""
    upload = world.walk(world.drop("v", package("mirrored late")), *TO_FINAL[:-1])

    def take_back(**_: Any) -> None:
        events.unregister("before-call.s3.PutObject", take_back)
        withdraw(world)

    events = world.objects._client.meta.events
    events.register("before-call.s3.PutObject", take_back)
    with pytest.raises(LeaseLost):
        world.step("finalize", upload)
    assert "v/metadata.json" in world.media()
    (due,) = world.store.due(clock.now() + timedelta(minutes=5))
    world.step(CLEAR, due, "hand:clear")
    nothing_left(world)


def test_a_run_that_fails_because_of_a_withdrawal_is_swept_up_after_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it reads from S3 is gone, which by itself would be another error."""
    upload = world.walk(world.drop("v", package("fails")), "stage", "write_s3_manifest")
    claim = MetadataStore.claim

    def claim_and_lose(*arguments: Any) -> None:
        claim(*arguments)
        withdraw(world)

    monkeypatch.setattr(MetadataStore, "claim", claim_and_lose)
    with pytest.raises(LeaseLost):
        world.step("publish", upload)
    (due,) = world.store.due(clock.now() + timedelta(minutes=5))
    world.step(CLEAR, due, "hand:clear")
    nothing_left(world)


def test_a_new_drop_after_withdrawing_is_the_next_revision_and_keeps_its_own_files(world: World) -> None:
    """A late clean-up of the withdrawn revision does not touch it."""
    old = world.publish_package("v", package("old"))
    (port,) = free_ports(1)
    assert withdraw(world.having(s3_endpoint=f"http://127.0.0.1:{port}")).left
    new = world.walk(world.drop("v", package("new")), "stage", "write_s3_manifest")
    assert world.document("v")["status"] == "processing"
    with pytest.raises(LeaseLost):
        world.step(CLEAR, old, "hand:clear")
    new = world.walk(new, *TO_FINAL[2:])
    world.step(CLEAR, old, "hand:clear")
    assert (new.revision, world.document("v")["status"]) == (2, "ready")
    assert {key.split("/")[1] for key in world.media()} == {"r2", "metadata.json"}
    assert pins(world, new) == [True, True]


def test_a_legal_hold_outlives_the_withdrawal_and_is_looked_at_again(world: World) -> None:
    client, name = world.objects._client, f"locked-{clock.now():%f}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    locked = world.having(s3_media=name)
    upload = locked.publish_package("v", package("held"))
    held = {"Bucket": name, "Key": "v/r1/s3/master.m3u8"}
    client.put_object_legal_hold(**held, LegalHold={"Status": "ON"})
    assert withdraw(locked).left == ()
    assert [one.key for one in world.objects.versions(name, "")] == [held["Key"]]
    tomorrow = clock.now() + timedelta(days=1, minutes=1)
    assert world.store.due(clock.now()) == ()
    assert [due.upload_id for due in world.store.due(tomorrow)] == [upload.upload_id]
    client.put_object_legal_hold(**held, LegalHold={"Status": "OFF"})
    with world.store.writing() as db:
        db.execute(sa.update(tables.temp_storage).values(due_at=clock.now()))
    locked.step(CLEAR, upload, "hand:clear")
    assert list(world.objects.versions(name, "")) == []


@pytest.mark.parametrize("reason", ["", "   ", "two\nlines", "x" * 1001, "nul\0"])
def test_a_reason_is_one_line_of_text(world: World, reason: str) -> None:
    world.drop("v", package("no reason"))
    with pytest.raises(UserError, match="needs a reason"):
        withdraw(world, reason=reason)
    assert world.store.versions("v") == ()


def test_what_is_unknown_or_was_never_accepted_cannot_be_withdrawn(world: World) -> None:
    with pytest.raises(NotFound):
        withdraw(world)
    world.walk(world.drop("v", {"master.m3u8": b"no playlist"}))
    with pytest.raises(Conflict, match="nothing to withdraw"):
        withdraw(world)


def test_killed_between_any_two_statements_a_withdrawal_is_finished_by_the_clean_up(
    world: World, copies_of: CopiesOf
) -> None:
    upload = world.publish_package("v", package("killed while withdrawing"))
    staged = {item.key: world.read(item.key) for item in world.objects.listing(MEDIA)}
    rpc, s3 = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    assert withdraw(world.having(ipfs_rpc_urls=(rpc,), s3_endpoint=s3)).left
    world.store.release_all()
    for point, copy in zip(crashes.points(), copies_of(world), strict=False):
        for name, data in staged.items():
            world.objects.put(MEDIA, name, data, "text/plain")
        for root in filter(None, (upload.root, upload.record)):
            world.nodes[0].pin(Cid.parse(root), "again", 10**6)
        through = crashes.survives(copy.settings, CLEAR, upload.upload_id, point)
        copy.store.release_all()
        copy.step(CLEAR, upload, "path:next")
        nothing_left(copy)
        copy.store._engine.dispose()
        if through:
            break
    assert point > 8


# ---- claims -------------------------------------------------------------------------------------------------------


def test_a_root_that_is_being_unpinned_takes_no_new_claim_for_as_long_as_that_can_take(store: MetadataStore) -> None:
    first, second = held(store, received(store, "v")), held(store, received(store, "w"))
    store.claim(first, "bafyroot")
    assert store.release_claim(first, "bafyroot")
    with pytest.raises(Outage, match="just being unpinned"):
        store.claim(second, "bafyroot")
    store.still_claimed(first, "bafyroot")
    store.claim(second, "bafyroot")
    assert not store.release_claim(first, "bafyroot")
    assert store.claims(first.upload_id) == ()
    assert store.release_claim(second, "bafyroot")
    with store.writing() as db:  # whoever began to unpin it died
        db.execute(sa.update(tables.claim).values(released_at=clock.now() - claims._UNPIN))
    store.claim(first, "bafyroot")
    assert not store.release_claim(second, "bafyroot")


def test_of_a_claim_and_a_release_at_once_one_comes_first(store: MetadataStore, database_url: str) -> None:
    """Never both: unpinned because nobody else claims it, and claimed because it is pinned."""
    other = MetadataStore(database_url)
    for number in range(10):
        root = f"bafy{number}"
        leaving = held(store, received(store, f"leaving-{number}"))
        coming = held(store, received(store, f"coming-{number}"))
        store.claim(leaving, root)
        start, unpins = threading.Barrier(2), list[bool]()

        def leave(lease: Any = leaving, root: str = root, start: Any = start, unpins: list[bool] = unpins) -> None:
            start.wait()
            unpins.append(store.release_claim(lease, root))

        thread = threading.Thread(target=leave)
        thread.start()
        start.wait()
        try:
            other.claim(coming, root)
            claimed = True
        except Outage:
            claimed = False
        thread.join()
        assert unpins == [not claimed]
    other._engine.dispose()


def test_withdrawing_and_a_run_of_the_video_never_wait_for_each_other(store: MetadataStore, database_url: str) -> None:
    """PostgreSQL would end one of two transactions that lock video and lease in opposite order."""
    other = MetadataStore(database_url)
    for number in range(10):
        name = f"v{number}"
        lease = held(store, received(store, name))
        start, problems = threading.Barrier(2), list[BaseException]()

        def go(lease: Any = lease, start: Any = start, problems: list[BaseException] = problems) -> None:
            start.wait()
            try:
                with suppress(LeaseLost):
                    for _ in range(20):
                        store.renew(lease, clock.now(), 60)
                    store.claim(lease, f"bafy{lease.video_id}")
            except BaseException as error:  # noqa: BLE001  # it is looked at below
                problems.append(error)

        thread = threading.Thread(target=go)
        thread.start()
        start.wait()
        about = {"actor": "a", "reason": "r", "run_id": None, "now": clock.now()}
        other.withdraw(name, lambda _: {"status": "withdrawn"}, MEDIA, **about)
        thread.join()
        assert problems == []
        assert store.upload(lease.upload_id).state is State.WITHDRAWN
    other._engine.dispose()


def test_a_withdrawn_upload_goes_no_further(store: MetadataStore) -> None:
    lease = held(store, received(store))
    about = {"actor": "a", "reason": "r", "run_id": None, "now": clock.now()}
    store.withdraw("v", lambda _: {"status": "withdrawn"}, MEDIA, **about)
    with pytest.raises(LeaseLost):
        pinned(store, lease)
    assert store.ready_to_run(clock.now() + timedelta(hours=1)) == ()


# ---- from a shell -------------------------------------------------------------------------------------------------


def test_who_withdrew_has_a_number_where_there_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container that runs under any number the command ended with a traceback."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert videos._person() == "person:4000000"


def test_the_command_says_who_withdrew_and_why(world: World, as_environment: Any) -> None:
    world.publish_package("v", package("from a shell"))
    as_environment(world.settings)
    arguments = ["withdraw", "v", "--reason", "the contract ended"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).stdout == "v: withdrawn\n"
    nothing_left(world)
    version = world.store.versions("v")[-1]
    assert version.actor.startswith("person:")
    assert version.reason == "the contract ended"
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["left"] == []
