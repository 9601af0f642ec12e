"""Which of the uploads that are due get a run now, and in which queue it waits.

An upload is due as long as nobody works on it, so also while its run waits for a worker: such an upload gets no second
run. A run that has let its lease lapse in the middle has lost its worker; one whose message is nowhere is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg

from hls_pipeline.assets.frame import UPLOAD_TAG
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.queue import broker, leases
from hls_pipeline.queue.instance import fail_lost_run
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload

_WAITING = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
_BEGUN = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
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
        if run.status in _BEGUN:
            if leases.lapsed(store, run.run_id, now):
                fail_lost_run(instance, run)
        elif messages:
            waiting.add(run.tags[UPLOAD_TAG])
        else:
            instance.report_run_canceled(run, "No worker will get it: its message is gone. The upload gets a new run.")
    leases.wait(store, waiting, now + _LOOK_AGAIN)
    return tuple(upload for upload in due if upload.upload_id not in waiting)


def request(upload: Upload, store: MetadataStore, config: Settings, now: datetime) -> dg.RunRequest:
    """The upload's next run; small packages wait for no large one. Raises Outage."""
    small = upload.drop.bytes <= config.light_bytes
    return dg.RunRequest(
        run_key=f"{upload.upload_id}:{store.request_run(upload.upload_id, now)}",
        partition_key=upload.video_id,
        tags={
            UPLOAD_TAG: upload.upload_id,
            broker.QUEUE_TAG: broker.LIGHT if small else broker.IPFS,
            broker.BYTES_TAG: str(upload.drop.bytes),
        },
    )


def _unfinished(instance: dg.DagsterInstance, upload_ids: Sequence[str]) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(tags={UPLOAD_TAG: upload_ids}, statuses=[*_WAITING, *_BEGUN]))
