"""Every published file of every video as a table: what it is, what IPFS calls it, where it lies, when that was proven.

`batches` reads the database in slices of uploads and keeps one slice in memory, so it takes any number of rows; the
other functions write its batches to a file or to S3. A new column is a field of `schema` and a line in `_batch`. What
is made of the numbers belongs to `figures.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hls_pipeline import clock, keys, tables
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import CHUNK, ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import ON_RECORD
from hls_pipeline.whole_file import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

_UPLOADS_AT_ONCE = 500
_ROWS_AT_ONCE = 65_536
PARQUET = "application/vnd.apache.parquet"


def schema() -> pa.Schema:
    import pyarrow as pa

    repeated = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("video_id", repeated),
            ("revision", pa.int32()),
            ("state", repeated),
            ("path", pa.string()),
            ("role", repeated),
            ("content_type", repeated),
            ("size", pa.int64()),
            ("cid", pa.string()),
            ("root", repeated),
            ("s3", pa.string()),
            ("nodes", pa.int32()),
            ("proven_at", pa.timestamp("ms", tz="UTC")),
            ("proof_age_days", pa.float32()),
            ("published_at", pa.timestamp("ms", tz="UTC")),
        ]
    )


@dataclass
class _About:
    """What all rows of one upload share."""

    video_id: str
    revision: int
    state: str
    root: str
    published_at: datetime | None = None
    proofs: dict[str, datetime] = field(default_factory=dict)
    """Peer id → when that node last proved to hold the root."""
    in_s3: set[str] = field(default_factory=set)
    """Addresses of its temporary objects."""


def batches(store: MetadataStore, settings: Settings, now: datetime) -> Iterator[pa.RecordBatch]:
    """All files of all revisions that are on record, by upload, in the order of the playlists; as of one moment.
    Proof ages are counted from `now`."""
    with store.reading() as db:
        for uploads in _slices(db):
            rows: list[Any] = []
            for row in _files(db, uploads):
                rows.append(row)
                if len(rows) == _ROWS_AT_ONCE:
                    yield _batch(rows, uploads, settings, now)
                    rows.clear()
            if rows:
                yield _batch(rows, uploads, settings, now)


def _slices(db: sa.Connection) -> Iterator[dict[str, _About]]:
    table, last = tables.upload, ""
    query = (
        sa.select(table.c.upload_id, table.c.video_id, table.c.revision, table.c.state, table.c.root)
        .where(table.c.state.in_(ON_RECORD), table.c.revision.is_not(None))
        .order_by(table.c.upload_id)
        .limit(_UPLOADS_AT_ONCE)
    )
    while found := db.execute(query.where(table.c.upload_id > last)).all():
        uploads = {row.upload_id: _About(row.video_id, row.revision, row.state, row.root or "") for row in found}
        last = found[-1].upload_id
        _add_proofs(db, uploads)
        _add_objects(db, uploads)
        _add_publication(db, uploads)
        yield uploads


def _within(column: sa.Column[Any], uploads: dict[str, _About]) -> sa.ColumnElement[bool]:
    """By range, which the index answers in one go; a few others may be among them."""
    return column.between(next(iter(uploads)), max(uploads))


def _add_proofs(db: sa.Connection, uploads: dict[str, _About]) -> None:
    """Those of the publication, those on which the S3 copies were removed, and those of later rounds."""
    table = tables.receipt
    query = sa.select(table.c.upload_id, table.c.content, table.c.time).where(
        _within(table.c.upload_id, uploads), table.c.kind.in_(("proof", "deletion"))
    )
    for upload_id, content, time in db.execute(query):
        if (about := uploads.get(upload_id)) is None:
            continue
        for proof in content.get("evidence", (content,)):
            if proof.get("root") == about.root and (peer := proof.get("peer_id")):
                about.proofs[peer] = max(time, about.proofs.get(peer, time))
    by_root: dict[str, list[_About]] = {}
    for about in uploads.values():
        by_root.setdefault(about.root, []).append(about)
    again = tables.replica_proof
    for root, peer, time in db.execute(sa.select(again).where(again.c.root.in_(by_root))):
        for about in by_root[root]:
            about.proofs[peer] = max(time, about.proofs.get(peer, time))


def _add_objects(db: sa.Connection, uploads: dict[str, _About]) -> None:
    table = tables.temp_storage
    query = sa.select(table.c.upload_id, table.c.cid).where(_within(table.c.upload_id, uploads))
    for upload_id, address in db.execute(query):
        if upload_id in uploads:
            uploads[upload_id].in_s3.add(address)


def _add_publication(db: sa.Connection, uploads: dict[str, _About]) -> None:
    table = tables.state_change
    query = sa.select(table.c.upload_id, table.c.time).where(
        _within(table.c.upload_id, uploads), table.c.state == "published"
    )
    for upload_id, time in db.execute(query):
        if upload_id in uploads:
            uploads[upload_id].published_at = time


def _files(db: sa.Connection, uploads: dict[str, _About]) -> Iterator[Any]:
    table = tables.inventory
    columns = (table.c[name] for name in ("upload_id", "path", "role", "content_type", "size", "cid", "key"))
    query = sa.select(*columns).where(_within(table.c.upload_id, uploads)).order_by(table.c.upload_id, table.c.position)
    for part in db.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}).partitions():
        yield from (row for row in part if row[0] in uploads)


def _batch(rows: Sequence[Any], uploads: dict[str, _About], settings: Settings, now: datetime) -> pa.RecordBatch:
    import pyarrow as pa

    order = {upload_id: n for n, upload_id in enumerate(uploads)}
    abouts = list(uploads.values())
    upload_ids, paths, roles, types, sizes, cids, s3_keys = zip(*rows, strict=True)
    which = pa.array([order[upload_id] for upload_id in upload_ids], pa.int32())
    wanted = schema()

    def shared(name: str, values: Iterable[Any]) -> Any:
        """One value per upload, spread over its files."""
        kind = wanted.field(name).type
        if pa.types.is_dictionary(kind):
            return pa.array(values, pa.string()).dictionary_encode().take(which)
        return pa.array(values, kind).take(which)

    proven = [max(about.proofs.values(), default=None) for about in abouts]
    columns = {
        "video_id": shared("video_id", (about.video_id for about in abouts)),
        "revision": shared("revision", (about.revision for about in abouts)),
        "state": shared("state", (about.state for about in abouts)),
        "path": pa.array(paths, pa.string()),
        "role": pa.array(roles, pa.string()).dictionary_encode(),
        "content_type": pa.array(types, pa.string()).dictionary_encode(),
        "size": pa.array(sizes, pa.int64()),
        "cid": pa.array(cids, pa.string()),
        "root": shared("root", (about.root for about in abouts)),
        "s3": pa.array(_addresses(upload_ids, s3_keys, uploads, settings.s3_media), pa.string()),
        "nodes": shared("nodes", (len(about.proofs) for about in abouts)),
        "proven_at": shared("proven_at", proven),
        "proof_age_days": shared("proof_age_days", (at and (now - at).total_seconds() / 86_400 for at in proven)),
        "published_at": shared("published_at", (about.published_at for about in abouts)),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=wanted)


def _addresses(
    upload_ids: Sequence[str], s3_keys: Sequence[str | None], uploads: dict[str, _About], bucket: str
) -> Iterator[str | None]:
    """Where each file's bytes still lie in S3, if they do."""
    for upload_id, key in zip(upload_ids, s3_keys, strict=True):
        in_s3 = uploads[upload_id].in_s3
        address = keys.s3_uri(bucket, key) if key and in_s3 else None
        yield address if address in in_s3 else None


