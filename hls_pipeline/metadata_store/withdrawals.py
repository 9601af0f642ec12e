"""What is taken back: videos by whoever published them, and claims on roots that nobody needs any more.

Carrying it out is the business of `hls_pipeline/withdrawal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import claims, clock, keys, tables, versions
from hls_pipeline.errors import Conflict
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.metadata_store.rows import Lease, TempObject
from hls_pipeline.uploads import MOVES, State, Upload
from hls_pipeline.versions import Version


class Withdrawals(Database):
    def withdraw(
        self, video_id: str, document: Callable[[int], Mapping[str, Any]], media: str, **about: Any
    ) -> tuple[Version, tuple[Upload, ...]]:
        """One transaction: `document(revision)` is the current version, no arrival of the video goes any further, and
        what they have in the bucket `media` or in the inbox is due for removal. Whoever holds the video loses it.
        Answers that version and the uploads of which something is left; said again, only what is left changes.

        Raises NotFound for an unknown video, Conflict when none of its packages was ever accepted.
        """
        with self._write() as db:
            rows.lock_video(db, video_id)
            current = versions.get(db, video_id, rows.get_video(db, video_id).current_version)
            arrivals = rows.uploads().where(tables.upload.c.video_id == video_id).order_by(tables.upload.c.created_at)
            found = [rows.upload(row) for row in db.execute(arrivals)]
            going = [upload for upload in found if State.WITHDRAWN in MOVES[upload.state]]
            if going:
                revision = current.revision if current else 0
                current = versions.add(db, video_id, revision, document(revision), shown=True, **about)
                rows.set_video(db, video_id, current_revision=None, mirrored_version=current.n)
                _take_away_lease(db, video_id)
                for upload in going:
                    _add_left_over(db, upload, media)
                    rows.mark_due(db, upload.upload_id, current.time)
                    rows.move(db, upload.upload_id, State.WITHDRAWN, current.time, about["run_id"], error=None)
            elif current is None or all(upload.state is not State.WITHDRAWN for upload in found):
                raise Conflict(f"video {video_id}: no package of it was ever accepted, so there is nothing to withdraw")
            left = sa.select(tables.temp_storage.c.upload_id).where(tables.temp_storage.c.due_at.is_not(None))
            unfinished = arrivals.where(tables.upload.c.state == State.WITHDRAWN, tables.upload.c.upload_id.in_(left))
            return current, tuple(rows.upload(row) for row in db.execute(unfinished))

    def sweep_again(self, upload_id: str, media: str, now: datetime) -> None:
        """A run lost the video in the middle of something. If that was because it was withdrawn, what the run did
        since then is removed too."""
        with self._write() as db:
            upload = rows.get_upload(db, upload_id)
            if upload.state is not State.WITHDRAWN:
                return
            _add_left_over(db, upload, media)
            rows.mark_due(db, upload_id, now)
            for root in filter(None, (upload.root, upload.record)):
                claims.owe(db, root, upload_id)

    def claims(self, upload_id: str) -> tuple[str, ...]:
        """The roots that an upload still claims."""
        with self._read() as db:
            return claims.of(db, upload_id)

    def release_claim(self, lease: Lease, root: str) -> bool:
        """Whether `root` is to be unpinned, since nobody else needs it; say then `unpinned` or `still_claimed`."""
        with self._write(lease) as db:
            return claims.release(db, root, lease.upload_id, clock.now())

    def still_claimed(self, lease: Lease, root: str) -> None:
        """It could not be unpinned everywhere."""
        with self._write(lease) as db:
            claims.keep(db, root, lease.upload_id)

    def unpinned(self, lease: Lease, root: str) -> None:
        with self._write(lease) as db:
            claims.remove(db, root, lease.upload_id)


def _add_left_over(db: sa.Connection, upload: Upload, media: str) -> None:
    """Rows for what a withdrawn upload may have in S3 without one: its drop in the inbox, and the folder of its
    revision, which stands for everything in it and leaves last."""
    left = []
    if State.RECEIVED in (upload.state, upload.failed_in):
        bucket = upload.drop.bucket
        left = [TempObject(keys.s3_uri(bucket, item.key), item.size, None, item.etag) for item in upload.drop.objects]
        rows.forget_objects(db, [item.cid for item in left])  # of an older drop into the same folder
    if upload.revision is not None:
        left.append(TempObject(keys.s3_uri(media, keys.revision(upload.video_id, upload.revision)), 0, None))
    rows.add_objects(db, upload.upload_id, left)


def _take_away_lease(db: sa.Connection, video_id: str) -> None:
    lease = tables.video_lease
    db.execute(sa.update(lease).filter_by(video_id=video_id).values(fence=lease.c.fence + 1, holder=None))
