"""What the leases in the metadata store say of a run: whether its worker lives, and that its video is free again.

A run holds the lease of its video from its first step to its last and renews it while it works (`work.py`), so the
lease tells a worker that died from one that only lost its connection to the broker. A run that is about no video, such
as a re-pin, is shown to be at work by its worker.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.metadata_store import PATH, MetadataStore

_lease, _upload, _shown = tables.video_lease, tables.upload, tables.checkpoint


def at_work(store: MetadataStore, run_id: str, now: datetime) -> bool:
    """Whether the run's worker has shown itself within the lease's time. Raises Outage."""
    held = sa.select(_lease.c.video_id).where(_holder_is(run_id), _lease.c.expires_at > now)
    shown = sa.select(_shown.c.name).where(_shown.c.name == _name(run_id), _shown.c.time > now)
    with store.reading() as db:
        return any(db.execute(query).first() is not None for query in (held, shown))


def show(store: MetadataStore, run_id: str, until: datetime) -> None:
    """A run without a video is at work, and counts as such until then. Raises Outage."""
    with store.writing() as db:
        if not db.execute(sa.update(_shown).filter_by(name=_name(run_id)).values(time=until)).rowcount:
            db.execute(sa.insert(_shown).values(name=_name(run_id), time=until, content={}))


def hide(store: MetadataStore, run_id: str) -> None:
    """The run has ended. Raises Outage."""
    with store.writing() as db:
        db.execute(sa.delete(_shown).filter_by(name=_name(run_id)))


def lapsed(store: MetadataStore, run_id: str, now: datetime) -> bool:
    """Whether the run's worker stopped showing itself in the middle of its work. Raises Outage."""
    query = sa.select(_lease.c.video_id).where(_holder_is(run_id), _lease.c.expires_at <= now)
    with store.reading() as db:
        return db.execute(query).first() is not None


def wait(store: MetadataStore, upload_ids: Collection[str], until: datetime) -> None:
    """The uploads' runs wait for a worker; nobody need look at them before `until`. Raises Outage."""
    if upload_ids:
        with store.writing() as db:
            db.execute(sa.update(_upload).where(_upload.c.upload_id.in_(upload_ids)).values(not_before=until))


def hand_back(store: MetadataStore, run_id: str) -> None:
    """The run stopped of its own accord in the middle: its video is free, its try does not count. Raises Outage."""
    with store.writing() as db:
        held = db.execute(sa.select(_lease.c.video_id, _lease.c.upload_id).where(_holder_is(run_id))).first()
        if held is None:
            return
        db.execute(sa.select(tables.video.c.video_id).filter_by(video_id=held.video_id).with_for_update())
        freed = db.execute(
            sa.update(_lease)
            .where(_lease.c.video_id == held.video_id, _holder_is(run_id))
            .values(expires_at=clock.EPOCH)
        )
        if freed.rowcount:
            db.execute(
                sa.update(_upload)
                .where(_upload.c.upload_id == held.upload_id, _upload.c.attempts > 0)
                .values(attempts=_upload.c.attempts - 1, not_before=None)
            )


def _name(run_id: str) -> str:
    return f"run {run_id}"


def _holder_is(run_id: str) -> sa.ColumnElement[bool]:
    return _lease.c.holder.in_([PATH + run_id, f"hand:{run_id}"])
