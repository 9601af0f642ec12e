"""A package that lies complete where it waits in the media bucket becomes an upload, at once if possible.

The gateway walks the first two steps itself, under a lease of its own, so that the answer can be the temporary document
or the report. It then asks Dagster for the upload's run, as the inbox sensor would a moment later. Whenever that does
not succeed, or the gateway fails in between, the sensor takes care of the upload, as of any other.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi.responses import Response
from starlette.background import BackgroundTask

from hls_pipeline import clock, steps, work
from hls_pipeline.dagster_client import DagsterClient
from hls_pipeline.documents import FinalDocument
from hls_pipeline.errors import DropChanged, LeaseLost, PipelineError, ServiceError
from hls_pipeline.gateway import logs, shapes
from hls_pipeline.gateway.openapi import Responses, example
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.services import Services
from hls_pipeline.gateway.webhook_records import Webhook, WebhookRecords
from hls_pipeline.queue import leases
from hls_pipeline.queue.requests import INBOX, INGEST, VIDEOS, next_run
from hls_pipeline.staging import Reading
from hls_pipeline.uploads import Drop, DropObject, State, Upload

log = logging.getLogger(__name__)

_HEADERS = {
    "Location": {"description": "the video", "schema": {"type": "string"}},
    "Upload-Id": {"description": "the arrival", "schema": {"type": "string"}},
}
ACCEPTED: Responses = {
    200: {
        "description": "nothing new: the current document",
        "model": FinalDocument,
        "headers": _HEADERS,
        **example(shapes.FINAL),
    },
    202: {
        "description": "the temporary document, or what is on record of it so far",
        "headers": _HEADERS,
        **example(shapes.TEMPORARY),
    },
}
"""How the two ways to send a package describe their answers."""

_BUSY_SECONDS = 20.0
"""How long an answer waits while another run holds the video."""
_PAUSE_SECONDS = 0.2
_QUEUE_SECONDS = 30
"""When somebody who met a full queue may look again."""


@dataclass(frozen=True)
class Arrival:
    """What became of a package until the answer."""

    upload: Upload
    document: str | None


def check_queue(services: Services) -> None:
    """Raises Refused (429) while the pipeline has enough to do."""
    waiting = services.records.in_work()
    if waiting >= services.settings.queue_length:
        headers = {"Retry-After": str(_QUEUE_SECONDS)}
        raise Refused(429, "queue_full", f"{waiting:,} packages are waiting or in work; send this one later", headers)


def take_in(
    services: Services,
    video_id: str,
    prefix: str,
    objects: tuple[DropObject, ...],
    noted: Mapping[str, Reading] | None = None,
    webhook: Webhook | None = None,
) -> Arrival:
    """The package under `prefix` is an upload, and as far on its way as it gets within an answer's time. `noted` are
    files whose bytes went through our hands; `webhook` is told of the upload."""
    bucket = services.settings.s3_media
    drop = Drop(video_id, bucket, prefix, objects, clock.now())
    upload = services.store.receive(drop, clock.now())
    logs.about(video_id=video_id, run_id=upload.upload_id)
    if webhook is not None:
        about = replace(webhook, webhook_id=upload.upload_id, upload_id=upload.upload_id)
        WebhookRecords(services.store).add(about)
    return known(services, _walk(services, upload, noted))


def known(services: Services, upload: Upload) -> Arrival:
    """What an earlier answer said, or would have said."""
    return Arrival(upload, _document(services, upload))


def response(services: Services, arrival: Arrival) -> Response:
    """The temporary document, or the current one if the package changed nothing, as it is stored; after it is sent, the
    upload's run starts. Raises Refused (422) with the report when the package breaks a rule."""
    upload = arrival.upload
    if upload.state is State.REJECTED:
        count = len((upload.report or {}).get("errors", ()))
        raise Refused(
            422, "package_refused", f"the package has {count} fault(s); the report names each", report=upload.report
        )
    about = {"video_id": upload.video_id, "upload_id": upload.upload_id, "status": str(upload.state)}
    text = arrival.document or json.dumps(about)
    headers = {"Location": f"/v1/videos/{upload.video_id}", "Upload-Id": upload.upload_id}
    status = 200 if upload.state is State.UNCHANGED else 202
    then = BackgroundTask(start, services, upload)
    return Response(text, status, headers, media_type="application/json", background=then)


def start(services: Services, upload: Upload) -> None:
    """Asks Dagster for the upload's run, unless the sensor did; if Dagster is away, the sensor asks."""
    dagster, store = DagsterClient.of(services.settings), services.store
    if dagster is None or upload.state is not State.STAGED:
        return
    try:
        if run := next_run(upload, store, services.settings, clock.now()):
            try:
                dagster.launch(INGEST, VIDEOS, run.video_id, run.tags_of(INBOX))
            except ServiceError:
                leases.wait(store, [upload.upload_id], clock.now())
                raise
    except PipelineError as error:
        log.warning("upload %s: its run is left to the sensor: %s", upload.upload_id, error)


def _walk(services: Services, upload: Upload, noted: Mapping[str, Reading] | None) -> Upload:
    """As far as the temporary document. What fails here is on record, and tried again by the pipeline."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return _steps(services, upload, noted)
        except LeaseLost:
            upload = services.store.upload(upload.upload_id)
            if upload.state is not State.RECEIVED or time.monotonic() > until:
                return upload
            time.sleep(_PAUSE_SECONDS)
        except DropChanged:
            raise
        except PipelineError as error:
            log.warning("upload %s goes on in the pipeline: %s", upload.upload_id, error)
            return services.store.upload(upload.upload_id)


def _steps(services: Services, upload: Upload, noted: Mapping[str, Reading] | None) -> Upload:
    objects, store, settings = services.objects, services.store, services.settings
    holder = f"gateway:{upload.upload_id}"
    with work.holding(upload, holder, store, settings, last=True) as lease:
        upload = steps.stage(store.upload(upload.upload_id), lease, objects, services.nodes, store, settings, noted)
        if upload.state is State.RECEIVED:
            upload = steps.write_s3_manifest(upload, lease, objects, store, settings)
    return upload


def _document(services: Services, upload: Upload) -> str | None:
    if upload.state is State.UNCHANGED:
        current = services.store.current(upload.video_id)
        return current.document if current else None
    return services.records.first_document(upload.video_id, upload.revision) if upload.revision else None
