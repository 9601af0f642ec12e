"""Tells people what does not heal by itself: a look at everything twice a minute, and runs of jobs that failed."""

from __future__ import annotations

import json

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from hls_pipeline import clock, failures, settings
from hls_pipeline.errors import PipelineError
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.upkeep import alert_channels, alerts, watch
from hls_pipeline.upkeep.alerts import Problem, Silence

_PARTITION = "dagster/partition"


@dg.sensor(
    name="health",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks for failed and stuck uploads, services that are away, nodes and disks that fill up.",
)
def health(
    context: dg.SensorEvaluationContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.SensorResult:
    store, config, now = metadata.store(), settings.load(), clock.now()
    channels = alert_channels.of(config)
    silence = _silence(context.cursor)
    try:
        found = watch.look(store, s3.object_store(), ipfs.nodes(), config, now)
        for key in _mended(context.instance, alerts.known(store)):
            alerts.close(store, key, now)
        count = alerts.settle(store, found, channels, config, now)
    except PipelineError as error:
        silence = (silence or Silence(now)).next(error, channels, config, now)
        remembered = json.dumps({"since": clock.text(silence.since), "told": silence.told})
        return dg.SensorResult(skip_reason=str(error), cursor=remembered)
    if silence:
        silence.over(channels)
    return dg.SensorResult(skip_reason=f"{count} problem(s) are open" if count else "nothing is wrong", cursor="")


def _silence(cursor: str | None) -> Silence | None:
    if not cursor:
        return None
    content = json.loads(cursor)
    return Silence(clock.parse(content["since"]), content["told"])


def _mended(instance: dg.DagsterInstance, known: list[Problem]) -> list[str]:
    """Failures of jobs that have succeeded since."""
    return [
        problem.key
        for problem in known
        if problem.kind == alerts.RUN_FAILED
        and instance.get_runs(
            dg.RunsFilter(
                job_name=problem.subject,
                statuses=[dg.DagsterRunStatus.SUCCESS],
                updated_after=problem.since,
            ),
            limit=1,
        )
    ]


@dg.run_failure_sensor(
    name="failed_jobs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notes failed runs of schedules and jobs; videos are looked after by the pipeline itself.",
)
def failed_jobs(context: dg.RunFailureSensorContext, metadata: MetadataResource) -> dg.SkipReason | None:
    run = context.dagster_run
    if _PARTITION in run.tags or run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason("it is started again by itself")
    config = settings.load()
    cause, code = _cause(context)
    link = f"{config.dagster_url.rstrip('/')}/runs/{run.run_id}" if config.dagster_url else ""
    alerts.open_(
        metadata.store(),
        Problem(
            f"{alerts.RUN_FAILED}:{run.job_name}",
            alerts.RUN_FAILED,
            f"The job {run.job_name} failed",
            cause,
            failures.advice(code).action,
            link,
        ),
        clock.now(),
    )
    return None


def _cause(context: dg.RunFailureSensorContext) -> tuple[str, str]:
    """The message of the first step that failed, and its error code, as `assets.frame` wrote them."""
    for event in context.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        if failure and failure.description:
            code = failure.metadata.get("code")
            return failure.description, str(code.value) if code else "error"
        if event.step_failure_data.error:
            return event.step_failure_data.error.message.strip()[:500], failures.UNEXPECTED
    return context.failure_event.message or "the run ended without a word", failures.UNEXPECTED
