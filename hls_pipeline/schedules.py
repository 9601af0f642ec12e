"""What the clock starts, each a job of its own with one op.

What happens to a video on its way belongs in `assets/`, what answers to something new in `sensors/`. An op here is a
few lines around a function of the plain modules, and says in its output what it did.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from hls_pipeline import clock, jobs, settings
from hls_pipeline.errors import PipelineError
from hls_pipeline.queue import broker
from hls_pipeline.queue.requests import VIDEOS
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.upkeep import partitions, retention, retries


@dg.op
def archive_settled_partitions(context: dg.OpExecutionContext, metadata: MetadataResource) -> None:
    """Takes the keys of videos on which nobody worked for `HLS_PARTITION_KEEP_DAYS` out of Dagster's list, which every
    tick and every page reads. Events and versions stay; a sensor that starts a run for such a video adds its key again.
    """
    before = clock.now() - timedelta(days=settings.load().partition_keep_days)
    archived = 0
    for page in partitions.pages(context.instance):
        for video_id in metadata.store().settled(page, before):
            context.instance.delete_dynamic_partition(VIDEOS, video_id)
            archived += 1
    context.add_output_metadata({"archived": archived})


@dg.job(
    description="Takes videos at rest out of the list of partitions; their history stays.",
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
)
def archive_partitions() -> None:
    archive_settled_partitions()


@dg.op
def thin_dagsters_history(context: dg.OpExecutionContext) -> None:
    """Forgets runs that ended more than `HLS_HISTORY_DAYS` ago; what they materialized stays on record."""
    gone = retention.thin(context.instance, clock.now() - timedelta(days=settings.load().history_days))
    context.add_output_metadata({"runs": gone})


@dg.job(
    description="Thins Dagster's runs and logs of long ago; materializations stay.",
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
)
def thin_history() -> None:
    thin_dagsters_history()


@dg.schedule(
    job=jobs.ingest,
    cron_schedule="*/10 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Failed uploads go on where they failed, ever more rarely; the inbox sensor starts their runs.",
)
def failed_uploads(metadata: MetadataResource) -> dg.SkipReason:
    try:
        taken_up = retries.take_up(metadata.store(), clock.now())
    except PipelineError as error:
        return dg.SkipReason(str(error))
    names = ", ".join(upload.video_id for upload in taken_up[:20])
    return dg.SkipReason(f"{len(taken_up)} taken up again: {names}" if taken_up else "none is due")


def _daily(name: str, job: Any, cron: str) -> dg.ScheduleDefinition:
    running = dg.DefaultScheduleStatus.RUNNING
    return dg.ScheduleDefinition(name=name, job=job, cron_schedule=cron, default_status=running)


ALL = [
    failed_uploads,
    _daily("nightly_repin", jobs.repin, "30 2 * * *"),
    _daily("nightly_archive", archive_partitions, "10 3 * * *"),
    _daily("nightly_reconciliation", jobs.reconcile, "30 3 * * *"),
    _daily("nightly_thinning", thin_history, "40 3 * * *"),
    _daily("daily_anchor", jobs.anchor, "20 4 * * *"),
    _daily("daily_report", jobs.report, "50 4 * * *"),
]
