"""How the metadata store behaves with 100,000 videos of 5 versions each, in SQLite and in PostgreSQL.

`python -m bench.metadata` fills a database in bulk, measures what readers and runs ask of it, and compares the cost of
finishing one upload with that in a small database. Documents have about 2 kB. Absolute numbers depend on the machine
and on what else it does; the limits that are wanted stand beside them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hls_pipeline import audit, clock, documents, tables
from hls_pipeline.metadata_store import PATH, InventoryFile, MetadataStore, TempObject
from hls_pipeline.uploads import Drop, DropObject
from tests import services

START = datetime(2026, 1, 1, tzinfo=UTC)
VERSIONS = 5
BLOCK = 100  # videos written row by row; the others are their copies
SMALL = 100  # videos to compare with
FILES = 29  # of a package, which makes documents of 2 kB
IN_GRACE = 50  # of so many videos one is published and waits for its clean-up
PAGE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    options = parser.parse_args()
    for kind in options.database or ("sqlite", "postgresql"):
        with databases(kind) as new:
            print(f"{kind}: {options.videos:,} videos, {VERSIONS} versions each")
            began = time.perf_counter()
            store, small = filled(new(), options.videos), filled(new(), SMALL)
            print(f"  filled in {time.perf_counter() - began:.0f} s")
            verification(store)
            readers(store, options.videos)
            runs(store)
            finishing({small: SMALL, store: options.videos})


@contextmanager
def databases(kind: str) -> Iterator[Callable[[], str]]:
    """Makes new databases with our schema."""
    with tempfile.TemporaryDirectory(prefix="bench-metadata-") as folder:
        if kind == "sqlite":
            names = (Path(folder) / f"{number}.sqlite" for number in range(9))
            yield lambda: f"sqlite:///{services.migrated_sqlite(next(names))}"
        else:
            with services.running_postgres() as server:
                yield lambda: _new_database(server)


def _new_database(server: services.Postgres) -> str:
    name = f"bench_{time.time_ns()}"
    server.say(f"CREATE DATABASE {name}")
    return server.url(name)


# ---- filling -----------------------------------------------------------------------------------------------------


def filled(url: str, videos: int) -> MetadataStore:
    """A first block of videos is written row by row; the others are its copies, made by the database. Only versions,
    which have hashes, are all computed here."""
    store = MetadataStore(url)
    blocks = [block_name(number) for number in range(-(-videos // BLOCK))]
    rows: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table in tables.metadata.sorted_tables}
    for number in range(min(BLOCK, videos)):
        add_video(rows, number)
    numbers = sa.Table("block", sa.MetaData(), sa.Column("name", sa.Text), prefixes=["TEMPORARY"])
    with store.writing() as db:
        for table in filter(rows.get, tables.metadata.sorted_tables):
            db.execute(sa.insert(table), rows[table])
        numbers.create(db)
        if blocks[1:]:
            db.execute(sa.insert(numbers), [{"name": name} for name in blocks[1:]])
        for table in filter(rows.get, tables.metadata.sorted_tables):
            db.execute(copies(table, numbers))
        for name in blocks:
            db.execute(sa.insert(tables.version), [row for n in range(min(BLOCK, videos)) for row in chain(name, n)])
    with store._engine.connect() as db:
        db.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    return store


def copies(table: sa.Table, blocks: sa.Table) -> sa.Insert:
    """The first block's rows once more for every other block, with its name in place of theirs."""
    columns = [column for column in table.c if column.name != "id"]
    texts = (sa.String, tables.Json)
    values = [
        sa.type_coerce(sa.func.replace(sa.type_coerce(column, sa.Text), block_name(0), blocks.c.name), column.type)
        if isinstance(column.type, texts)
        else column
        for column in columns
    ]
    return sa.insert(table).from_select(columns, sa.select(*values).select_from(table.join(blocks, sa.true())))


def block_name(number: int) -> str:
    return f"block{number:05}"


def video_name(number: int) -> str:
    return f"{block_name(number // BLOCK)}-{number % BLOCK:03}"


