"""What arrived: uploads and videos as they are listed, and what is known of how long they take.

Add a method here that takes a drop in or reads uploads; who works on them is in `leases.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.uploads import Drop, State, Upload


@dataclass(frozen=True)
class Passage:
    """How long an upload took from stage to stage, in seconds."""

    size: int  # bytes
    to_pinned: float
    to_published: float


class Arrivals(Database):
    def receive(self, drop: Drop, now: datetime) -> Upload:
        """A frozen drop is an upload. Said twice, it stays one; an incomplete one of the video gives way."""
        with self._write() as db:
            rows.insert_new(db, tables.video, video_id=drop.video_id, created_at=now, versions=0)
            rows.lock_video(db, drop.video_id)
            if found := db.execute(rows.uploads().where(tables.upload.c.upload_id == drop.upload_id)).first():
                return rows.upload(found)
            given_way = sa.select(tables.upload.c.upload_id).where(
                tables.upload.c.video_id == drop.video_id,
                tables.upload.c.state == State.RECEIVED,
                tables.upload.c.revision.is_(None),
                tables.upload.c.report.is_not(None),
            )
            for upload_id in db.execute(given_way).scalars().all():
                rows.move(db, upload_id, State.SUPERSEDED, now, None, error="the creator went on writing")
            db.execute(
                sa.insert(tables.upload).values(
                    upload_id=drop.upload_id,
                    video_id=drop.video_id,
                    state=State.RECEIVED,
                    drop=drop.to_json(),
                    created_at=now,
                    updated_at=now,
                    launches=0,
                    attempts=0,
                )
            )
            rows.note_state(db, drop.upload_id, State.RECEIVED, now, None)
            return rows.get_upload(db, drop.upload_id)

    def upload(self, upload_id: str) -> Upload:
        """Raises NotFound."""
        with self._read() as db:
            return rows.get_upload(db, upload_id)

    def latest_upload(self, video_id: str) -> Upload | None:
        """The newest arrival of a video, whatever became of it."""
        query = rows.uploads().where(tables.upload.c.video_id == video_id)
        with self._read() as db:
            found = db.execute(
                query.order_by(tables.upload.c.created_at.desc(), tables.upload.c.upload_id.desc()).limit(1)
            ).first()
        return rows.upload(found) if found else None

    def current_upload(self, video_id: str) -> Upload | None:
        """The upload behind the current revision."""
        query = rows.uploads().join(
            tables.video,
            (tables.video.c.video_id == tables.upload.c.video_id)
            & (tables.video.c.current_revision == tables.upload.c.revision),
        )
        with self._read() as db:
            found = db.execute(query.where(tables.video.c.video_id == video_id)).first()
        return rows.upload(found) if found else None

    def ready_videos(self, not_of_profile: str | None = None) -> tuple[str, ...]:
        """The ids of videos that have a published revision; only those whose current one is of another profile than
        `not_of_profile`, where that is given."""
        video, upload = tables.video, tables.upload
        query = sa.select(video.c.video_id).where(video.c.current_revision.is_not(None)).order_by(video.c.video_id)
        if not_of_profile:
            current = (upload.c.video_id == video.c.video_id) & (upload.c.revision == video.c.current_revision)
            query = query.join(upload, current).where(upload.c.profile != not_of_profile)
        with self._read() as db:
            return tuple(db.execute(query).scalars())

    def uploads_of(self, video_id: str) -> tuple[Upload, ...]:
        """All arrivals of a video, oldest first."""
        query = rows.uploads().where(tables.upload.c.video_id == video_id).order_by(tables.upload.c.created_at)
        with self._read() as db:
            return tuple(rows.upload(row) for row in db.execute(query))

    def videos(self, limit: int = 100, after: str = "") -> tuple[Upload, ...]:
        """The newest upload of each video, by video id, `limit` at a time; `after` is the last id seen."""
        newer = tables.upload.alias("newer")
        query = (
            rows.uploads()
            .where(
                tables.upload.c.video_id > after,
                ~sa.exists().where(
                    newer.c.video_id > after,  # PostgreSQL merges both from their beginning, and does not conclude this
                    newer.c.video_id == tables.upload.c.video_id,
                    sa.tuple_(newer.c.created_at, newer.c.upload_id)
                    > sa.tuple_(tables.upload.c.created_at, tables.upload.c.upload_id),
                ),
            )
            .order_by(tables.upload.c.video_id)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(rows.upload(row) for row in db.execute(query))

    def newest_videos(self, limit: int = 100, after: str = "") -> tuple[Upload, ...]:
        """The newest upload of each video, the latest arrival first; `after` is the id of the last upload seen."""
        upload, newer = tables.upload, tables.upload.alias("newer")
        when = sa.tuple_(upload.c.created_at, upload.c.upload_id)
        query = rows.uploads().where(
            ~sa.exists().where(
                newer.c.video_id == upload.c.video_id, sa.tuple_(newer.c.created_at, newer.c.upload_id) > when
            )
        )
        if after:
            last = tables.upload.alias("last")
            query = query.where(
                when < sa.select(last.c.created_at, last.c.upload_id).where(last.c.upload_id == after).scalar_subquery()
            )
        with self._read() as db:
            ordered = query.order_by(upload.c.created_at.desc(), upload.c.upload_id.desc()).limit(limit)
            return tuple(rows.upload(row) for row in db.execute(ordered))

    def history(self, upload_id: str) -> tuple[tuple[State, datetime, str | None], ...]:
        """(state, since, run id) of an upload, in order."""
        changes = tables.state_change
        query = sa.select(changes).where(changes.c.upload_id == upload_id).order_by(changes.c.id)
        with self._read() as db:
            return tuple((State(row.state), row.time, row.run_id) for row in db.execute(query))

    def recent_publications(self, limit: int) -> tuple[Passage, ...]:
        """The newest published uploads that went through without a person's help, newest first."""
        staged, pinned, published, failed = (tables.state_change.alias() for _ in range(4))
        stuck = sa.exists().where(failed.c.upload_id == published.c.upload_id, failed.c.state == State.FAILED)
        query = (
            sa.select(tables.upload.c.size, staged.c.time, pinned.c.time, published.c.time)
            .join(published, published.c.upload_id == tables.upload.c.upload_id)
            .join(pinned, pinned.c.upload_id == tables.upload.c.upload_id)
            .join(staged, staged.c.upload_id == tables.upload.c.upload_id)
            .where(published.c.state == State.PUBLISHED, pinned.c.state == State.PINNED)
            .where(staged.c.state == State.STAGED, ~stuck)
            .order_by(published.c.id.desc())
            .limit(limit)
        )
        with self._read() as db:
            return tuple(
                Passage(size, (at_pinned - at_staged).total_seconds(), (at_end - at_pinned).total_seconds())
                for size, at_staged, at_pinned, at_end in db.execute(query)
            )

    def bytes_in_work(self, before: Upload) -> int:
        """Bytes of staged uploads that arrived earlier and are not on IPFS yet."""
        query = sa.select(sa.func.sum(tables.upload.c.size)).where(
            tables.upload.c.state == State.STAGED, tables.upload.c.created_at < before.created_at
        )
        with self._read() as db:
            return int(db.execute(query).scalar() or 0)  # PostgreSQL's sum of bigints is a Decimal
