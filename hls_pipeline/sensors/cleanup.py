"""Looks for S3 copies that are due for removal and starts the clean-up of their video."""

from __future__ import annotations

import dagster as dg

from hls_pipeline import clock, settings
from hls_pipeline.assets.frame import videos
from hls_pipeline.errors import PipelineError
from hls_pipeline.jobs import clear
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.sensors import launches


@dg.sensor(
    name="cleanup",
    job=clear,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A clean-up for each revision whose S3 copies are due.",
)
def cleanup(context: dg.SensorEvaluationContext, metadata: MetadataResource) -> dg.SensorResult | dg.SkipReason:
    store, config, now = metadata.store(), settings.load(), clock.now()
    try:
        due = launches.to_launch(context.instance, store.due(now), store, config, now)
        requests = launches.request(due, store, config, now)
    except PipelineError as error:
        return dg.SkipReason(str(error))
    if not requests:
        return dg.SkipReason("nothing is due")
    return dg.SensorResult(
        run_requests=requests,
        # The key may have been archived, or never have been there: a video can be withdrawn before its first run.
        dynamic_partitions_requests=[videos.build_add_request(sorted({upload.video_id for upload in due}))],
    )
