"""The path's own transactions, from an accepted package to its final document.

Each is what one step of `steps.py` makes true; the S3 objects that are left are in `temp_objects.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import claims, clock, tables, versions
from hls_pipeline.errors import Conflict
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.metadata_store.rows import InventoryFile, Lease, TempObject
from hls_pipeline.uploads import IN_WORK, READY, State, Upload
from hls_pipeline.versions import Version


class Publication(Database):
    def unchanged(self, lease: Lease, now: datetime) -> None:
        """The creator wants what is current: revisions that are not ready yet will not take its place any more."""
        with self._write(lease) as db:
            rows.move(db, lease.upload_id, State.UNCHANGED, now, lease.run_id)
            _supersede(db, lease, rows.next_revision(db, lease.video_id), "what is current was sent again since", now)

    def next_revision(self, video_id: str) -> int:
        with self._read() as db:
            return rows.next_revision(db, video_id)

    def accept(
        self,
        lease: Lease,
        *,
        revision: int,
        facts: Mapping[str, Any],
        files: Sequence[InventoryFile],
        objects: Sequence[TempObject],
        **columns: Any,
    ) -> Upload:
        """The package is accepted as `revision`; every object is on record before it is put."""
        with self._write(lease) as db:
            if rows.next_revision(db, lease.video_id) != revision:
                raise Conflict(f"upload {lease.upload_id}: revision {revision} is taken")
            rows.set_upload(db, lease.upload_id, revision=revision, facts=dict(facts), **columns)
            rows.add_inventory(db, lease.upload_id, files)
            rows.add_objects(db, lease.upload_id, objects)
            return rows.get_upload(db, lease.upload_id)

    def take_back(self, lease: Lease) -> None:
        """An acceptance that could not be carried out: the revision number is free again."""
        with self._write(lease) as db:
            for table in (tables.inventory, tables.temp_storage):
                db.execute(sa.delete(table).where(table.c.upload_id == lease.upload_id))
            rows.set_upload(db, lease.upload_id, revision=None)

    def inventory(self, upload_id: str) -> tuple[InventoryFile, ...]:
        """The published files in the order of the playlists: playlists and media, as the creator's player meets
        them."""
        table = tables.inventory
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.position)
        with self._read() as db:
            return tuple(rows.build(InventoryFile, row) for row in db.execute(query))

    def staged(self, lease: Lease, document: Mapping[str, Any], **about: Any) -> Version:
        """The temporary document is a version, and the current one unless a ready revision is shown."""
        with self._write(lease) as db:
            revision = rows.get_upload(db, lease.upload_id).revision
            assert revision is not None
            shown = rows.get_video(db, lease.video_id).current_revision is None
            version = versions.add(db, lease.video_id, revision, document, shown=shown, **about)
            rows.move(db, lease.upload_id, State.STAGED, version.time, lease.run_id, error=None)
            return version

    def claim(self, lease: Lease, root: str) -> None:
        """This upload needs `root`; said before looking for the pin, so that nobody unpins it meanwhile. Raises Outage
        while somebody does."""
        with self._write(lease) as db:
            claims.add(db, root, lease.upload_id, clock.now())

    def add_receipts(self, lease: Lease, kind: str, contents: Iterable[Mapping[str, Any]], now: datetime) -> None:
        with self._write(lease) as db:
            rows.add_receipts(db, lease, kind, contents, now)

    def receipts(self, upload_id: str, kind: str | None = None) -> tuple[dict[str, Any], ...]:
        """Receipts of an upload, oldest first."""
        table = tables.receipt
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.id)
        if kind:
            query = query.where(table.c.kind == kind)
        with self._read() as db:
            return tuple({**row.content, "kind": row.kind, "time": clock.text(row.time)} for row in db.execute(query))

    def pinned(self, lease: Lease, receipts: Iterable[Mapping[str, Any]], now: datetime) -> None:
        with self._write(lease) as db:
            rows.add_receipts(db, lease, "proof", receipts, now)
            if rows.get_upload(db, lease.upload_id).state is State.STAGED:
                rows.move(db, lease.upload_id, State.PINNED, now, lease.run_id, error=None)

    def record_published(
        self, lease: Lease, record: str, manifest: str, receipts: Iterable[Mapping[str, Any]], now: datetime
    ) -> None:
        """The record directory is proven; `manifest` is the `ipfs://` root playlist in it."""
        with self._write(lease) as db:
            rows.set_upload(db, lease.upload_id, record=record, manifest=manifest)
            rows.add_receipts(db, lease, "proof", receipts, now)

    def finalize(self, lease: Lease, document: Mapping[str, Any], due_at: datetime, **about: Any) -> Version:
        """One transaction: the final document is a version, the upload is published, its S3 objects are due at
        `due_at`; it is current unless a higher revision is. Revisions it overtook are superseded. Said again, nothing
        changes."""
        with self._write(lease) as db:
            upload = rows.get_upload(db, lease.upload_id)
            assert upload.revision is not None
            if upload.state in READY:
                done = versions.newest_of_revision(db, lease.video_id, upload.revision)
                assert done is not None
                return done
            shown = upload.revision >= (rows.get_video(db, lease.video_id).current_revision or 0)
            version = versions.add(db, lease.video_id, upload.revision, document, shown=shown, **about)
            rows.move(db, lease.upload_id, State.PUBLISHED, version.time, lease.run_id, error=None, attempts=0)
            if shown:
                rows.set_video(db, lease.video_id, current_revision=upload.revision)
            rows.mark_due(db, lease.upload_id, due_at)
            _supersede(db, lease, upload.revision, "a newer revision is ready", version.time)
            return version

    def revise(self, lease: Lease, document: Mapping[str, Any], **about: Any) -> Version:
        """A published revision has another document from now on; the earlier ones stay readable."""
        with self._write(lease) as db:
            upload = rows.get_upload(db, lease.upload_id)
            if upload.state not in READY or upload.revision is None:
                raise Conflict(f"upload {lease.upload_id} is {upload.state}; only what is published can be revised")
            shown = upload.revision == rows.get_video(db, lease.video_id).current_revision
            return versions.add(db, lease.video_id, upload.revision, document, shown=shown, **about)

    def newest_ready_revision(self, video_id: str) -> int:
        """0 when no revision was ever ready."""
        with self._read() as db:
            return rows.get_video(db, video_id).current_revision or 0


def _supersede(db: sa.Connection, lease: Lease, below: int, reason: str, now: datetime) -> None:
    """Lower revisions of the video that are still on their way, or failed on it, are not wanted any more."""
    query = sa.select(tables.upload.c.upload_id).where(
        tables.upload.c.video_id == lease.video_id,
        tables.upload.c.revision < below,
        tables.upload.c.state.in_({*IN_WORK, State.FAILED}),
    )
    for upload_id in db.execute(query).scalars().all():
        rows.supersede(db, upload_id, reason, now, lease.run_id)
