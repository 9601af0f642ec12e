"""The values that rows become, and the small changes that transactions are made of.

Functions over an open transaction, for the other modules here: they neither begin nor end one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from hls_pipeline import clock, keys, receipts, tables
from hls_pipeline.errors import NotFound
from hls_pipeline.uploads import Drop, State, Upload, check_move

PATH = "path:"
"""Start of a lease holder's name that walks the whole path; cut off, it is started again."""


@dataclass(frozen=True)
class Lease:
    """The right to work on one video for one upload, until another fence is handed out."""

    video_id: str
    upload_id: str
    holder: str
    """Kind of work and run id: `path:…`, `hand:…`, `gateway:…`."""
    fence: int

    @property
    def run_id(self) -> str:
        return self.holder.partition(":")[2] or self.holder


@dataclass(frozen=True)
class InventoryFile:
    """One published file: what it is, what IPFS calls it, where its bytes lie in S3."""

    position: int
    path: str
    role: str
    content_type: str
    size: int  # bytes, as published
    cid: str
    dag_size: int  # bytes of its DAG
    dag_blocks: int
    key: str | None  # in the media bucket
    source_key: str | None  # in the inbox

    @property
    def is_playlist(self) -> bool:
        return self.role == "playlist"


@dataclass(frozen=True)
class TempObject:
    """One S3 object that waits to be removed; `cid` is its `s3://` address."""

    cid: str
    size: int
    content_id: str | None
    etag: str | None = None
    version_id: str | None = None
    due_at: datetime | None = None


_Row = TypeVar("_Row", InventoryFile, TempObject)


def uploads() -> sa.Select[Any]:
    return sa.select(tables.upload)


def upload(row: sa.Row[Any]) -> Upload:
    values = {field.name: getattr(row, field.name) for field in fields(Upload) if field.name != "drop"}
    values["state"] = State(values["state"])
    values["failed_in"] = values["failed_in"] and State(values["failed_in"])
    return Upload(**values, drop=Drop.from_json(row.drop))


def build(kind: type[_Row], row: sa.Row[Any]) -> _Row:
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


def values(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item)}


def get_upload(db: sa.Connection, upload_id: str) -> Upload:
    """Raises NotFound."""
    row = db.execute(uploads().where(tables.upload.c.upload_id == upload_id)).first()
    if row is None:
        raise NotFound(f"upload {upload_id}: not known here")
    return upload(row)


def get_video(db: sa.Connection, video_id: str) -> sa.Row[Any]:
    """Raises NotFound."""
    row = db.execute(sa.select(tables.video).filter_by(video_id=video_id)).first()
    if row is None:
        raise NotFound(f"video {video_id}: not known here; `hls-pipeline list` shows what is")
    return row


def is_idle(now: datetime) -> sa.ColumnElement[bool]:
    """Whether nobody holds an upload's video, and the upload was not told to wait."""
    upload = tables.upload
    return ~is_held(upload.c.video_id, now) & (upload.c.not_before.is_(None) | (upload.c.not_before <= now))


def is_held(video_id: sa.ColumnElement[str], now: datetime) -> sa.ColumnElement[bool]:
    """Whether somebody is at work on a video."""
    lease = tables.video_lease
    return sa.exists().where(lease.c.video_id == video_id, lease.c.holder.is_not(None), lease.c.expires_at > now)


def insert_new(db: sa.Connection, table: sa.Table, **values: Any) -> bool:
    """Whether the row is new. One that is there already stays as it is, also when another transaction made it in the
    same moment."""
    return bool(db.execute(_insert(db, table).values(**values).on_conflict_do_nothing()).rowcount)


def insert_or_update(
    db: sa.Connection, table: sa.Table, key: Mapping[str, Any], new: Mapping[str, Any], again: Mapping[str, Any]
) -> None:
    """A row of this primary key with the values `new`; of one that is there already only those in `again` change."""
    statement = _insert(db, table).values(**key, **new)
    db.execute(statement.on_conflict_do_update(index_elements=list(key), set_=dict(again)))


