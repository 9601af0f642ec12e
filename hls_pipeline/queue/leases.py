"""What the leases in the metadata store say of a run: whether its worker lives, and that its video is free again.

A run holds the lease of its video from its first step to its last and renews it while it works (`work.py`). The run
itself, also one that is about no video, such as a re-pin, belongs to the one worker that claimed it and shows that it
is at work; this tells a worker that died from one that only lost its connection to the broker, and a message that came
twice finds the run taken.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.metadata_store import PATH, MetadataStore
from hls_pipeline.metadata_store.rows import insert_new

_lease, _upload, _shown = tables.video_lease, tables.upload, tables.checkpoint


def at_work(store: MetadataStore, run_id: str, now: datetime) -> bool:
    """Whether the run's worker has shown itself within the lease's time. Raises Outage."""
    shown = sa.select(_shown.c.name).where(_shown.c.name == _name(run_id), _shown.c.time > now)
    with store.reading() as db:
        return db.execute(shown).first() is not None


def claim(store: MetadataStore, run_id: str, worker: str, now: datetime, seconds: float) -> bool:
    """Whether the run is the worker's now, for so many seconds: nobody else has shown to be at work on it, or `worker`
    has had it all along. Raises Outage."""
    until = now + timedelta(seconds=seconds)
    mine = _shown.c.content == {"worker": worker}
    with store.writing() as db:
        if insert_new(db, _shown, name=_name(run_id), time=until, content={"worker": worker}):
            return True
        taken = sa.update(_shown).where(_shown.c.name == _name(run_id), mine | (_shown.c.time <= now))
        return bool(db.execute(taken.values(time=until, content={"worker": worker})).rowcount)


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
