"""Reading: the list, a video's document now or at a time, its versions, its proof, and how far it has come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BeforeValidator

from hls_pipeline import clock, keys
from hls_pipeline.errors import NotFound
from hls_pipeline.gateway import progress, shapes
from hls_pipeline.gateway.access import Reader
from hls_pipeline.gateway.openapi import Responses, example, refusals
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.routing import Router
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.metadata_store import Version
from hls_pipeline.uploads import State, Upload

router = Router(prefix="/v1/videos", tags=["videos"])

VideoId = Annotated[str, Path(description="the video's id", examples=["video_123"])]


def _dated(text: str | None) -> str | None:
    """A number alone would be taken for seconds since 1970."""
    if text is not None and text.removeprefix("-").replace(".", "").isdigit():
        raise ValueError("write a date and a time, as RFC 3339 does")
    return text


_NOT_CACHED = {"Cache-Control": "no-cache"}
_ETAG = {"ETag": {"description": "for `If-None-Match` and `If-Match`", "schema": {"type": "string"}}}
_CONDITIONAL: Responses = {
    200: {"headers": _ETAG},
    304: {"description": "it is still what `If-None-Match` names", "headers": _ETAG},
}


@router.get("", summary="All videos, by id or the newest first", response_model=shapes.VideoList)
def list_videos(
    services: ServicesDep,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 100,
    after: Annotated[str, Query(max_length=64, description="`next` of the page before")] = "",
    order: Annotated[Literal["id", "newest"], Query(description="`newest`: by the newest arrival of each")] = "id",
) -> dict[str, Any]:
    if after and not keys.is_video_id(after):
        raise Refused(400, "bad_request", "after is not from the page before")
    page = services.store.videos if order == "id" else services.store.newest_videos
    uploads = page(limit, after)
    last = uploads[-1] if len(uploads) == limit else None
    return {
        "videos": [progress.about(upload, services.store) for upload in uploads],
        "next": last and (last.video_id if order == "id" else last.upload_id),
    }


@router.get(
    "/{video_id}",
    summary="The metadata document, now or as of a time",
    description="While the video is on its way this is the temporary document, afterwards the final one. A video that "
    "never had a document has one made of its status alone. `status` says `failed` or `withdrawn` where that is so.",
    response_model=shapes.Document,
    responses=_CONDITIONAL | {200: {"headers": _ETAG, **example(shapes.FINAL)}} | refusals(404, 412),
)
def video(
    video_id: VideoId,
    request: Request,
    services: ServicesDep,
    _: Reader,
    as_of: Annotated[
        datetime | None, BeforeValidator(_dated), Query(description="RFC 3339; the document readers got at that time")
    ] = None,
) -> Response:
    check_id(video_id)
    if as_of is not None:
        return _answer(request, services.store.as_of(video_id, _in_utc(as_of)).document)
    return _answer(request, current(services, video_id))


@router.get(
    "/{video_id}/versions",
    summary="Every document the video ever had, with who, when and why",
    response_model=shapes.Versions,
    responses=refusals(404),
)
def versions(video_id: VideoId, services: ServicesDep, _: Reader) -> dict[str, Any]:
    check_id(video_id)
    cids = services.store.document_cids(video_id)
    found = [version_json(item, cids) for item in services.store.versions(video_id)]
    return {"video_id": video_id, "versions": found}


@router.get(
    "/{video_id}/versions/{n}",
    summary="One version",
    response_model=shapes.VersionItem,
    responses=refusals(404),
)
def version(
    video_id: VideoId, n: Annotated[int, Path(ge=1, le=2**31 - 1)], services: ServicesDep, _: Reader
) -> dict[str, Any]:
    check_id(video_id)
    return version_json(services.store.version(video_id, n), services.store.document_cids(video_id))


@router.get(
    "/{video_id}/status",
    summary="How far the newest arrival has come",
    response_model=shapes.Status,
    responses=_CONDITIONAL | refusals(404, 412),
)
def status(video_id: VideoId, request: Request, services: ServicesDep, _: Reader) -> Response:
    check_id(video_id)
    return _answer(request, _text(progress.about(latest(services, video_id), services.store, full=True)))


@router.get(
    "/{video_id}/proof",
    summary="Which IPFS nodes proved to hold it, and what was removed from S3 on that",
    response_model=shapes.Proof,
    responses=refusals(404),
)
def proof(video_id: VideoId, services: ServicesDep, _: Reader) -> dict[str, Any]:
    check_id(video_id)
    upload = services.store.current_upload(video_id) or latest(services, video_id)
    receipts = services.store.receipts(upload.upload_id)
    return {
        "video_id": video_id,
        "revision": upload.revision,
        "state": upload.state,
        "directory": upload.root,
        "record": upload.record,
        "blocks": upload.blocks,
        "proofs": [receipt for receipt in receipts if receipt["kind"] == "proof"],
        "deletions": [receipt for receipt in receipts if receipt["kind"] == "deletion"],
    }


def version_json(item: Version, cids: Mapping[int, str]) -> dict[str, Any]:
    return {
        "n": item.n,
        "revision": item.revision,
        "time": clock.text(item.time),
        "actor": item.actor,
        "reason": item.reason,
        "run_id": item.run_id,
        "document": json.loads(item.document),
        "document_sha256": item.document_sha256,
        "previous_hash": item.previous_hash,
        "hash": item.hash,
        "cid": cids.get(item.n),
    }


def latest(services: Services, video_id: str) -> Upload:
    """The newest arrival. Raises NotFound."""
    upload = services.store.latest_upload(video_id)
    if upload is None:
        raise NotFound(f"video {video_id}: not known here")
    return upload


def _in_utc(moment: datetime) -> datetime:
    """Raises Refused (400) for one that lies in the year 0 or 10000 there."""
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise Refused(400, "bad_request", "as_of is no moment that can be written in UTC") from error


def current(services: Services, video_id: str) -> str:
    """The current document as it is stored; only its status is another once the arrival came to a bad end."""
    shown = services.records.shown(video_id)
    if shown.document is None:
        without: dict[str, Any] = {"video_id": video_id, "revision": None, "status": str(shown.state)}
        return _text({**without, "report": shown.report} if shown.state is State.REJECTED else without)
    ended = shown.state in (State.FAILED, State.WITHDRAWN)
    if ended and shown.upload_revision == shown.revision:  # the document was true when it was written
        return _text({**json.loads(shown.document), "status": str(shown.state)})
    return shown.document


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _answer(request: Request, text: str) -> Response:
    body = text.encode()
    etag = etag_of(body)
    require_match(request, etag)
    headers = {**_NOT_CACHED, "ETag": etag}
    if names_etag(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=JSONResponse.media_type, headers=headers)


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def require_match(request: Request, etag: str) -> None:
    """Raises Refused (412) where `If-Match` does not name `etag`, compared strongly (RFC 9110 section 13.1.1)."""
    named = [item.strip() for header in request.headers.getlist("if-match") for item in header.split(",")]
    if named and not {etag, "*"}.intersection(named):
        raise Refused(412, "precondition_failed", f"it is not what If-Match names; its ETag is {etag} now")


def names_etag(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names `etag`, compared weakly (RFC 9110 section 13.1.2)."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in (etag, "*") for item in header.split(","))


def check_id(video_id: str) -> None:
    if not keys.is_video_id(video_id):
        raise NotFound("there is no such video: this is no video id")