def _insert(db: sa.Connection, table: sa.Table) -> Any:
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[db.dialect.name](table)


def lock_video(db: sa.Connection, video_id: str) -> None:
    db.execute(sa.select(tables.video.c.video_id).filter_by(video_id=video_id).with_for_update())


def set_upload(db: sa.Connection, upload_id: str, **values: Any) -> None:
    values.setdefault("updated_at", clock.now())
    db.execute(sa.update(tables.upload).filter_by(upload_id=upload_id).values(**values))


def set_video(db: sa.Connection, video_id: str, **values: Any) -> None:
    db.execute(sa.update(tables.video).filter_by(video_id=video_id).values(**values))


def move(db: sa.Connection, upload_id: str, state: State, now: datetime, run_id: str | None, **values: Any) -> None:
    row = db.execute(uploads().where(tables.upload.c.upload_id == upload_id).with_for_update()).one()
    check_move(upload_id, State(row.state), state)  # as it is now, whoever moved it since it was read
    values.setdefault("not_before", None)
    set_upload(db, upload_id, state=state, updated_at=now, **values)
    note_state(db, upload_id, state, now, run_id)


def note_state(db: sa.Connection, upload_id: str, state: State, now: datetime, run_id: str | None) -> None:
    values = {"upload_id": upload_id, "state": state, "time": now, "run_id": run_id}
    db.execute(sa.insert(tables.state_change).values(**values))


def next_revision(db: sa.Connection, video_id: str) -> int:
    newest = sa.select(sa.func.max(tables.upload.c.revision)).where(tables.upload.c.video_id == video_id)
    return (db.execute(newest).scalar() or 0) + 1


def add_inventory(db: sa.Connection, upload_id: str, files: Iterable[InventoryFile]) -> None:
    db.execute(sa.insert(tables.inventory), [{"upload_id": upload_id, **values(file)} for file in files])


def add_objects(db: sa.Connection, upload_id: str, objects: Sequence[TempObject]) -> None:
    known = set(db.execute(sa.select(tables.temp_storage.c.cid).filter_by(upload_id=upload_id)).scalars())
    new = {item.cid: {"upload_id": upload_id, **values(item)} for item in objects if item.cid not in known}
    if new:
        db.execute(sa.insert(tables.temp_storage), list(new.values()))


def forget_objects(db: sa.Connection, cids: Sequence[str]) -> None:
    if cids:
        gone = tables.temp_storage.c.cid == sa.bindparam("gone")
        db.execute(sa.delete(tables.temp_storage).where(gone), [{"gone": cid} for cid in cids])


def mark_due(db: sa.Connection, upload_id: str, due_at: datetime) -> None:
    db.execute(sa.update(tables.temp_storage).filter_by(upload_id=upload_id).values(due_at=due_at))


def supersede(db: sa.Connection, upload_id: str, reason: str, now: datetime, run_id: str | None) -> None:
    """What the upload holds in S3 is due for removal, and its pins go with it. A revision made from IPFS has nothing in
    S3: a row for its folder stands for the pins."""
    move(db, upload_id, State.SUPERSEDED, now, run_id, error=reason)
    given_up = get_upload(db, upload_id)
    held = sa.select(tables.temp_storage.c.cid).filter_by(upload_id=upload_id).limit(1)
    if given_up.revision is not None and not db.execute(held).first():
        folder = keys.s3_uri(given_up.drop.bucket, keys.revision(given_up.video_id, given_up.revision))
        add_objects(db, upload_id, [TempObject(folder, 0, None)])
    mark_due(db, upload_id, now)


def add_receipts(
    db: sa.Connection, lease: Lease, kind: str, contents: Iterable[Mapping[str, Any]], now: datetime
) -> None:
    for content in contents:
        receipts.add(db, lease.upload_id, kind, content, run_id=lease.run_id, now=now)
