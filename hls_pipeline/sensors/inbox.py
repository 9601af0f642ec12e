"""Looks at the inbox and starts a run for each upload that is new, or that was cut off and is due again."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta

import dagster as dg

from hls_pipeline import clock, drops, settings
from hls_pipeline.assets.frame import videos
from hls_pipeline.errors import PipelineError
from hls_pipeline.jobs import ingest
from hls_pipeline.queue import s3_events
from hls_pipeline.queue.requests import INBOX
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.sensors import launches
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload


@dg.sensor(
    name=INBOX,
    job=ingest,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A run for each package in the inbox; a second look at those that were cut off.",
)
def inbox(
    context: dg.SensorEvaluationContext, s3: ObjectStoreResource, metadata: MetadataResource
) -> dg.SensorResult | dg.SkipReason:
    store, config, now = metadata.store(), settings.load(), clock.now()
    try:
        everything = _all_is_due(context.cursor, config, now)
        with nullcontext(None) if everything else s3_events.folders_written(config) as names:
            arrived, waiting = drops.receive(s3.object_store(), store, config, now, names)
        due = launches.to_launch(context.instance, store.ready_to_run(now), store, config, now)
        requests = launches.request(due, store, config, now)
    except PipelineError as error:
        return dg.SkipReason(str(error))
    looked = clock.text(now) if everything else context.cursor
    if not requests:
        return dg.SensorResult(skip_reason="; ".join(waiting[:20]) or "the inbox is empty", cursor=looked)
    return dg.SensorResult(
        run_requests=requests,
        cursor=looked,
        dynamic_partitions_requests=[videos.build_add_request(sorted({upload.video_id for upload in due}))],
        asset_events=[_materialization(upload) for upload in arrived if upload in due],
    )


def _all_is_due(last: str | None, config: Settings, now: datetime) -> bool:
    """Whether all folders are looked at, not only those that S3 has told of since the last look."""
    between = timedelta(seconds=config.inbox_look_seconds)
    return not config.s3_events_url or not last or now >= clock.parse(last) + between


def _materialization(upload: Upload) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        "inbox_package",
        partition=upload.video_id,
        metadata={
            "upload": upload.upload_id,
            "files": len(upload.drop.objects),
            "bytes": upload.drop.bytes,
            "marked ready": upload.drop.ready is not None,
        },
        tags={"dagster/data_version": upload.upload_id},
    )
