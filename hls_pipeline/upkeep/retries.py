"""Failed uploads taken up again by themselves, ever more rarely: what made them fail may have passed.

How often a try is repeated before an upload counts as failed at all is in `work.py`; a person can take one up at any
time with `hls-pipeline retry`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import failures, tables
from hls_pipeline.errors import Conflict
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import State, Upload, back_off

_FIRST, _LONGEST = 3600.0, 86400.0
"""Seconds until the first time, doubled with each, up to the longest."""
_TIMES = 8
"""About four days in all; then a person must look."""


def times_failed() -> sa.ScalarSelect[int]:
    """How often an upload of the query around it failed for good."""
    upload, change = tables.upload, tables.state_change
    query = sa.select(sa.func.count()).where(change.c.upload_id == upload.c.upload_id, change.c.state == State.FAILED)
    return query.scalar_subquery()


def goes_on(code: str, times: int) -> bool:
    """Whether an upload that failed so often, at last with this code, is taken up by itself."""
    return times <= _TIMES and code not in failures.HOPELESS


def take_up(store: MetadataStore, now: datetime) -> tuple[Upload, ...]:
    """Failed uploads whose time has come go on where they failed; the inbox sensor gives them runs."""
    upload, times = tables.upload, times_failed()
    query = sa.select(upload.c.upload_id, upload.c.updated_at, times.label("times"))
    with store.reading() as db:  # those that a person must look at may be many, and stay
        failed = db.execute(query.where(upload.c.state == State.FAILED, times <= _TIMES)).all()
    due = [row for row in failed if row.updated_at + back_off(row.times - 1, _FIRST, _LONGEST) <= now]
    return tuple(
        resumed
        for row in due
        if goes_on(failures.last_code(store, row.upload_id), row.times) and (resumed := _resumed(store, row, now))
    )


def _resumed(store: MetadataStore, row: sa.Row[tuple[str, datetime, int]], now: datetime) -> Upload | None:
    try:
        return store.resume(row.upload_id, now)
    except Conflict:  # somebody was quicker
        return None
