"""The metadata store on both databases: what each transaction makes true, and what no transaction can."""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from hls_pipeline import clock, documents, metadata_store, tables
from hls_pipeline.errors import Conflict, LeaseLost, NotFound, Outage
from hls_pipeline.metadata_store import PATH, InventoryFile, Lease, MetadataStore, TempObject, Version, rows
from hls_pipeline.metadata_store.arrivals import Passage
from hls_pipeline.metadata_store.database import MIGRATIONS
from hls_pipeline.uploads import IN_WORK, Drop, DropObject, State, Upload
from tests.services import Postgres, free_ports, wait_until

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SECONDS = 20.0
"""How long a lease lasts here."""
REPORT = {"accepted": False, "root": None, "errors": [{"code": "URI_MISSING_FILE"}], "warnings": []}


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def drop(video_id: str = "v", number: int = 1) -> Drop:
    """The `number`-th drop of a video."""
    playlist = DropObject(f"{video_id}/master.m3u8", f'"{number}"', 10, NOON)
    return Drop(video_id, "inbox", f"{video_id}/", (playlist,), after(number))


def received(store: MetadataStore, video_id: str = "v", number: int = 1) -> Upload:
    return store.receive(drop(video_id, number), after(number))


def held(store: MetadataStore, upload: Upload, holder: str = PATH + "run", at: float = 0) -> Lease:
    return store.take_lease(upload, holder, after(at), SECONDS)


def file(path: str = "master.m3u8", position: int = 0) -> InventoryFile:
    return InventoryFile(position, path, "playlist", "text/plain", 10, "bafk", 10, 1, f"v/r1/{path}", f"v/{path}")


def temp(number: int, revision: int = 1, video_id: str = "v") -> TempObject:
    return TempObject(f"s3://media/{video_id}/r{revision}/media/{number}.ts", 188, f"bafk{number}")


def accepted(store: MetadataStore, lease: Lease, revision: int = 1, **columns: Any) -> Upload:
    about = {"root": "bafyroot", "playlist": "master.m3u8", "size": 10, "metadata": {}, "report": {}, **columns}
    objects = [temp(1, revision, lease.video_id), temp(2, revision, lease.video_id)]
    return store.accept(lease, revision=revision, facts={}, files=[file()], objects=objects, **about)


def staged(store: MetadataStore, lease: Lease, revision: int = 1, at: float = 10) -> None:
    accepted(store, lease, revision)
    document = {"video_id": lease.video_id, "revision": revision, "status": "processing"}
    store.staged(lease, document, actor="inbox", reason="staged", run_id=lease.holder, now=after(at))


def pinned(store: MetadataStore, lease: Lease, revision: int = 1, at: float = 11) -> None:
    staged(store, lease, revision)
    store.pinned(lease, [{"root": "bafyroot", "level": "complete", "peer_id": "p"}], after(at))


def finalized(store: MetadataStore, lease: Lease, revision: int = 1, at: float = 12, due_at: float = 12) -> None:
    document = {"video_id": lease.video_id, "revision": revision, "status": "ready"}
    about = {"actor": "inbox", "reason": "published", "run_id": lease.holder, "now": after(at)}
    store.finalize(lease, document, after(due_at), **about)


def published(store: MetadataStore, number: int = 1, at: float = 12, due_at: float = 12) -> Upload:
    """The `number`-th drop of `v` from arrival to final document."""
    upload = received(store, "v", number)
    lease = held(store, upload)
    pinned(store, lease, number)
    finalized(store, lease, number, at, due_at)
    store.release(lease)
    return store.upload(upload.upload_id)


def everything(store: MetadataStore) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with store._read() as db:
        return {t.name: sorted(map(repr, db.execute(sa.select(t)).all())) for t in tables.metadata.sorted_tables}


# ---- schema -------------------------------------------------------------------------------------------------------


def test_the_migrations_make_exactly_the_tables(store: MetadataStore) -> None:
    with store._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_migrating_again_changes_nothing(store: MetadataStore, database_url: str) -> None:
    published(store)
    before = everything(store)
    metadata_store.migrate(database_url)
    assert everything(store) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE version SET document = '{}'",
        "UPDATE version SET actor = actor WHERE n = 1",
        "DELETE FROM version",
        "DELETE FROM version WHERE n = 2",
    ],
)
def test_the_database_refuses_to_change_a_version(store: MetadataStore, statement: str) -> None:
    published(store)
    before = everything(store)
    with pytest.raises(sa.exc.DBAPIError, match="versions are only ever added"), store._engine.begin() as db:
        db.execute(sa.text(statement))
    assert everything(store) == before


@pytest.mark.parametrize("which", ["", "rowid, "])
def test_sqlite_refuses_to_replace_a_version(sqlite_url: str, which: str) -> None:
    """A replaced row goes without asking the triggers for DELETE, also where only its number as a row is the same."""
    store = metadata_store.connect(sqlite_url)
    published(store)
    columns = ", ".join(column.name for column in tables.version.c if column.name != "video_id")
    replace = f"INSERT OR REPLACE INTO version ({which}video_id, {columns}) SELECT {which}'{'w' if which else 'v'}', "
    with store.writing() as db:
        db.execute(sa.insert(tables.video).values(video_id="w", created_at=NOON, versions=0))
    before = everything(store)
    with pytest.raises(sa.exc.DBAPIError, match="versions are only ever added"), store._engine.begin() as db:
        db.execute(sa.text(f"{replace}{columns.replace('reason', 'upper(reason)')} FROM version"))
    assert everything(store) == before
    store._engine.dispose()


