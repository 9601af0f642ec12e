"""Dagster's own records of long ago, thinned: runs and their logs go, every materialization and check result stays.

Dagster never forgets a run by itself, and its own way to delete one takes the materializations with it, which are the
lineage of our assets. Who did what to a video, and when, is in our own tables and stays there for good. Ticks are
thinned by Dagster itself, see `retention` in dagster.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import DagsterEventType
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as EVENTS
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_KEPT = (
    DagsterEventType.ASSET_MATERIALIZATION.value,
    DagsterEventType.ASSET_OBSERVATION.value,
    DagsterEventType.ASSET_CHECK_EVALUATION.value,
    DagsterEventType.ASSET_FAILED_TO_MATERIALIZE.value,
)
_AT_ONCE = 100  # runs


def thin(instance: dg.DagsterInstance, before: datetime) -> int:
    """Runs that ended before are gone, with all that was logged but what happened to assets; says how many they were.
    Cut off, it goes on the next time."""
    gone = 0
    old = dg.RunsFilter(statuses=_FINISHED, updated_before=before)
    while runs := instance.get_runs(old, limit=_AT_ONCE):
        run_ids = [run.run_id for run in runs]
        _thin_events(instance.event_log_storage, run_ids)
        _forget_runs(instance.run_storage, run_ids)
        gone += len(run_ids)
    return gone


def _forget_runs(storage: object, run_ids: Sequence[str]) -> None:
    """Without the way of Dagster's instance, which deletes all their events."""
    assert isinstance(storage, SqlRunStorage), "Dagster keeps its runs elsewhere now; look again"
    with storage.connect() as db:
        for table in (RunTagsTable, RunsTable):
            db.execute(sa.delete(table).where(table.c.run_id.in_(run_ids)))


def _thin_events(storage: object, run_ids: Sequence[str]) -> None:
    assert isinstance(storage, SqlEventLogStorage), "Dagster keeps its events elsewhere now; look again"
    talk = EVENTS.c.dagster_event_type.is_(None) | EVENTS.c.dagster_event_type.not_in(_KEPT)
    with storage.index_connection() as db:
        db.execute(sa.delete(EVENTS).where(EVENTS.c.run_id.in_(run_ids), talk))
    if isinstance(storage, SqliteEventLogStorage):  # a database per run beside the one that was just thinned
        for run_id in run_ids:
            path = Path(storage.path_for_shard(run_id))
            for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                each.unlink(missing_ok=True)
            storage._initialized_dbs.discard(run_id)  # who asks for it all the same gets an empty one
