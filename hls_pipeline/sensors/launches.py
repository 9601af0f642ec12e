"""Which of the uploads that are due get a run now.

An upload is due as long as nobody works on it, so also while its run waits for a worker: such an upload gets no second
run. A run that has let its lease lapse in the middle has lost its worker; one whose message is nowhere is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg

from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.queue import broker, leases, requests
from hls_pipeline.queue.instance import BEGUN, fail_lost_run
from hls_pipeline.queue.requests import UPLOAD_TAG
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload

_WAITING = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
_LOOK_AGAIN = timedelta(minutes=5)
"""Long enough that a look at a long queue does not keep the sensor from what is new."""


def to_launch(
    instance: dg.DagsterInstance, due: Sequence[Upload], store: MetadataStore, config: Settings, now: datetime
) -> tuple[Upload, ...]:
    """Those of `due` that no unfinished run stands for. Raises Outage while the broker does not answer."""
    if not due:
        return ()
    messages = broker.connect(config).waiting() if config.broker_url else 0
    waiting = set()
    for run in _unfinished(instance, [upload.upload_id for upload in due]):
        if run.status in BEGUN:
            if leases.lapsed(store, run.run_id, now):
                fail_lost_run(instance, run)
        elif messages:
            waiting.add(run.tags[UPLOAD_TAG])
        else:
            instance.report_run_canceled(run, "No worker will get it: its message is gone. The upload gets a new run.")
    leases.wait(store, waiting, now + _LOOK_AGAIN)
    return tuple(upload for upload in due if upload.upload_id not in waiting)


def request(due: Sequence[Upload], store: MetadataStore, config: Settings, now: datetime) -> list[dg.RunRequest]:
    """The next run of each upload, but for those that the gateway is starting. Raises Outage."""
    asked = [requests.next_run(upload, store, config, now) for upload in due]
    return [
        dg.RunRequest(run_key=run.key, partition_key=run.video_id, tags=run.tags) for run in asked if run is not None
    ]


def _unfinished(instance: dg.DagsterInstance, upload_ids: Sequence[str]) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(tags={UPLOAD_TAG: upload_ids}, statuses=[*_WAITING, *BEGUN]))
