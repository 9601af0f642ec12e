"""`/v1/uploads`: a package sent straight to S3 by presigned addresses, file by file, resumable.

The sender says what it will send, puts each file (large ones in parts) and completes. Sizes are signed, and what is
staged afterwards is read with the ETags listed at completion, so an address that outlives it can change nothing.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from hls_pipeline import clock, keys
from hls_pipeline.errors import NotFound, PackageRefused, UsageError
from hls_pipeline.gateway import arrivals, forms, idempotency, shapes, webhooks
from hls_pipeline.gateway.access import Caller, Scope, Writer, require_owner
from hls_pipeline.gateway.openapi import json_body, refusals
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.records import Presigned, PresignedFile
from hls_pipeline.gateway.routing import Router
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.hls.content_types import content_type
from hls_pipeline.hls.findings import Findings, Report
from hls_pipeline.hls.metadata import read_metadata
from hls_pipeline.hls.paths import check_paths
from hls_pipeline.hls.policy import Limits
from hls_pipeline.submission import choose_video_id
from hls_pipeline.uploads import DropObject, State

router = Router(prefix="/v1/uploads", tags=["upload"])

_PATH = "/v1/uploads/"
_REQUEST_BYTES = 8 << 20
_PART = 64 << 20
"""Bytes of a part, and the largest file that goes up in one."""
COMPLETION = timedelta(minutes=10)
_OPEN_PER_KEY = 100
"""Uploads that a key may have begun and neither completed nor given up."""


@router.post(
    "",
    status_code=201,
    summary="Say what will be sent, get an address for each file",
    description="Put each file to its `urls`: one, or one for each part of `part_size` bytes. The `Content-Length` is "
    "signed. Then complete.",
    response_model=shapes.PresignedUpload,
    responses=refusals(404, 408, 409, 413, 422, _404="a repeat of what has expired or was given up",
                       _409="two different video ids are given, or the first request is under way"),
    openapi_extra=json_body(shapes.UploadRequest),
)  # fmt: skip
async def begin(
    request: Request, services: ServicesDep, caller: Writer, idempotency_key: idempotency.Key = None
) -> Response:
    wanted = await forms.json_body(request, services.settings, shapes.UploadRequest, _REQUEST_BYTES)
    asked = idempotency.fingerprint(request, wanted.model_dump_json().encode())

    async def work() -> Response:
        presigned_id = await run_in_threadpool(_begin, services, caller, wanted)
        return Response(status_code=201, headers={"Location": _PATH + presigned_id})

    first = await idempotency.once(services, caller, idempotency_key, asked, work)
    if first.status_code != 201:
        return first
    # Addresses are not kept with the answer: a repeat gets new ones, for what is still missing by then.
    upload = await run_in_threadpool(_own, services, caller, first.headers["Location"].removeprefix(_PATH))
    headers = {name: value for name, value in first.headers.items() if name in ("location", "idempotency-replayed")}
    return JSONResponse(await run_in_threadpool(_about, services, upload), 201, headers)


@router.get(
    "/{upload_id}",
    summary="What is still missing, with new addresses for it",
    response_model=shapes.PresignedUpload,
    responses=refusals(404),
)
def look(upload_id: str, services: ServicesDep, caller: Writer) -> dict[str, Any]:
    return _about(services, _own(services, caller, upload_id))


@router.post(
    "/{upload_id}/complete",
    status_code=202,
    summary="Everything is there",
    response_model=shapes.Accepted,
    responses=arrivals.ACCEPTED | refusals(404, 409, 422, _409="files are missing: `missing` names them"),
)
async def complete(upload_id: str, services: ServicesDep, caller: Writer) -> Response:
    presigned = await run_in_threadpool(_own, services, caller, upload_id)
    taken = await anyio.to_thread.run_sync(_complete, services, presigned, limiter=services.staging)
    return arrivals.response(services, taken)


@router.delete(
    "/{upload_id}",
    status_code=204,
    summary="Give it up; what was sent is removed",
    responses=refusals(404, 409, _409="it is complete already"),
)
def give_up(upload_id: str, services: ServicesDep, caller: Writer) -> Response:
    presigned = _own(services, caller, upload_id)
    if presigned.completed_at:
        raise Refused(409, "conflict", "it is complete already; withdraw the video instead")
    services.objects.remove_all(services.settings.s3_media, keys.presigned(presigned.id))
    services.records.drop_presigned(presigned.id)
    return Response(status_code=204)


def _own(services: Services, caller: Caller, upload_id: str) -> Presigned:
    """Raises NotFound, also for the uploads of others."""
    presigned = services.records.presigned(upload_id[:32])
    if presigned.key_id != caller.key_id and not caller.may(Scope.ADMIN):
        raise NotFound("there is no such upload; it may have expired")
    if presigned.completed_at and presigned.upload_id is None:
        return _gone_on_with(services, presigned)
    return presigned


def _gone_on_with(services: Services, presigned: Presigned) -> Presigned:
    """With the upload that it became, where a gateway died while it completed it and the pipeline went on: its files
    are no longer here, and not missing. A package that changed meanwhile became nothing."""
    prefix = keys.presigned(presigned.id)
    for upload in services.store.uploads_of(presigned.video_id):
        changed = upload.state is State.SUPERSEDED and upload.revision is None
        if upload.drop.prefix == prefix and upload.state is not State.RECEIVED and not changed:
            services.records.end_completion(presigned.id, upload.upload_id)
            return replace(presigned, upload_id=upload.upload_id)
    return presigned


def _begin(services: Services, caller: Caller, wanted: shapes.UploadRequest) -> str:
    """The id of the new upload."""
    arrivals.check_queue(services)
    settings, now = services.settings, clock.now()
    sizes = {file.path: file.size for file in wanted.files}
    metadata = json.dumps(wanted.metadata, ensure_ascii=False).encode() if wanted.metadata is not None else None
    _check(services, wanted, sizes, metadata)
    assert caller.key_id is not None
    if services.records.open_presigned(caller.key_id, now) >= _OPEN_PER_KEY:
        text = f"this key has {_OPEN_PER_KEY} open uploads: complete or delete some"
        raise Refused(429, "too_many_uploads", text, {"Retry-After": "60"})
    try:
        video_id = choose_video_id(wanted.video_id, metadata)
    except UsageError as error:
        raise Refused(400, "bad_video_id", str(error)) from error
    require_owner(services.records, caller, video_id, now)
    if wanted.webhook is not None:
        webhooks.check_url(services, wanted.webhook.url)
    services.limits.count_bytes(caller.limit_key, sum(sizes.values()))
    webhook = wanted.webhook.model_dump() if wanted.webhook else None
    arrival_id, bucket = secrets.token_hex(16), settings.s3_media
    if metadata is not None:
        services.objects.put(bucket, keys.presigned(arrival_id, keys.METADATA), metadata, "application/json")
        sizes[keys.METADATA] = len(metadata)
    files = tuple(_file(services, arrival_id, path, size) for path, size in sizes.items())
    expires = now + timedelta(seconds=settings.upload_seconds)
    presigned = Presigned(arrival_id, caller.key_id, video_id, files, now, expires, webhook=webhook)
    services.records.add_presigned(presigned)
    return arrival_id


def _check(services: Services, wanted: shapes.UploadRequest, sizes: dict[str, int], metadata: bytes | None) -> None:
    settings = services.settings
    limits = Limits(files=settings.upload_files, total_size=settings.upload_bytes)
    if sum(sizes.values()) > settings.upload_bytes:
        raise Refused(413, "too_large", f"at most {settings.upload_bytes:,} bytes are taken at once")
    findings = Findings()
    if len(sizes) < len(wanted.files):
        findings.add("PKG_DUPLICATE_PATH", "", None, "a path stands twice in the list")
    if metadata is not None:
        if keys.METADATA in sizes:
            findings.add("PKG_DUPLICATE_PATH", keys.METADATA, None, "metadata is given twice")
        read_metadata(keys.METADATA, metadata, limits, findings)
    check_paths(sizes, limits, findings)
    if findings.failed:
        raise PackageRefused("what is announced breaks rules", Report(None, findings.result()))


def _file(services: Services, arrival_id: str, path: str, size: int) -> PresignedFile:
    if size <= _PART:
        return PresignedFile(path, size)
    key = keys.presigned(arrival_id, path)
    bucket, kind = services.settings.s3_media, content_type(path)
    return PresignedFile(path, size, services.objects.begin_parts(bucket, key, kind, checked=False))


def _about(services: Services, presigned: Presigned) -> dict[str, Any]:
    """Addresses are made anew each time; they are cheap and expire."""
    missing = [] if presigned.upload_id else _missing(services, presigned)
    return {
        "id": presigned.id,
        "video_id": presigned.video_id,
        "expires_at": clock.text(presigned.expires_at),
        "part_size": _PART,
        "complete": presigned.upload_id is not None,
        "files": missing,
    }


def _missing(services: Services, presigned: Presigned) -> list[dict[str, Any]]:
    """The files that are not there, or not in the size that was announced; those whose parts all are will be joined."""
    bucket, prefix = services.settings.s3_media, keys.presigned(presigned.id)
    there = {item.key: item.size for item in services.objects.listing(bucket, prefix)}
    return [
        {"path": file.path, "size": file.size, "urls": addresses}
        for file in presigned.files
        if there.get(prefix + file.path) != file.size and (addresses := _addresses(services, prefix + file.path, file))
    ]


def _addresses(services: Services, key: str, file: PresignedFile) -> list[dict[str, Any]]:
    settings = services.settings
    bucket, seconds = settings.s3_media, settings.presign_seconds
    if file.parts_id is None:
        return [{"part": 1, "size": file.size, "url": services.objects.presigned_put(bucket, key, file.size, seconds)}]
    there = services.objects.parts(bucket, key, file.parts_id)
    wanted = _part_sizes(file.size)
    return [
        {
            "part": number,
            "size": size,
            "url": services.objects.presigned_part(bucket, key, file.parts_id, number, size, seconds),
        }
        for number, size in wanted.items()
        if there.get(number, ("", -1))[1] != size
    ]


def _part_sizes(size: int) -> dict[int, int]:
    return {number + 1: min(_PART, size - start) for number, start in enumerate(range(0, size, _PART))}


def _complete(services: Services, presigned: Presigned) -> arrivals.Arrival:
    if presigned.upload_id:
        return arrivals.known(services, services.store.upload(presigned.upload_id))
    arrivals.check_queue(services)
    records = services.records
    if not records.begin_completion(presigned.id, clock.now(), COMPLETION):
        raise Refused(409, "completing", "it is being completed already", {"Retry-After": "2"})
    upload_id = None
    try:
        objects = _join(services, presigned)
        webhook = None
        if presigned.webhook:
            wanted = shapes.UploadWebhook.model_validate(presigned.webhook)
            webhook = webhooks.of_upload(services, presigned.key_id, wanted)
        taken = arrivals.take_in(services, presigned.video_id, keys.presigned(presigned.id), objects, webhook=webhook)
        upload_id = taken.upload.upload_id
        return taken
    finally:
        records.end_completion(presigned.id, upload_id)


def _join(services: Services, presigned: Presigned) -> tuple[DropObject, ...]:
    """Files in parts are joined, and everything is there. Raises Refused (409) naming what is missing."""
    bucket, prefix = services.settings.s3_media, keys.presigned(presigned.id)
    there = {item.key for item in services.objects.listing(bucket, prefix)}
    for file in presigned.files:
        if file.parts_id and prefix + file.path not in there:
            parts = services.objects.parts(bucket, prefix + file.path, file.parts_id)
            if {number: size for number, (_, size) in parts.items()} == _part_sizes(file.size):
                sent = [{"ETag": parts[number][0]} for number in sorted(parts)]
                services.objects.finish_parts(bucket, prefix + file.path, file.parts_id, sent)
    found = {item.key: item for item in services.objects.listing(bucket, prefix)}
    missing = [f.path for f in presigned.files if prefix + f.path not in found or found[prefix + f.path].size != f.size]
    if missing:
        raise Refused(
            409, "incomplete", f"{len(missing)} file(s) are missing or of another size", missing=missing[:100]
        )
    return tuple(found[prefix + file.path] for file in presigned.files)
