"""An imported video on record: one transaction makes all of it, so that there is never half of one.

Functions over the metadata store; what an archive is and why it may be believed is in `archive`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from hls_pipeline import claims, clock, keys, tables, versions
from hls_pipeline import receipts as chained
from hls_pipeline.errors import Conflict
from hls_pipeline.metadata_store import InventoryFile, MetadataStore, rows
from hls_pipeline.uploads import State, Upload


def known(store: MetadataStore, upload: Upload) -> Upload | None:
    """The same archive's earlier import, if there was one. Raises Conflict when the video id stands for something
    else here, or was withdrawn."""
    uploads = store.uploads_of(upload.video_id)
    same = next((item for item in uploads if item.upload_id == upload.upload_id), None)
    if same and same.state is State.WITHDRAWN:
        raise Conflict(f"video {upload.video_id}: was withdrawn here; it does not come back by itself")
    if uploads and same is None:
        raise Conflict(f"video {upload.video_id}: there is one of this name here already; it stays as it is")
    return same


def add(
    store: MetadataStore,
    upload: Upload,
    files: Sequence[InventoryFile],
    *,
    columns: Mapping[str, Any],
    document: Mapping[str, Any],
    reason: str,
    receipts: Iterable[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> None:
    """Afterwards the video is published with `document` as its only version. Raises Outage while one of its roots is
    being unpinned, Conflict when somebody else was quicker to use the id."""
    now = clock.now()
    try:
        with store.writing() as db:
            db.execute(sa.insert(tables.video).values(video_id=upload.video_id, created_at=now, versions=0))
            own = {**rows.values(upload), "drop": upload.drop.to_json()}
            db.execute(sa.insert(tables.upload).values(**{**own, **columns}))
            for state in (State.RECEIVED, State.PUBLISHED):
                rows.note_state(db, upload.upload_id, state, now, None)
            rows.add_inventory(db, upload.upload_id, [_as_on_record(upload, file) for file in files])
            for root in {upload.root, upload.record} - {None}:
                claims.add(db, str(root), upload.upload_id, now)
            kinds = [("proof", receipt) for receipt in receipts] + [("provenance", provenance)]
            for kind, content in kinds:
                chained.add(db, upload.upload_id, kind, content, run_id=None, now=now)
            versions.add(
                db,
                upload.video_id,
                upload.revision or 0,
                document,
                actor="import",
                reason=reason,
                run_id=None,
                now=now,
                shown=True,
            )
            rows.set_video(db, upload.video_id, current_revision=upload.revision)
    except sa.exc.IntegrityError as error:
        raise Conflict(f"video {upload.video_id}: somebody used this id at the same moment; try again") from error


def _as_on_record(upload: Upload, file: InventoryFile) -> InventoryFile:
    """Nothing of it lies in S3, but it is known where it does once it is brought back."""
    key = keys.stored(upload.video_id, upload.revision or 0, file.cid, file.path, playlist=file.is_playlist)
    return replace(file, key=key, source_key=None)