def add_video(rows: dict[sa.Table, list[dict[str, Any]]], number: int) -> None:
    """Two revisions that went all the way, or nearly."""
    video_id = video_name(number)
    rows[tables.video].append(
        {
            "video_id": video_id,
            "created_at": START,
            "versions": VERSIONS,
            "current_version": VERSIONS,
            "current_revision": 2,
            "mirrored_version": VERSIONS,
        }
    )
    for revision in (1, 2):
        waits = revision == 2 and number % IN_GRACE == 0
        add_upload(rows, video_id, revision, START + timedelta(hours=revision), waits)
    last = {"upload_id": rows[tables.upload][-1]["upload_id"], "holder": None, "fence": 9, "expires_at": START}
    rows[tables.video_lease].append({"video_id": video_id, **last})


def add_upload(
    rows: dict[sa.Table, list[dict[str, Any]]], video_id: str, revision: int, at: datetime, waits: bool
) -> None:
    own = {"upload_id": f"{video_id}-r{revision}"}
    root = f"bafy{own['upload_id']}"
    rows[tables.upload].append(
        {
            **own,
            "video_id": video_id,
            "state": "published" if waits else "cleared",
            "drop": drop(video_id, at).to_json(),
            "created_at": at,
            "updated_at": at,
            "revision": revision,
            "launches": 2,
            "attempts": 0,
            "root": root,
            "size": 10**8,
        }
    )
    for state in ("received", "staged", "pinned", "published", "cleared")[: 4 if waits else 5]:
        rows[tables.state_change].append({**own, "state": state, "time": at, "run_id": None})
    for kind in ("proof", "proof", "deletion"):
        rows[tables.receipt].append({**own, "kind": kind, "content": {"root": root}, "time": at, "run_id": None})
    rows[tables.claim].append({**own, "root": root})
    if waits:
        waiting = {**own, "size": 10, "etag": '"e"', "due_at": datetime(2100, 1, 1, tzinfo=UTC)}
        rows[tables.temp_storage] += [{**waiting, "cid": f"s3://media/{own['upload_id']}/{n}"} for n in range(9)]
    rows[tables.inventory] += [{**own, **vars(file(position))} for position in range(3)]


def chain(block: str, number: int) -> Iterator[dict[str, Any]]:
    """All versions of the block's n-th video."""
    previous, video_id = None, f"{block}-{number:03}"
    for n in range(1, VERSIONS + 1):
        text, at = DOCUMENT.replace("VIDEO", video_id), START + timedelta(hours=n)
        link: dict[str, Any] = {
            "n": n,
            "video_id": video_id,
            "document_sha256": documents.sha256(text),
            "previous_hash": previous,
            "actor": "inbox",
            "reason": "published",
            "run_id": "00000000-0000-4000-8000-000000000000",
        }
        previous = documents.chain_hash(**link, time=clock.text(at))
        yield {**link, "revision": 2, "document": text, "hash": previous, "time": at, "shown": True}


def document(video_id: str) -> dict[str, Any]:
    segments = [f"ipfs://bafkrei{number:052}" for number in range(FILES)]
    return {"video_id": video_id, "revision": 2, "status": "ready", "video_assets": {"segments": segments}}


DOCUMENT = documents.canonical(document("VIDEO"))


def drop(video_id: str, at: datetime) -> Drop:
    objects = (DropObject(f"{video_id}/{number}.ts", '"e"', 10, at) for number in range(FILES))
    return Drop(video_id, "inbox", f"{video_id}/", tuple(objects), at)


def file(position: int) -> InventoryFile:
    return InventoryFile(position, f"{position}.ts", "segment", "video/mp2t", 10, "bafk", 10, 1, "key", "source")


# ---- measuring ---------------------------------------------------------------------------------------------------


def readers(store: MetadataStore, videos: int) -> None:
    chance = random.Random(1)
    names = [video_name(chance.randrange(videos)) for _ in range(300)]
    then = START + timedelta(hours=3)
    line("current document", [seconds(partial(store.current, name)) for name in names], "wanted: 5 ms")
    line("document as of a time", [seconds(partial(store.as_of, name, then)) for name in names], "wanted: 10 ms")
    line(f"list page of {PAGE}", [seconds(partial(store.videos, PAGE, name)) for name in names[:50]], "wanted: 20 ms")


