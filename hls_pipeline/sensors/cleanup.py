"""Looks for S3 copies that are due for removal and starts the clean-up of their video."""

from __future__ import annotations

import dagster as dg

from hls_pipeline import clock
from hls_pipeline.assets.frame import UPLOAD_TAG, videos
from hls_pipeline.errors import PipelineError
from hls_pipeline.jobs import clear
from hls_pipeline.resources.metadata import MetadataResource


@dg.sensor(
    name="cleanup",
    job=clear,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A clean-up for each revision whose S3 copies are due.",
)
def cleanup(context: dg.SensorEvaluationContext, metadata: MetadataResource) -> dg.SensorResult | dg.SkipReason:
    store, now = metadata.store(), clock.now()
    try:
        due = store.due(now)
        launches = {upload.upload_id: store.request_run(upload.upload_id, now) for upload in due}
    except PipelineError as error:
        return dg.SkipReason(str(error))
    if not due:
        return dg.SkipReason("nothing is due")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{upload.upload_id}:{launches[upload.upload_id]}",
                partition_key=upload.video_id,
                tags={UPLOAD_TAG: upload.upload_id},
            )
            for upload in due
        ],
        # The key may have been archived, or never have been there: a video can be withdrawn before its first run.
        dynamic_partitions_requests=[videos.build_add_request(sorted({upload.video_id for upload in due}))],
    )
