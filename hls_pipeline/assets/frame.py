"""What every asset of the path shares: its partitions, which upload a run means, and how a step runs inside Dagster.

`run_step` holds the video for the run and turns our errors into Dagster failures with the message an operator needs. A
new asset is a file beside this one; a new rule of the path belongs in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from hls_pipeline import remaking, settings, work
from hls_pipeline.assets import show
from hls_pipeline.errors import DropChanged, NotFound, PipelineError
from hls_pipeline.metadata_store import PATH, Lease, MetadataStore
from hls_pipeline.queue.requests import INBOX, SENSOR_TAG, UPLOAD_TAG, VIDEOS
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload

videos = dg.DynamicPartitionsDefinition(name=VIDEOS)

Step = Callable[[Upload, Lease, Settings], Upload]
Remake = Callable[[Upload, str, Settings], Upload]


def run_step(
    context: dg.AssetExecutionContext,
    store: MetadataStore,
    step: Step,
    *,
    last: bool = False,
    remake: Remake | None = None,
) -> Upload:
    """The upload after `step`, superseded if its drop changed meanwhile. Raises dg.Failure with our message. A run by
    hand, or of a backfill, makes the revision anew with `remake` where that would give another one."""
    config = settings.load()
    with as_failure():
        upload = which_upload(context, store)
        if remake and UPLOAD_TAG not in context.run.tags and remaking.wanted(upload, config):
            upload = remake(upload, holder(context), config)
        try:
            with work.holding(upload, holder(context), store, config, last=last) as lease:
                return step(upload, lease, config)
        except DropChanged as error:
            context.log.info("%s", error)
            return store.upload(upload.upload_id)


@contextmanager
def as_failure() -> Iterator[None]:
    """Our errors as the failure of a run, with our message."""
    try:
        yield
    except PipelineError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"code": error.code, "tried again": error.retryable},
            allow_retries=False,  # the sensor starts the upload again, with back-off
        ) from error


def which_upload(context: dg.AssetExecutionContext, store: MetadataStore) -> Upload:
    """The upload that the run's tag names, else the one that the run is at work on, else the current revision of the
    partition, else its newest arrival."""
    if upload_id := context.run.tags.get(UPLOAD_TAG):
        return store.upload(upload_id)
    video_id = context.partition_key
    upload = store.held_by(video_id, holder(context)) or store.current_upload(video_id) or store.latest_upload(video_id)
    if upload is None:
        raise NotFound(f"video {video_id}: nothing of it ever arrived; drop a package into its inbox folder")
    return upload


def holder(context: dg.AssetExecutionContext) -> str:
    """Who holds the video: a run that the sensor started walks the whole path, others do single steps."""
    walks_path = context.run.tags.get(SENSOR_TAG) == INBOX
    return f"{PATH if walks_path else 'hand:'}{context.run.run_id}"


def result(
    upload: Upload,
    store: MetadataStore,
    data_version: str,
    checks: Sequence[dg.AssetCheckResult] = (),
    **shown: Any,
) -> dg.MaterializeResult[None]:
    """What the UI shows of every asset, and what this one adds."""
    about: dict[str, Any] = {"upload": upload.upload_id, "revision": upload.revision or 0, "state": str(upload.state)}
    about |= show.version(upload, store.newest_version(upload))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(data_version), metadata={**about, **shown}, check_results=list(checks)
    )
