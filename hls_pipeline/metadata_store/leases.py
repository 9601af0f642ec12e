"""Who works on what, what should go on, and what becomes of a try that did not succeed.

A lease's fence is checked by every transaction that takes one, in `database.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.errors import Conflict, LeaseLost
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.metadata_store.rows import PATH, Lease
from hls_pipeline.uploads import IN_WORK, State, Upload

_LAUNCH_SECONDS = 30
"""How long a requested run may take to show up before it is requested again."""


class Leases(Database):
    def request_run(self, upload_id: str, now: datetime) -> int | None:
        """Counts a run that is about to be asked for; the number makes its run key new. Until it shows up, or
        `_LAUNCH_SECONDS` are over, the upload is not offered again. None: it is asked for or worked on already."""
        upload = tables.upload
        with self._write() as db:
            counted = db.execute(
                sa.update(upload)
                .where(upload.c.upload_id == upload_id, rows.is_idle(now))
                .values(launches=upload.c.launches + 1, not_before=now + timedelta(seconds=_LAUNCH_SECONDS))
            )
            return rows.get_upload(db, upload_id).launches if counted.rowcount else None

    def ready_to_run(self, now: datetime, limit: int = 50) -> tuple[Upload, ...]:
        """Uploads whose path should go on now: in work or cut off, held by nobody, and not told to wait."""
        lease = tables.video_lease
        in_work = sa.select(tables.upload.c.upload_id).where(tables.upload.c.state.in_(IN_WORK))
        cut_off = sa.select(lease.c.upload_id).where(
            lease.c.holder.is_not(None), lease.c.holder.startswith(PATH), lease.c.expires_at <= now
        )
        query = (
            rows.uploads()
            .where(
                tables.upload.c.upload_id.in_(in_work.union_all(cut_off)),  # each by its own index
                tables.upload.c.state.in_({*IN_WORK, State.PUBLISHED}),
                rows.is_idle(now),
            )
            .order_by(tables.upload.c.created_at)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(rows.upload(row) for row in db.execute(query))

    def settled(self, video_ids: Sequence[str], before: datetime) -> tuple[str, ...]:
        """Those of the videos of which everything has ended, and on which nobody worked after `before`. A revision that
        was made from IPFS has no S3 copies, and some stay on purpose: it is published, and that was all."""
        upload, lease, temp = tables.upload, tables.video_lease, tables.temp_storage
        worked_on = sa.exists().where(lease.c.video_id == upload.c.video_id, lease.c.expires_at > before)
        to_be_cleared = sa.exists().where(temp.c.upload_id == upload.c.upload_id, temp.c.due_at.is_not(None))
        unfinished = upload.c.state.in_({*IN_WORK, State.FAILED}) | to_be_cleared
        query = (
            sa.select(upload.c.video_id)
            .where(upload.c.video_id.in_(video_ids), ~worked_on)
            .group_by(upload.c.video_id)
            .having(
                sa.func.max(upload.c.updated_at) <= before,
                sa.func.sum(sa.case((unfinished, 1), else_=0)) == 0,
            )
        )
        with self._read() as db:
            return tuple(db.execute(query).scalars())

    def take_lease(self, upload: Upload, holder: str, now: datetime, seconds: float) -> Lease:
        """The video is ours, or LeaseLost names who has it. The same holder gets the same fence again.

        A try counts when it begins, so that one that dies without a word has counted too. The run that was requested
        has shown itself: its upload is offered again as soon as the lease is over.
        """
        table, expires = tables.video_lease, now + timedelta(seconds=seconds)
        with self._write() as db:
            rows.lock_video(db, upload.video_id)  # there may be no lease yet that could be locked
            row = db.execute(sa.select(table).filter_by(video_id=upload.video_id).with_for_update()).first()
            if row and row.holder not in (None, holder) and row.expires_at > now:
                raise LeaseLost(f"video {upload.video_id}: {row.holder} is at work on it; try again when it has ended")
            goes_on = row is not None and row.holder == holder and row.upload_id == upload.upload_id
            fence = (row.fence if row else 0) + (not goes_on)
            values = {"upload_id": upload.upload_id, "holder": holder, "fence": fence, "expires_at": expires}
            if row:
                db.execute(sa.update(table).filter_by(video_id=upload.video_id).values(**values))
            else:
                db.execute(sa.insert(table).values(video_id=upload.video_id, **values))
            if not goes_on:
                attempts = tables.upload.c.attempts + 1
                rows.set_upload(db, upload.upload_id, attempts=attempts, not_before=None)
        return Lease(upload.video_id, upload.upload_id, holder, fence)

    def is_held(self, video_id: str, now: datetime) -> bool:
        """Whether somebody is at work on the video."""
        with self._read() as db:
            return bool(db.execute(sa.select(rows.is_held(sa.literal(video_id), now))).scalar())

    def renew(self, lease: Lease, now: datetime, seconds: float) -> None:
        """The video is ours for so many more seconds. Raises LeaseLost."""
        with self._write(lease) as db:
            db.execute(
                sa.update(tables.video_lease)
                .filter_by(video_id=lease.video_id)
                .values(expires_at=now + timedelta(seconds=seconds))
            )

    def release(self, lease: Lease) -> None:
        """Gives the video free. Nothing happens if another run has it by now."""
        with self._write() as db:
            db.execute(
                sa.update(tables.video_lease)
                .filter_by(video_id=lease.video_id, fence=lease.fence, holder=lease.holder)
                .values(holder=None)
            )

    def cut_off(self, lease: Lease) -> None:
        """As if the run had died: the path goes on from here, and others may have the video until then."""
        with self._write(lease) as db:
            db.execute(sa.update(tables.video_lease).filter_by(video_id=lease.video_id).values(expires_at=clock.EPOCH))

    def release_all(self) -> int:
        """Ends every lease and gives its try back; for a stack on one machine that starts after it was killed."""
        lease, upload = tables.video_lease, tables.upload
        held = sa.select(lease.c.upload_id).where(lease.c.holder.is_not(None))
        complete = upload.c.report.is_(None) | upload.c.revision.is_not(None)
        with self._write() as db:
            db.execute(
                sa.update(upload)
                .where(upload.c.upload_id.in_(held), upload.c.attempts > 0)
                .values(attempts=upload.c.attempts - 1)
            )
            db.execute(sa.update(upload).where(upload.c.state.in_(IN_WORK), complete).values(not_before=None))
            return db.execute(
                sa.update(lease).where(lease.c.holder.is_not(None)).values(expires_at=clock.EPOCH)
            ).rowcount

    # ---- outcomes of a try ------------------------------------------------------------------------------------

    def postpone(self, lease: Lease, error: str, until: datetime, *, uses_attempt: bool) -> None:
        """The try failed; the sensor starts the upload again at `until`."""
        with self._write(lease) as db:
            attempts = tables.upload.c.attempts - int(not uses_attempt)
            rows.set_upload(db, lease.upload_id, error=error, not_before=until, attempts=attempts)

    def wait_for_files(self, lease: Lease, report: Mapping[str, Any], until: datetime) -> None:
        """A folder that nobody marked ready misses files: it may be completed until `until`."""
        with self._write(lease) as db:
            rows.set_upload(db, lease.upload_id, report=dict(report), not_before=until, attempts=0)

    def fail(self, lease: Lease, error: str, now: datetime) -> None:
        """Tries are used up. `resume` takes it up again where it stopped."""
        with self._write(lease) as db:
            state = rows.get_upload(db, lease.upload_id).state
            rows.move(db, lease.upload_id, State.FAILED, now, lease.run_id, error=error, failed_in=state)

    def resume(self, upload_id: str, now: datetime) -> Upload:
        """A failed upload starts again where it failed, with all its attempts. Raises NotFound or Conflict."""
        with self._write() as db:
            upload = rows.get_upload(db, upload_id)
            if upload.state is not State.FAILED or upload.failed_in is None:
                raise Conflict(f"upload {upload_id} is {upload.state}; only a failed upload can be retried")
            rows.move(db, upload_id, upload.failed_in, now, None, attempts=0, failed_in=None)
            return rows.get_upload(db, upload_id)

    def reject(self, lease: Lease, report: Mapping[str, Any], now: datetime) -> None:
        with self._write(lease) as db:
            rows.move(db, lease.upload_id, State.REJECTED, now, lease.run_id, report=dict(report))

    def supersede(self, lease: Lease, reason: str, now: datetime) -> None:
        """Something newer took this upload's place; what it holds in S3 is due for removal."""
        with self._write(lease) as db:
            rows.supersede(db, lease.upload_id, reason, now, lease.run_id)

    def held_by(self, video_id: str, holder: str) -> Upload | None:
        """The upload for which `holder` has the video now."""
        lease = tables.video_lease
        query = rows.uploads().join(lease, lease.c.upload_id == tables.upload.c.upload_id)
        with self._read() as db:
            found = db.execute(query.where(lease.c.video_id == video_id, lease.c.holder == holder)).first()
        return rows.upload(found) if found else None
