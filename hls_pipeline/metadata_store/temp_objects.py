"""The rows of `temp_storage`: which S3 objects there are, which are due for removal, and which are gone.

What is to become of an object is decided in `hls_pipeline/temp_storage.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.metadata_store.rows import PATH, Lease, TempObject
from hls_pipeline.uploads import State, Upload


class TempObjects(Database):
    def expect_objects(self, lease: Lease, objects: Sequence[TempObject]) -> None:
        """More objects are about to be put."""
        with self._write(lease) as db:
            rows.add_objects(db, lease.upload_id, objects)

    def objects_put(self, lease: Lease, objects: Iterable[TempObject]) -> None:
        """ETag and version id of objects that are now there."""
        own = sa.update(tables.temp_storage).where(tables.temp_storage.c.cid == sa.bindparam("put"))
        known = [{"put": item.cid, "etag": item.etag, "version_id": item.version_id} for item in objects]
        with self._write(lease) as db:
            if known:
                db.execute(own, known)

    def due(self, now: datetime, limit: int = 50) -> tuple[Upload, ...]:
        """Uploads with S3 objects that are due for removal, held by nobody. One whose path was cut off after `finalize`
        is first walked to its end."""
        lease, upload = tables.video_lease, tables.upload
        cut_off = (upload.c.state == State.PUBLISHED) & sa.exists().where(
            lease.c.video_id == upload.c.video_id,
            lease.c.upload_id == upload.c.upload_id,
            lease.c.holder.startswith(PATH),
        )
        is_due = sa.select(tables.temp_storage.c.upload_id).where(tables.temp_storage.c.due_at <= now)
        query = (
            rows.uploads()
            .where(upload.c.upload_id.in_(is_due), rows.is_idle(now), ~cut_off)
            .order_by(upload.c.updated_at)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(rows.upload(row) for row in db.execute(query))

    def temp_objects(self, upload_id: str) -> tuple[TempObject, ...]:
        table = tables.temp_storage
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.cid)
        with self._read() as db:
            return tuple(rows.build(TempObject, row) for row in db.execute(query))

    def objects_removed(self, lease: Lease, cids: Sequence[str], receipt: Mapping[str, Any], now: datetime) -> None:
        """The objects are gone: their rows go too, and the receipt stays. A published upload of which nothing is due
        any more is cleared: without a due row nobody would look at it again."""
        with self._write(lease) as db:
            rows.add_receipts(db, lease, "deletion", [receipt], now)
            rows.forget_objects(db, cids)
            _clear_if_done(db, lease, now)

    def objects_stay(self, lease: Lease, cids: Iterable[str], until: datetime | None, now: datetime) -> None:
        """The objects are not to be removed before `until`; None: not until somebody says so. As above, the upload may
        be cleared with that."""
        own = sa.update(tables.temp_storage).where(tables.temp_storage.c.cid == sa.bindparam("stays"))
        known = [{"stays": cid} for cid in cids]
        with self._write(lease) as db:
            if known:
                db.execute(own.values(due_at=until), known)
            _clear_if_done(db, lease, now)

    def objects_due(self, lease: Lease, now: datetime) -> None:
        """Everything the upload has in S3 is due for removal."""
        with self._write(lease) as db:
            rows.mark_due(db, lease.upload_id, now)


def _clear_if_done(db: sa.Connection, lease: Lease, now: datetime) -> None:
    due = sa.select(tables.temp_storage.c.cid).where(
        tables.temp_storage.c.upload_id == lease.upload_id, tables.temp_storage.c.due_at <= now
    )
    if rows.get_upload(db, lease.upload_id).state is State.PUBLISHED and not db.execute(due.limit(1)).first():
        rows.move(db, lease.upload_id, State.CLEARED, now, lease.run_id, error=None)