# ---- where the table goes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    files: int
    bytes: int
    """Of the files it lists."""


def write_parquet(found: Iterable[pa.RecordBatch], path: Path) -> Written:
    import pyarrow.parquet as pq

    with whole_file(path) as file, pq.ParquetWriter(file, schema(), compression="zstd") as writer:
        return _written(found, writer.write_table)


def write_csv(found: Iterable[pa.RecordBatch], path: Path) -> Written:
    """A path that a spreadsheet would take for a formula gets an apostrophe in front."""
    import pyarrow as pa
    from pyarrow import csv

    plain = pa.schema([(item.name, _plain(item.type)) for item in schema()])
    with whole_file(path) as file, csv.CSVWriter(file, plain) as writer:
        return _written(found, lambda table: writer.write_table(_harmless(table).cast(plain)))


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if pa.types.is_dictionary(kind) else kind


def _harmless(table: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    paths = table.column("path")
    risky = pc.match_substring_regex(paths, r"^[=+\-@\t\r]")
    safe = pc.if_else(risky, pc.binary_join_element_wise("'", paths, ""), paths)
    return table.set_column(table.schema.get_field_index("path"), "path", safe)


def _written(found: Iterable[pa.RecordBatch], write: Callable[[pa.Table], object]) -> Written:
    import pyarrow as pa
    import pyarrow.compute as pc

    files = size = 0
    for some in _gathered(found):
        write(pa.Table.from_batches(some).unify_dictionaries())
        files += sum(batch.num_rows for batch in some)
        size += sum(pc.sum(batch.column("size")).as_py() or 0 for batch in some)
    return Written(files, size)


def _gathered(found: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """A file of many small pieces is large and slow to read."""
    some: list[pa.RecordBatch] = []
    for batch in found:
        some.append(batch)
        if sum(one.num_rows for one in some) >= _ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def export(store: MetadataStore, objects: ObjectStore, settings: Settings, now: datetime) -> tuple[str, Written]:
    """The table as it is now lies in the media bucket; answers its key, which is that of the day."""
    key = keys.inventory_export(clock.text(now)[:10])
    with tempfile.TemporaryDirectory(prefix="hls-inventory-") as folder:
        path = Path(folder) / "inventory.parquet"
        written = write_parquet(batches(store, settings, now), path)
        with path.open("rb") as file:
            objects.upload(settings.s3_media, key, iter(lambda: file.read(CHUNK), b""), PARQUET)
    return key, written