def runs(store: MetadataStore) -> None:
    """What the sensors ask each second."""
    later = clock.now() + timedelta(days=9)
    line("uploads that are ready to run", [seconds(partial(store.ready_to_run, later)) for _ in range(20)])
    line("uploads whose S3 copies are due", [seconds(partial(store.due, later)) for _ in range(20)])
    line("newest publications, for the estimate", [seconds(partial(store.recent_publications, 20)) for _ in range(20)])


def finishing(stores: dict[MetadataStore, int], uploads: int = 60) -> None:
    """All transactions of one upload, from arrival to cleared; in turns, so that both have the same machine."""
    finalize: dict[MetadataStore, list[Seconds]] = {store: [] for store in stores}
    total: dict[MetadataStore, list[Seconds]] = {store: [] for store in stores}
    for number in range(uploads):
        for store, videos in stores.items():
            began = Seconds.now()
            finalize[store].append(finish_one(store, video_name(number % videos), number))
            total[store].append(Seconds.now() - began)
    for store, videos in stores.items():
        line(f"finalize, {videos:,} videos", finalize[store], "wanted: 100 ms")
        line(f"finishing one upload, {videos:,} videos", total[store])
    small, large = (median(total[store]) for store in stores)
    by_wall, by_cpu = large.wall / small.wall, large.cpu / small.cpu
    print(f"  the larger is {by_wall:.2f} times the smaller, by CPU {by_cpu:.2f} (wanted: 1.2)")


def finish_one(store: MetadataStore, video_id: str, number: int) -> Seconds:
    now = clock.now()
    upload = store.receive(drop(video_id, now + timedelta(seconds=number)), now)
    store.ready_to_run(now)
    store.request_run(upload.upload_id, now)
    lease = store.take_lease(upload, f"{PATH}{number}", now, 60)
    revision = store.next_revision(video_id)
    address = f"s3://media/{video_id}/r{revision}/0.ts"
    about: dict[str, Any] = {"root": f"bafy{upload.upload_id}", "playlist": "0.ts", "size": 10, "metadata": {}}
    files, objects = [file(position) for position in range(3)], [TempObject(address, 10, "bafk")]
    store.accept(lease, revision=revision, facts={}, files=files, objects=objects, **about)
    store.objects_put(lease, [TempObject(address, 10, None, '"e"')])
    store.bytes_in_work(upload)
    store.recent_publications(20)
    said: dict[str, Any] = {"actor": "inbox", "run_id": lease.run_id}
    store.staged(lease, document(video_id), reason="staged", now=now, **said)
    store.claim(lease, about["root"])
    store.pinned(lease, [{"root": about["root"]}], now)
    store.record_published(lease, "bafyrecord", "bafymanifest", [], now)
    store.receipts(upload.upload_id, "proof")
    took = seconds(partial(store.finalize, lease, document(video_id), now, reason="published", now=now, **said))
    store.due(clock.now())
    store.objects_removed(lease, [address], {"removed": [address]}, clock.now())
    store.release(lease)
    return took


def verification(store: MetadataStore) -> None:
    began = Seconds.now()
    verdict = audit.verify(audit.on_record(store))
    took = Seconds.now() - began
    assert verdict.holds, verdict
    by_wall, by_cpu = verdict.versions / took.wall, verdict.versions / took.cpu
    print(
        f"  {'chain verification':44} {by_wall:10,.0f} versions/s, {by_cpu:,.0f} per second of CPU   (wanted: 20,000)"
    )


@dataclass(frozen=True)
class Seconds:
    """How long something took, and how long this process computed for it: on a busy machine the second says more. What
    PostgreSQL computes is in the first alone."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def seconds(question: Callable[[], object]) -> Seconds:
    began = Seconds.now()
    question()
    return Seconds.now() - began


def median(all_of_them: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.wall for s in all_of_them), statistics.median(s.cpu for s in all_of_them))


def line(what: str, took: Sequence[Seconds], wanted: str = "") -> None:
    middle = median(took)
    figures = f"{middle.wall * 1000:10.2f} ms, {middle.cpu * 1000:8.2f} ms of CPU"
    print(f"  {what:44} {figures}   {wanted and f'({wanted})'}", flush=True)


if __name__ == "__main__":
    main()