def test_postgresql_refuses_to_truncate_the_versions(postgres: Postgres) -> None:
    """SQLite has no TRUNCATE; a DELETE without WHERE still fires its triggers."""
    with postgres.new_database() as url:
        store = metadata_store.connect(url)
        published(store)
        with pytest.raises(sa.exc.DBAPIError, match="versions are only ever added"), store._engine.begin() as db:
            db.execute(sa.text("TRUNCATE version CASCADE"))
        assert len(store.versions("v")) == 2
        store._engine.dispose()


def test_a_database_without_our_schema_is_an_outage_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(Outage, match="video"):
        metadata_store.connect(f"sqlite:///{tmp_path}/empty.sqlite").ping()


def test_a_database_without_tables_counts_as_away(store: MetadataStore) -> None:
    """On PostgreSQL it was no error of ours, so that a gateway's /readyz answered 500 and named nothing."""
    store.ping()
    with store.writing() as db:
        db.execute(sa.text("ALTER TABLE video RENAME TO lost"))
    with pytest.raises(Outage):
        store.ping()


def test_a_database_with_the_schema_of_an_older_program_is_an_outage_that_says_so(store: MetadataStore) -> None:
    """A gateway that was started before `setup` was ready by its own word, and had no answer but 500."""
    with store.writing() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '0010'"))
    with pytest.raises(Outage, match="setup"):
        store.ping()


def test_a_database_with_the_schema_of_a_newer_program_is_refused_in_words(
    store: MetadataStore, database_url: str
) -> None:
    with store.writing() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="newer program"):
        metadata_store.migrate(database_url)


def test_several_that_migrate_at_once_end_well(postgres: Postgres) -> None:
    """Each replica of a deployment may run `setup` before it starts; all but one ended with a stack trace."""
    program = "import sys; from hls_pipeline import metadata_store; metadata_store.migrate(sys.argv[1])"
    with postgres.new_database("template0") as url:
        started = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(3)]
        assert [process.wait() for process in started] == [0, 0, 0]
        metadata_store.connect(url).ping()


def test_a_webhook_from_before_is_told_of_changes_that_became_visible_late(tmp_path: Path) -> None:
    """PostgreSQL may show a lower number after a higher one; what a webhook had seen says nothing of those between."""
    url = f"sqlite:///{tmp_path}/metadata.sqlite"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with sa.create_engine(url).connect() as db:
        config.attributes["connection"] = db
        command.upgrade(config, "0010")
        for number in range(1, 301):
            values = {"id": number, "time": clock.text(after(number))}
            db.execute(sa.text("INSERT INTO state_change VALUES (:id, 'u', 'staged', :time, NULL)"), values)
        for name, made in (("old", 50.5), ("young", 290.5), ("first", 0.5)):
            values = {"id": name, "made": clock.text(after(made))}
            db.execute(sa.text("INSERT INTO webhook VALUES (:id, 'k', NULL, '', '', '[]', :made, 300, NULL)"), values)
        db.commit()
    metadata_store.migrate(url)
    with metadata_store.connect(url).reading() as db:
        since = dict(db.execute(sa.text("SELECT webhook_id, since FROM webhook")).tuples().all())
    assert since == {"old": 0, "young": 290, "first": 0}


def test_a_database_that_does_not_answer_is_an_outage() -> None:
    (port,) = free_ports(1)
    with pytest.raises(Outage, match="reading the metadata store"):
        metadata_store.connect(f"postgresql+psycopg2://hls:x@127.0.0.1:{port}/none").ping()


# ---- arrivals -----------------------------------------------------------------------------------------------------


def test_a_drop_received_twice_is_one_upload(store: MetadataStore) -> None:
    first = received(store)
    before = everything(store)
    assert store.receive(drop(), after(99)) == first
    assert everything(store) == before


def test_a_drop_received_by_many_at_once_is_one_upload(store: MetadataStore) -> None:
    uploads = at_once(20, lambda _: received(store))
    assert {upload.upload_id for upload in uploads} == {drop().upload_id}
    assert [state for state, _, _ in store.history(drop().upload_id)] == [State.RECEIVED]


def test_a_new_drop_takes_the_place_of_an_incomplete_one(store: MetadataStore) -> None:
    incomplete = received(store)
    store.wait_for_files(held(store, incomplete), REPORT, after(3600))
    received(store, number=2)
    assert [upload.state for upload in store.uploads_of("v")] == [State.SUPERSEDED, State.RECEIVED]


def test_a_new_drop_leaves_an_accepted_one_alone(store: MetadataStore) -> None:
    first = received(store)
    accepted(store, held(store, first), report={"warnings": []})
    received(store, number=2)
    assert store.upload(first.upload_id).state is State.RECEIVED


def test_uploads_come_back_as_they_went_in(store: MetadataStore) -> None:
    upload = received(store)
    assert upload.drop == drop()
    assert store.upload(upload.upload_id) == upload
    assert store.latest_upload("v") == upload
    assert store.uploads_of("v") == (upload,)
    assert store.current_upload("v") is None
    assert store.latest_upload("w") is None


