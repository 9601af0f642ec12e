"""Dagster's run launcher: a run's id goes into the queue, and a worker somewhere executes it.

A broker that is away is no failure of an upload's run: it is cancelled, with the reason, and the sensor asks again. A
run of a schedule, a backfill or by hand has failed, and Dagster's run retries try it again for a minute or two. To
terminate, a run is marked in Dagster's storage, where its worker looks every second; that needs no remote control, so
it is the same with every broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterInstance
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from hls_pipeline import settings
from hls_pipeline.errors import Outage
from hls_pipeline.queue import broker
from hls_pipeline.queue.instance import BEGUN
from hls_pipeline.queue.requests import UPLOAD_TAG


class CeleryQueueLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """The broker is that of HLS_BROKER_URL; `dagster.yaml` only names this class."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._declared = False
        super().__init__()  # type: ignore[no-untyped-call]

    def launch_run(self, context: LaunchRunContext) -> None:
        run, config = context.dagster_run, settings.load()
        queue = run.tags.get(broker.QUEUE_TAG, broker.IPFS)
        try:
            if not self._declared:
                broker.connect(config).declare()
                self._declared = True
            broker.send(config, run.run_id, queue)
        except Outage as outage:
            self._declared = False
            if UPLOAD_TAG in run.tags:
                self._instance.report_run_canceled(
                    run, f"Not started: {outage}. The upload gets another run by itself."
                )
            else:
                self._instance.report_run_failed(
                    run, f"Not started: {outage}. Launch it again once the broker answers."
                )
            return
        self._instance.report_engine_event(f"In queue {queue}.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """A run that waits in the queue is cancelled at once; one that is at work stops itself within a second."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if run.status not in BEGUN:
            self._instance.report_run_canceled(run)
        return True

    @property
    def supports_resume_run(self) -> bool:
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        return False  # the lease of the video says whether a run's worker lives

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)
