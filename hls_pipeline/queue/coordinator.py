"""Runs start at once, but for those of a backfill, which wait for their turn.

A backfill of a hundred thousand videos would otherwise fill the workers and their queue, and a creator's package would
wait behind all of it. How many run at once is `max_concurrent_runs` in dagster.yaml, packages on their way counted.
"""

from __future__ import annotations

from dagster import DagsterRun, DagsterRunStatus
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG


class BackfillsInTurn(QueuedRunCoordinator):
    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        if BACKFILL_ID_TAG in run.tags:
            return super().submit_run(context)
        if run.status is DagsterRunStatus.NOT_STARTED:
            self._instance.launch_run(run.run_id, context.workspace)
        found = self._instance.get_run_by_id(run.run_id)
        assert found
        return found