def test_an_unknown_upload_or_video_is_not_found(store: MetadataStore) -> None:
    for question in (store.upload, store.versions, store.current, store.newest_ready_revision):
        with pytest.raises(NotFound):
            question("nothing")


def test_a_list_of_videos_is_read_page_by_page_with_the_newest_upload_of_each(store: MetadataStore) -> None:
    names = [f"v{n:02}" for n in range(25)]
    for name in names:
        received(store, name, 1)
        newest = received(store, name, 2)
        assert store.latest_upload(name) == newest
    seen: list[str] = []
    while page := store.videos(limit=10, after=seen[-1] if seen else ""):
        assert all(upload.upload_id == drop(upload.video_id, 2).upload_id for upload in page)
        seen += [upload.video_id for upload in page]
    assert seen == names


def test_the_newest_arrivals_come_first_page_by_page_whatever_arrives_meanwhile(store: MetadataStore) -> None:
    for n in range(12):
        store.receive(drop(f"v{n:02}", 1), NOON + timedelta(minutes=n // 2))  # two at each moment
    store.receive(drop("v00", 2), NOON + timedelta(hours=1))
    first = store.newest_videos(5)
    assert first[0] == store.latest_upload("v00"), "its newest arrival counts"
    store.receive(drop("new", 1), NOON + timedelta(hours=2))
    store.receive(drop("v11", 2), NOON + timedelta(hours=2))
    seen = list(first)
    while page := store.newest_videos(5, seen[-1].upload_id):
        seen += page
    assert sorted(upload.video_id for upload in seen) == [f"v{n:02}" for n in range(12)]
    moments = [upload.created_at for upload in seen]
    assert moments == sorted(moments, reverse=True)


def test_the_newest_upload_is_the_same_in_every_list_even_at_one_instant(store: MetadataStore) -> None:
    for number in range(1, 9):
        store.receive(drop("v", number), NOON)
    assert store.videos() == store.newest_videos() == (store.latest_upload("v"),)


def test_control_characters_and_emoji_survive(store: MetadataStore) -> None:
    odd = "x\0y 🌌 \u2028 é \x7f"
    upload = received(store)
    lease = held(store, upload)
    accepted(store, lease, metadata={odd: [odd]}, report={"warnings": [odd]})
    document = {"video_id": "v", "title": odd}
    store.staged(lease, document, actor="inbox", reason="staged", run_id=None, now=NOON)
    store.add_receipts(lease, "proof", [{"answered": odd}], NOON)
    known = store.upload(upload.upload_id)
    current = store.current("v")
    assert current is not None
    assert known.metadata == {odd: [odd]}
    assert known.report == {"warnings": [odd]}
    assert json.loads(current.document) == document
    assert store.receipts(upload.upload_id)[0]["answered"] == odd


# ---- the lease ----------------------------------------------------------------------------------------------------


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives when so many threads begin it at the same moment."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_one_of_twenty_gets_the_lease(store: MetadataStore) -> None:
    """The first lease of a video has no row yet that could be locked."""
    uploads = [received(store, f"v{number}") for number in range(5)]

    def attempt(number: int) -> list[Lease]:
        won = []
        for upload in uploads:
            with contextlib.suppress(LeaseLost):
                won.append(held(store, upload, f"run {number}"))
        return won

    for _ in range(2):
        leases = [lease for won in at_once(20, attempt) for lease in won]
        assert sorted(lease.video_id for lease in leases) == [upload.video_id for upload in uploads]
        for lease in leases:
            store.renew(lease, NOON, SECONDS)
            store.release(lease)


def test_who_has_the_lease_is_named_to_the_others(store: MetadataStore) -> None:
    upload = received(store)
    held(store, upload, "path:7f3a")
    with pytest.raises(LeaseLost, match="path:7f3a"):
        held(store, upload, "other")


def test_the_same_holder_goes_on_under_the_same_fence_and_as_the_same_try(store: MetadataStore) -> None:
    upload = received(store)
    assert held(store, upload, at=0) == held(store, upload, at=1) == held(store, upload, at=1 + SECONDS + 1)
    assert store.upload(upload.upload_id).attempts == 1


def test_a_lease_is_free_once_it_ended_or_expired(store: MetadataStore) -> None:
    upload = received(store)
    first = held(store, upload, "a")
    store.release(first)
    second = held(store, upload, "b")
    store.renew(second, after(15), SECONDS)
    with pytest.raises(LeaseLost):
        held(store, upload, "c", at=34)
    third = held(store, upload, "c", at=36)
    assert first.fence < second.fence < third.fence
    assert store.upload(upload.upload_id).attempts == 3


def test_releasing_late_does_not_take_it_from_the_next(store: MetadataStore) -> None:
    upload = received(store)
    late = held(store, upload, "a")
    held(store, upload, "b", at=SECONDS + 1)
    store.release(late)
    with pytest.raises(LeaseLost):
        held(store, upload, "c", at=SECONDS + 2)


BEHIND_THE_FENCE: dict[str, Callable[[MetadataStore, Lease], Any]] = {
    "renew": lambda store, lease: store.renew(lease, NOON, SECONDS),
    "postpone": lambda store, lease: store.postpone(lease, "late", NOON, uses_attempt=True),
    "wait_for_files": lambda store, lease: store.wait_for_files(lease, REPORT, NOON),
    "fail": lambda store, lease: store.fail(lease, "late", NOON),
    "reject": lambda store, lease: store.reject(lease, REPORT, NOON),
    "supersede": lambda store, lease: store.supersede(lease, "late", NOON),
    "unchanged": lambda store, lease: store.unchanged(lease, NOON),
    "accept": lambda store, lease: accepted(store, lease),
    "expect_objects": lambda store, lease: store.expect_objects(lease, [temp(9)]),
    "objects_put": lambda store, lease: store.objects_put(lease, [replace(temp(1), etag="late")]),
    "take_back": lambda store, lease: store.take_back(lease),
    "staged": lambda store, lease: store.staged(lease, {}, actor="late", reason="late", run_id=None, now=NOON),
    "claim": lambda store, lease: store.claim(lease, "bafylate"),
    "add_receipts": lambda store, lease: store.add_receipts(lease, "proof", [{}], NOON),
    "pinned": lambda store, lease: store.pinned(lease, [{}], NOON),
    "record_published": lambda store, lease: store.record_published(lease, "late", "late", [{}], NOON),
    "finalize": lambda store, lease: finalized(store, lease),
    "revise": lambda store, lease: store.revise(lease, {}, actor="late", reason="late", run_id=None, now=NOON),
    "objects_removed": lambda store, lease: store.objects_removed(lease, [temp(1).cid], {}, NOON),
    "objects_stay": lambda store, lease: store.objects_stay(lease, [temp(1).cid], after(99), NOON),
    "objects_due": lambda store, lease: store.objects_due(lease, NOON),
    "cut_off": lambda store, lease: store.cut_off(lease),
    "mirrored": lambda store, lease: store.mirrored(
        lease, Version("v", 1, 1, "{}", "", None, "", "late", "late", None, NOON)
    ),
    "release_claim": lambda store, lease: store.release_claim(lease, "bafylate"),
    "still_claimed": lambda store, lease: store.still_claimed(lease, "bafylate"),
    "unpinned": lambda store, lease: store.unpinned(lease, "bafylate"),
}


def test_every_method_that_takes_a_lease_is_tested_for_its_fence() -> None:
    takes_lease = {
        name
        for name, method in inspect.getmembers(MetadataStore, inspect.isfunction)
        if not name.startswith("_") and "lease" in method.__annotations__
    }
    assert takes_lease - {"release", "writing"} == BEHIND_THE_FENCE.keys()


def test_a_worker_that_wakes_up_late_changes_nothing(store: MetadataStore) -> None:
    upload = received(store)
    late = held(store, upload, "late")
    accepted(store, held(store, upload, "new", at=SECONDS + 1))
    before = everything(store)
    for name, method in BEHIND_THE_FENCE.items():
        with pytest.raises(LeaseLost, match="another run took over video v"):
            method(store, late)
        assert everything(store) == before, name


def test_a_released_lease_changes_nothing(store: MetadataStore) -> None:
    upload = received(store)
    lease = held(store, upload)
    accepted(store, lease)
    store.release(lease)
    before = everything(store)
    for name, method in BEHIND_THE_FENCE.items():
        with pytest.raises(LeaseLost):
            method(store, lease)
        assert everything(store) == before, name


# ---- moves --------------------------------------------------------------------------------------------------------


MOVES_OF_THE_STORE: dict[State, Callable[[MetadataStore, Lease], Any]] = {
    State.REJECTED: lambda store, lease: store.reject(lease, REPORT, NOON),
    State.UNCHANGED: lambda store, lease: store.unchanged(lease, NOON),
    State.SUPERSEDED: lambda store, lease: store.supersede(lease, "newer", NOON),
    State.FAILED: lambda store, lease: store.fail(lease, "broken", NOON),
    State.PUBLISHED: lambda store, lease: finalized(store, lease),
}


@pytest.mark.parametrize("state", MOVES_OF_THE_STORE)
def test_a_forbidden_move_raises_and_changes_nothing(store: MetadataStore, state: State) -> None:
    """`finalize` of a received upload would skip two states; the others start from a published one."""
    lease = held(store, received(store))
    if state is State.PUBLISHED:
        accepted(store, lease)
    else:
        pinned(store, lease)
        finalized(store, lease)
    before = everything(store)
    with pytest.raises(Conflict, match=f"cannot become {state}"):
        MOVES_OF_THE_STORE[state](store, lease)
    assert everything(store) == before


def test_history_tells_each_state_its_time_and_its_run(store: MetadataStore) -> None:
    upload = published(store)
    assert store.history(upload.upload_id) == (
        (State.RECEIVED, after(1), None),
        (State.STAGED, after(10), "run"),
        (State.PINNED, after(11), "run"),
        (State.PUBLISHED, after(12), "run"),
    )


# ---- tries --------------------------------------------------------------------------------------------------------


def test_a_failed_try_counts_and_an_outage_does_not(store: MetadataStore) -> None:
    upload = received(store)
    for holder, uses_attempt, attempts in (("a", True, 1), ("b", False, 1), ("c", False, 1), ("d", True, 2)):
        lease = held(store, upload, holder)
        store.postpone(lease, f"error of {holder}", after(100), uses_attempt=uses_attempt)
        store.release(lease)
        known = store.upload(upload.upload_id)
        assert (known.attempts, known.error, known.not_before) == (attempts, f"error of {holder}", after(100))


@pytest.mark.parametrize("state", sorted(IN_WORK))
def test_a_failed_upload_is_resumed_where_it_failed_with_all_its_tries(store: MetadataStore, state: State) -> None:
    upload = received(store)
    lease = held(store, upload)
    {State.RECEIVED: accepted, State.STAGED: staged, State.PINNED: pinned}[state](store, lease)
    store.fail(lease, "broken", after(20))
    store.release(lease)
    failed = store.upload(upload.upload_id)
    assert (failed.state, failed.failed_in, failed.error) == (State.FAILED, state, "broken")
    assert store.ready_to_run(after(99)) == ()
    resumed = store.resume(upload.upload_id, after(30))
    assert (resumed.state, resumed.failed_in, resumed.attempts) == (state, None, 0)
    assert store.ready_to_run(after(30)) == (resumed,)


def test_only_a_failed_upload_can_be_resumed(store: MetadataStore) -> None:
    upload = received(store)
    before = everything(store)
    with pytest.raises(Conflict, match="is received; only a failed upload can be retried"):
        store.resume(upload.upload_id, NOON)
    assert everything(store) == before


# ---- what is started next -----------------------------------------------------------------------------------------


def ready(store: MetadataStore, at: float) -> list[str]:
    return [upload.video_id for upload in store.ready_to_run(after(at))]


def test_uploads_in_work_are_offered_oldest_first(store: MetadataStore) -> None:
    for video_id, number in (("b", 2), ("a", 3), ("c", 1)):
        received(store, video_id, number)
    assert ready(store, 10) == ["c", "b", "a"]
    assert len(store.ready_to_run(after(10), limit=2)) == 2


def test_a_requested_run_is_not_requested_again_until_it_had_time_to_show_up(store: MetadataStore) -> None:
    upload = received(store)
    assert store.request_run(upload.upload_id, after(10)) == 1
    assert ready(store, 11) == []
    assert ready(store, 41) == ["v"]
    assert store.request_run(upload.upload_id, after(41)) == 2


def test_of_two_who_ask_for_a_run_at_the_same_moment_one_does(store: MetadataStore) -> None:
    """The gateway and the sensor: an upload that was asked for, or is worked on, gets no second run."""
    upload = received(store)
    assert store.request_run(upload.upload_id, after(10)) == 1
    assert store.request_run(upload.upload_id, after(10)) is None
    lease = held(store, upload, at=12)
    assert store.request_run(upload.upload_id, after(13)) is None
    store.release(lease)
    assert store.request_run(upload.upload_id, after(14)) == 2


def test_an_upload_that_is_held_is_not_offered_until_its_lease_expired(store: MetadataStore) -> None:
    upload = received(store)
    held(store, upload)
    assert ready(store, 19) == []
    assert ready(store, 21) == ["v"]


def test_an_upload_told_to_wait_is_offered_when_its_time_has_come(store: MetadataStore) -> None:
    upload = received(store)
    lease = held(store, upload)
    store.postpone(lease, "S3 is down", after(100), uses_attempt=False)
    store.release(lease)
    assert ready(store, 99) == []
    assert ready(store, 100) == ["v"]


@pytest.mark.parametrize("end", ["reject", "unchanged", "supersede", "fail"])
def test_an_upload_that_goes_no_further_is_not_offered(store: MetadataStore, end: str) -> None:
    lease = held(store, received(store))
    BEHIND_THE_FENCE[end](store, lease)
    store.release(lease)
    assert ready(store, 10_000) == []


def test_a_path_cut_off_after_finalize_is_walked_to_its_end(store: MetadataStore) -> None:
    lease = held(store, received(store), PATH + "run")
    pinned(store, lease)
    finalized(store, lease)
    assert ready(store, 19) == []
    assert ready(store, 21) == ["v"]
    assert store.due(after(21)) == ()
    store.release(lease)
    assert ready(store, 21) == []
    assert [due.video_id for due in store.due(after(21))] == ["v"]


def test_a_cut_off_clean_up_is_not_taken_for_a_cut_off_path(store: MetadataStore) -> None:
    """Walking the path again would read originals that the clean-up has half deleted."""
    upload = published(store)
    held(store, upload, "hand:clear", at=100)
    assert ready(store, 200) == []
    assert [due.video_id for due in store.due(after(200))] == ["v"]


def test_a_video_is_at_rest_when_all_of_it_has_ended_and_nobody_worked_on_it_since(store: MetadataStore) -> None:
    cleared = held(store, published(store), "hand:clear", at=20)
    store.objects_removed(cleared, [temp(1).cid, temp(2).cid], {}, after(20))
    store.renew(cleared, after(20), 5)
    store.release(cleared)
    waiting = held(store, received(store, "waiting"), at=1)
    staged(store, waiting)
    videos = ["v", "waiting", "unknown"]
    assert store.settled(videos, after(24.9)) == ()
    assert store.settled(videos, after(25)) == ("v",)
    assert store.settled(["waiting"], after(10**6)) == ()
    received(store, "v", 2)
    assert store.settled(videos, after(10**6)) == ()


def test_a_published_video_without_s3_copies_comes_to_rest(store: MetadataStore) -> None:
    """One that was made again from IPFS stayed among Dagster's partitions for ever: it has nothing to clear."""
    lease = held(store, published(store), "hand:keep", at=20)
    store.release(lease)
    assert store.settled(["v"], after(10**6)) == ()
    lease = held(store, store.upload(lease.upload_id), "hand:keep", at=30)
    store.objects_stay(lease, [temp(1).cid, temp(2).cid], None, after(30))
    store.release(lease)
    assert store.settled(["v"], after(10**6)) == ("v",)


def test_after_a_restart_everything_is_free_at_once_and_no_try_is_lost(store: MetadataStore) -> None:
    first, second, third = received(store, "a"), received(store, "b", 2), received(store, "c", 3)
    store.request_run(first.upload_id, NOON)
    dead = held(store, first)
    lease = held(store, second)
    store.postpone(lease, "IPFS is down", after(10_000), uses_attempt=True)
    store.release(lease)
    lease = held(store, third)
    staged(store, lease)
    store.postpone(lease, "IPFS is down", after(10_000), uses_attempt=True)
    store.release(lease)
    assert store.release_all() == 1
    assert ready(store, 5) == ["a", "b", "c"]
    assert [store.upload(u.upload_id).attempts for u in (first, second, third)] == [0, 1, 1]
    alive = held(store, first, "new", at=5)
    assert alive.fence > dead.fence
    with pytest.raises(LeaseLost):
        store.renew(dead, after(6), SECONDS)


def test_a_restart_leaves_an_incomplete_folder_its_time(store: MetadataStore) -> None:
    lease = held(store, received(store))
    store.wait_for_files(lease, REPORT, after(3600))
    store.release(lease)
    store.release_all()
    assert ready(store, 3599) == []
    assert ready(store, 3600) == ["v"]


# ---- accepting and staging ----------------------------------------------------------------------------------------


def test_accepting_puts_revision_inventory_and_objects_on_record_at_once(store: MetadataStore) -> None:
    upload = received(store)
    known = accepted(store, held(store, upload))
    assert (known.state, known.revision, known.root) == (State.RECEIVED, 1, "bafyroot")
    assert store.inventory(upload.upload_id) == (file(),)
    assert store.temp_objects(upload.upload_id) == (temp(1), temp(2))
    assert store.next_revision("v") == 2


def test_accepting_twice_is_refused(store: MetadataStore) -> None:
    lease = held(store, received(store))
    accepted(store, lease)
    before = everything(store)
    with pytest.raises(Conflict, match="revision 1 is taken"):
        accepted(store, lease)
    assert everything(store) == before


def test_an_acceptance_taken_back_leaves_the_number_free(store: MetadataStore) -> None:
    upload = received(store)
    lease = held(store, upload)
    accepted(store, lease)
    store.take_back(lease)
    assert store.upload(upload.upload_id).revision is None
    assert store.inventory(upload.upload_id) == ()
    assert store.temp_objects(upload.upload_id) == ()
    assert accepted(store, lease).revision == 1


def test_an_object_expected_twice_is_one_row_and_keeps_what_s3_said(store: MetadataStore) -> None:
    upload = received(store)
    lease = held(store, upload)
    accepted(store, lease)
    there = replace(temp(1), etag='"e"', version_id="7")
    store.objects_put(lease, [there])
    store.expect_objects(lease, [temp(1), temp(3), temp(3)])
    assert store.temp_objects(upload.upload_id) == (there, temp(2), temp(3))


def test_inventory_keeps_the_order_of_the_playlists(store: MetadataStore) -> None:
    upload = received(store)
    files = [file(f"{name}.ts", n) for n, name in enumerate("zmaq")]
    about = {"root": "r", "playlist": "p", "size": 1, "metadata": {}, "report": {}}
    store.accept(held(store, upload), revision=1, facts={}, files=files[::-1], objects=[], **about)
    assert [item.path for item in store.inventory(upload.upload_id)] == ["z.ts", "m.ts", "a.ts", "q.ts"]


def test_the_first_temporary_document_is_current_and_a_later_one_does_not_hide_a_ready_revision(
    store: MetadataStore,
) -> None:
    lease = held(store, received(store))
    staged(store, lease)
    first = store.current("v")
    assert first is not None
    assert json.loads(first.document)["status"] == "processing"
    store.pinned(lease, [], NOON)
    finalized(store, lease)
    store.release(lease)
    staged(store, held(store, received(store, "v", 2)), revision=2)
    current = store.current("v")
    assert current is not None
    assert json.loads(current.document) == {"video_id": "v", "revision": 1, "status": "ready"}
    assert len(store.versions("v")) == 3


def test_a_claim_said_twice_is_one(store: MetadataStore) -> None:
    lease = held(store, received(store))
    store.claim(lease, "bafyroot")
    store.claim(lease, "bafyroot")
    assert len(everything(store)["claim"]) == 1


# ---- finalize -----------------------------------------------------------------------------------------------------


def test_finalize_makes_everything_true_at_once(store: MetadataStore) -> None:
    upload = published(store, due_at=100)
    current = store.current("v")
    assert current is not None
    assert (current.n, current.revision, current.actor, current.reason) == (2, 1, "inbox", "published")
    assert json.loads(current.document)["status"] == "ready"
    assert upload.state is State.PUBLISHED
    assert store.current_upload("v") == upload
    assert store.newest_ready_revision("v") == 1
    assert {item.due_at for item in store.temp_objects(upload.upload_id)} == {after(100)}


def test_a_finalize_that_fails_at_its_end_leaves_nothing(store: MetadataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = held(store, received(store))
    pinned(store, lease)
    before = everything(store)

    def break_off(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metadata_store.rows, "mark_due", break_off)
    with pytest.raises(KeyboardInterrupt):
        finalized(store, lease)
    assert everything(store) == before


def test_readers_see_the_old_state_or_the_new_one_and_nothing_between(store: MetadataStore) -> None:
    """What is read at once (one statement over both tables) always agrees, while 20 revisions are finalized."""
    both = sa.select(tables.video.c.current_revision, tables.version.c.document, tables.upload.c.state).where(
        tables.version.c.video_id == tables.video.c.video_id,
        tables.version.c.n == tables.video.c.current_version,
        tables.upload.c.video_id == tables.video.c.video_id,
        tables.upload.c.revision == tables.version.c.revision,
    )
    seen: Counter[tuple[int | None, str, str]] = Counter()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with store._read() as db:
                for row in db.execute(both):
                    seen[row.current_revision, json.loads(row.document)["status"], row.state] += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 21):
            published(store, number)
        wait_until(lambda: any(revision == 20 for revision, _, _ in seen), "the reader to see the last revision")
    finally:
        done.set()
        reader.join()
    ready_ones = {key for key in seen if key[1] == "ready"}
    assert all(state == State.PUBLISHED and revision for revision, _, state in ready_ones)
    assert {key[0] for key in seen if key[1] == "processing"} <= {None}
    assert len({revision for revision, _, _ in ready_ones}) > 1


def test_a_revision_that_is_ready_supersedes_lower_ones_that_are_not(store: MetadataStore) -> None:
    """The first failed late; what it has in S3 would stay for ever, since nobody can bring it to readers any more."""
    first = received(store)
    lease = held(store, first)
    pinned(store, lease)
    store.fail(lease, "broken", after(20))
    store.release(lease)
    second = published(store, 2, due_at=1000)
    assert store.current_upload("v") == second
    assert store.upload(first.upload_id).state is State.SUPERSEDED
    assert [upload.upload_id for upload in store.due(after(30))] == [first.upload_id]
    with pytest.raises(Conflict, match="is superseded"):
        store.resume(first.upload_id, after(30))
    with pytest.raises(Conflict, match="cannot become published"):
        finalized(store, held(store, first))
    current = store.current("v")
    assert current is not None
    assert current.revision == 2


def test_what_failed_on_its_way_gives_way_when_the_current_package_is_sent_again(store: MetadataStore) -> None:
    """First A, then B which fails, then A again: B must not become current when it is taken up later."""
    current = published(store)
    failed = received(store, "v", 2)
    lease = held(store, failed)
    staged(store, lease, 2)
    store.fail(lease, "the node was full", after(20))
    store.release(lease)
    again = received(store, "v", 3)
    store.unchanged(held(store, again), after(30))
    assert store.upload(failed.upload_id).state is State.SUPERSEDED
    assert store.current_upload("v") == store.upload(current.upload_id)
    assert [item.due_at for item in store.temp_objects(failed.upload_id)] == [after(30)] * 2
    with pytest.raises(Conflict):
        store.resume(failed.upload_id, after(40))


def test_an_upload_withdrawn_while_it_is_resumed_stays_withdrawn(postgres: Postgres) -> None:
    """SQLite has one writer at a time."""
    with postgres.new_database() as url:
        store, other = MetadataStore(url), MetadataStore(url)
        upload = received(store)
        lease = held(store, upload)
        staged(store, lease)
        store.fail(lease, "tries used up", after(20))
        refused = []

        def resume() -> None:
            try:
                other.resume(upload.upload_id, after(30))
            except Conflict as error:
                refused.append(error)

        with store.writing() as db:
            rows.move(db, upload.upload_id, State.WITHDRAWN, after(30), None)
            thread = threading.Thread(target=resume)
            thread.start()
            waiting = sa.text("SELECT 1 FROM pg_locks WHERE NOT granted")
            wait_until(lambda: db.execute(waiting).first(), "the other to wait for this transaction")
        thread.join()
        assert store.upload(upload.upload_id).state is State.WITHDRAWN
        assert len(refused) == 1
        for each in (store, other):
            each._engine.dispose()


def test_finalizing_again_changes_nothing(store: MetadataStore) -> None:
    """A late retry of the same run, with an upload read before the first try."""
    lease = held(store, received(store))
    pinned(store, lease)
    finalized(store, lease)
    before = everything(store)
    finalized(store, lease, at=50, due_at=60)
    assert everything(store) == before


# ---- the chain ----------------------------------------------------------------------------------------------------


def test_the_chain_of_hashes_holds_over_all_versions(store: MetadataStore) -> None:
    for number in range(1, 4):
        published(store, number)
    versions = store.versions("v")
    assert [version.n for version in versions] == [1, 2, 3, 4, 5, 6]
    previous = None
    for version in versions:
        facts = {"n": version.n, "video_id": "v", "actor": version.actor, "reason": version.reason}
        assert version.document_sha256 == documents.sha256(version.document)
        assert version.previous_hash == previous
        assert version.hash == documents.chain_hash(
            **facts,
            document_sha256=version.document_sha256,
            previous_hash=previous,
            run_id=version.run_id,
            time=clock.text(version.time),
        )
        previous = version.hash


def test_a_version_keeps_the_time_its_hash_covers(store: MetadataStore) -> None:
    """Clocks have microseconds, the column has milliseconds."""
    lease = held(store, received(store))
    accepted(store, lease)
    odd = NOON.replace(microsecond=123_789)
    made = store.staged(lease, {}, actor="inbox", reason="staged", run_id=None, now=odd)
    assert store.versions("v") == (made,)
    assert made.time == NOON.replace(microsecond=123_000)


# ---- clean-up -----------------------------------------------------------------------------------------------------


def due(store: MetadataStore, at: float) -> list[str]:
    return [upload.video_id for upload in store.due(after(at))]


def test_a_published_upload_is_due_when_its_grace_is_over(store: MetadataStore) -> None:
    published(store, due_at=100)
    assert due(store, 99) == []
    assert due(store, 100) == ["v"]


def test_what_is_held_or_was_just_requested_is_not_due(store: MetadataStore) -> None:
    upload = published(store)
    store.request_run(upload.upload_id, after(20))
    assert due(store, 49) == []
    lease = held(store, upload, "hand:clear", at=49)
    assert due(store, 60) == []
    store.release(lease)
    assert due(store, 60) == ["v"]


def test_an_upload_that_gave_way_is_due_at_once(store: MetadataStore) -> None:
    lease = held(store, received(store))
    staged(store, lease)
    store.supersede(lease, "newer", after(20))
    store.release(lease)
    assert due(store, 20) == ["v"]


@pytest.mark.parametrize("until", [accepted, staged, pinned])
def test_what_is_in_work_or_failed_is_never_due(store: MetadataStore, until: Any) -> None:
    lease = held(store, received(store))
    until(store, lease)
    assert due(store, 10_000) == []
    store.fail(lease, "broken", after(20))
    store.release(lease)
    assert due(store, 10_000) == []


def test_rows_leave_with_their_receipt_and_then_nothing_is_due(store: MetadataStore) -> None:
    upload = published(store)
    lease = held(store, upload, "hand:clear", at=20)
    removed = [item.cid for item in store.temp_objects(upload.upload_id)]
    store.objects_removed(lease, removed, {"removed": removed, "evidence": []}, after(21))
    assert store.temp_objects(upload.upload_id) == ()
    store.release(lease)
    assert store.upload(upload.upload_id).state is State.CLEARED  # with the last row: a crash cannot come between
    assert due(store, 10_000) == []
    (receipt,) = store.receipts(upload.upload_id, "deletion")
    assert receipt == {"removed": removed, "evidence": [], "kind": "deletion", "time": clock.text(after(21))}


def test_a_document_is_mirrored_until_a_newer_one_is_current(store: MetadataStore) -> None:
    upload = published(store)
    version = store.unmirrored("v")
    assert version == store.current("v")
    assert version is not None
    lease = held(store, upload, "hand:mirror")
    store.mirrored(lease, version)
    store.release(lease)
    assert store.unmirrored("v") is None
    published(store, 2)
    assert store.unmirrored("v") == store.current("v")


# ---- the estimate's memory ----------------------------------------------------------------------------------------


def test_the_newest_publications_are_remembered_with_size_and_duration(store: MetadataStore) -> None:
    published(store, 1, at=13)
    published(store, 2, at=15)
    assert store.recent_publications(10) == (Passage(10, 1.0, 4.0), Passage(10, 1.0, 2.0))
    assert store.recent_publications(1) == (Passage(10, 1.0, 4.0),)


def test_bytes_in_work_are_those_staged_earlier(store: MetadataStore) -> None:
    uploads = [received(store, f"v{n}", n) for n in range(1, 4)]
    for upload in uploads:
        lease = held(store, upload)
        store.accept(
            lease, revision=1, facts={}, files=[file()], objects=[], root="r", size=100, metadata={}, report={}
        )
        store.staged(lease, {}, actor="inbox", reason="staged", run_id=None, now=NOON)
    assert [store.bytes_in_work(before=upload) for upload in uploads] == [0, 100, 200]


# ---- many at once -------------------------------------------------------------------------------------------------


def test_two_hundred_writers_at_once_never_find_the_database_locked(store: MetadataStore, database_url: str) -> None:
    """Ten pools stand for ten processes; each writer reads before it writes, which SQLite punishes if done wrong."""
    pools = [MetadataStore(database_url) for _ in range(10)]

    def write(number: int) -> None:
        mine = pools[number % 10]
        received(mine, f"v{number:03}", number + 1)

    at_once(200, write)
    for pool in pools:
        pool._engine.dispose()
    assert len(store.videos(limit=1000)) == 200
