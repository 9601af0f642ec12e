"""What is wrong right now: uploads that failed or do not move, services that are away, nodes and disks that fill up.

`look` asks everything once and changes nothing. A new check is a generator of `Problem`s named here; when somebody is
told of it is decided in `alerts.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from hls_pipeline import failures, tables
from hls_pipeline.errors import PipelineError
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.metadata_store.rows import is_held
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.queue import broker
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import retries
from hls_pipeline.upkeep.alerts import SERVICE_DOWN, Problem, was_open
from hls_pipeline.uploads import IN_WORK, State

_AT_MOST = 500
"""Uploads of a kind; a message says how many there are, not each of them."""
_GETTING_ON = timedelta(minutes=10)
"""Twice the longest wait between two tries: so long nobody asks why an upload does not move after an outage."""


def look(
    store: MetadataStore, objects: ObjectStore, nodes: Sequence[Kubo], settings: Settings, now: datetime
) -> list[Problem]:
    """Raises Outage when the metadata store does not answer."""
    services = [*_buckets(objects, settings), *_nodes(nodes, settings), *_queue(settings)]
    away = any(problem.kind == SERVICE_DOWN for problem in services)
    found = [*services, *_disks(settings), *_failed(store, settings)]
    # What waited for a service goes on by itself once that is back, but not in the same moment.
    if not (away or was_open(store, SERVICE_DOWN, now - _GETTING_ON)):
        found += [*_stuck(store, settings, now), *_not_cleared(store, settings, now)]
    return found


# ---- uploads -----------------------------------------------------------------------------------------------------


def _failed(store: MetadataStore, settings: Settings) -> Iterator[Problem]:
    upload = tables.upload
    query = (
        sa.select(upload.c.upload_id, upload.c.video_id, upload.c.error, retries.times_failed().label("times"))
        .where(upload.c.state == State.FAILED)
        .order_by(upload.c.updated_at.desc())
        .limit(_AT_MOST)
    )
    with store.reading() as db:
        rows = db.execute(query).all()
    for row in rows:
        code = failures.last_code(store, row.upload_id)
        action = failures.advice(code).action.replace("retry ID", "retry …")
        again = "It is tried again by itself" if retries.goes_on(code, row.times) else "It is not tried again by itself"
        yield Problem(
            f"upload_failed:{row.upload_id}",
            "upload_failed",
            f"The upload of video {row.video_id} failed",
            row.error or "no reason is on record",
            f"{action} {again}.",
            _page(settings, row.video_id),
        )


def _stuck(store: MetadataStore, settings: Settings, now: datetime) -> Iterator[Problem]:
    """In work, complete, held by nobody, and in the same state for too long."""
    upload, change = tables.upload, tables.state_change
    since = sa.select(sa.func.max(change.c.time)).where(change.c.upload_id == upload.c.upload_id).scalar_subquery()
    query = (
        sa.select(upload.c.upload_id, upload.c.video_id, upload.c.state, upload.c.error)
        .where(
            upload.c.state.in_(IN_WORK),
            upload.c.report.is_(None) | upload.c.revision.is_not(None),
            ~is_held(upload.c.video_id, now),
            since < now - timedelta(seconds=settings.stuck_seconds),
        )
        .order_by(upload.c.upload_id)  # the same ones at each look
        .limit(_AT_MOST)
    )
    with store.reading() as db:
        rows = db.execute(query).all()
    for row in rows:
        yield Problem(
            f"upload_stuck:{row.upload_id}",
            "upload_stuck",
            f"The upload of video {row.video_id} has been {row.state} for a long time",
            row.error or "no run works on it",
            "Look at the runs of the video in Dagster: are the daemon and the workers running? `hls-pipeline doctor`.",
            _page(settings, row.video_id),
        )


def _not_cleared(store: MetadataStore, settings: Settings, now: datetime) -> Iterator[Problem]:
    upload, temp = tables.upload, tables.temp_storage
    late = temp.c.due_at < now - timedelta(seconds=settings.stuck_seconds)
    query = (
        sa.select(upload.c.upload_id, upload.c.video_id, upload.c.error, sa.func.count().label("objects"))
        .join(temp, temp.c.upload_id == upload.c.upload_id)
        .where(late, ~is_held(upload.c.video_id, now))
        .group_by(upload.c.upload_id, upload.c.video_id, upload.c.error)
        .order_by(upload.c.upload_id)  # the same ones at each look
        .limit(_AT_MOST)
    )
    with store.reading() as db:
        rows = db.execute(query).all()
    for row in rows:
        yield Problem(
            f"cleanup_stuck:{row.upload_id}",
            "cleanup_stuck",
            f"{row.objects} S3 object(s) of video {row.video_id} are long due for removal",
            row.error or "no clean-up came to its end",
            "Nothing is lost, S3 only costs more. Look at the newest run of job clear for this video.",
            _page(settings, row.video_id),
        )


def _page(settings: Settings, video_id: str) -> str:
    return f"{settings.gateway_url.rstrip('/')}/videos/{video_id}" if settings.gateway_url else ""


# ---- services and capacity ---------------------------------------------------------------------------------------


def _buckets(objects: ObjectStore, settings: Settings) -> Iterator[Problem]:
    for bucket in (settings.s3_inbox, settings.s3_media):
        try:
            next(objects.listing(bucket, "_health/"), None)
        except PipelineError as error:
            yield _down(f"S3 bucket {bucket}", error)


def _nodes(nodes: Sequence[Kubo], settings: Settings) -> Iterator[Problem]:
    for node in nodes:
        try:
            stat = node.repo_stat()
        except PipelineError as error:
            yield _down(f"IPFS node {node.name}", error, node.name)
            continue
        if stat.limit and 100 * stat.bytes >= settings.node_full_percent * stat.limit:
            yield Problem(
                f"node_full:{node.name}",
                "node_full",
                f"IPFS node {node.name} is {stat.bytes / stat.limit:.0%} full",
                f"it stores {stat.bytes / 1e9:.1f} of {stat.limit / 1e9:.1f} GB",
                "Raise its Datastore.StorageMax if the disk has room, or add a node (docs/how-to/add-a-node.md).",
            )


def _queue(settings: Settings) -> Iterator[Problem]:
    if settings.broker_url is None:
        return
    try:
        broker.connect(settings).waiting()
    except PipelineError as error:
        yield _down("The message broker", error)


def _down(what: str, error: PipelineError, subject: str = "") -> Problem:
    return Problem(
        f"{SERVICE_DOWN}:{subject or what}",
        SERVICE_DOWN,
        f"{what} does not answer",
        str(error),
        "Start it; work goes on by itself. `hls-pipeline doctor` checks every address.",
    )


def _disks(settings: Settings) -> Iterator[Problem]:
    for path in settings.disk_paths or (settings.data,):
        if not path.exists():
            continue
        usage = shutil.disk_usage(path)
        if 100 * (usage.total - usage.free) >= settings.disk_full_percent * usage.total:
            yield Problem(
                f"disk_full:{path}"[:200],
                "disk_full",
                f"The disk of {path} is {1 - usage.free / usage.total:.0%} full",
                f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB are free",
                "Make room, or give the service a larger disk.",
            )
