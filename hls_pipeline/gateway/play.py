"""Playback under one stable address: from S3 until `finalize`, from IPFS afterwards, and nobody notices the move.

A file's ETag is its content id, which is the same in both places; should S3 lose an object while it is being sent, the
rest comes from IPFS. Playlists are always sent by us, in their relative form, so that names in them lead back here;
media is streamed or, in redirect mode, sent for to S3 or an IPFS gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from hls_pipeline import keys
from hls_pipeline.errors import NotFound, ObjectChanged, ObjectMissing, Outage, ServiceError
from hls_pipeline.gateway import ranges
from hls_pipeline.gateway.access import Reader
from hls_pipeline.gateway.openapi import Responses, refusals
from hls_pipeline.gateway.problems import Refused, problem, request_id
from hls_pipeline.gateway.records import Playable
from hls_pipeline.gateway.routing import Router
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.videos import VideoId, names_etag, require_match
from hls_pipeline.hls.content_types import CONTENT_TYPES, PLAYLIST_TYPE
from hls_pipeline.hls.paths import path_fault
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.rewriting import relative
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.revisions import Revision
from hls_pipeline.uploads import READY, State

router = Router(prefix="/v1/videos", tags=["playback"])

_IMMUTABLE = "max-age=31536000, immutable"
_REVALIDATED = "no-cache"
"""The next revision may put other bytes under the same name; asking costs a 304."""
_PLAYLIST = "max-age=2"

_OUR_TERMS = frozenset({"if-match", "if-range"})
"""They name an ETag of ours; S3 has others. A presigned address is for GET alone, too: neither is sent elsewhere."""

_MEDIA: dict[str, Any] = {kind: {} for kind in sorted(set(CONTENT_TYPES.values()))}
_ANSWERS: Responses = {
    200: {
        "description": "the whole file",
        "content": {**_MEDIA, PLAYLIST_TYPE: {"example": "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nseg_000.ts\n"}},
    },
    206: {"description": "the range asked for", "content": {**_MEDIA, "text/vtt": {"example": "WEBVTT\n"}}},
    304: {"description": "it is still what `If-None-Match` names"},
    307: {"description": "with HLS_PLAY=redirect: media is at a presigned S3 address, or at an IPFS gateway"},
}

_KNOWN_ENDS = {"video/mp2t": ".m2ts", "video/mp4": ".mp4"}
"""An IPFS gateway tells the type by the end of the name and its machine's table. In Debian's, `.ts` are translations of
Qt programs, and `.m4s` is nothing."""

_PATIENCE_SECONDS = 5.0
"""So long a node may be silent before another is asked, or S3: players give up after ten. One that was is asked last
for a while, and then waited for."""

Origin = Callable[[int, int], Iterator[bytes]]
"""Gives bytes from start to before end."""


@router.get(
    "/{video_id}/play/{path:path}",
    summary="A playlist or media file of the current revision",
    description="Range, If-Range, If-Match and If-None-Match are understood. The ETag is the file's content id. With "
    "`?cid=` and the content id the answer may be kept for ever; with `?revision=` it is of that revision, so that who "
    "watches one is not handed the files of the next.",
    responses=_ANSWERS | refusals(404, 410, 412, 416),
    response_class=Response,
)
def play(
    video_id: VideoId,
    path: str,
    request: Request,
    services: ServicesDep,
    _: Reader,
    cid: str | None = None,
    revision: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> Response:
    found = _find(services, video_id, path, revision)
    if found.state is State.WITHDRAWN:
        raise Refused(410, "withdrawn", f"video {video_id} was withdrawn")
    if cid is not None and cid != found.file.cid:
        raise NotFound(f"video {video_id} has other content at this path now")
    etag = f'"{found.file.cid}"'
    kept = _IMMUTABLE if cid else _PLAYLIST if found.file.is_playlist else _REVALIDATED
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # "public" lets a cache in front give to everybody what was sent to somebody with a key (RFC 9111, 5.2.2.9).
        "Cache-Control": f"{'public' if services.settings.public_read else 'private'}, {kept}",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    require_match(request, etag)
    if names_etag(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if (
        services.settings.play == "redirect"
        and request.method == "GET"
        and _OUR_TERMS.isdisjoint(request.headers)
        and not found.file.is_playlist
        and (found.as_stored or found.state in READY)
    ):
        return _redirect(services, found, lasting=bool(cid or revision))
    return _send(request, services, video_id, found, headers)


def _find(services: Services, video_id: str, path: str, revision: int | None) -> Playable:
    """Raises NotFound, also for every path that no package can have."""
    if not keys.is_video_id(video_id) or path_fault(path, Limits()):
        raise NotFound("there is no such file to play")
    return services.records.playable(video_id, path, services.settings.s3_media, revision)


def _send(request: Request, services: Services, video_id: str, found: Playable, headers: dict[str, str]) -> Response:
    size, kind = found.file.size, found.file.content_type
    try:
        asked = request.headers.get("range") if request.method == "GET" else None  # RFC 9110, 14.2
        span = ranges.parse(asked, request.headers.get("if-range"), headers["ETag"], size)
    except ranges.Unsatisfiable:
        return problem(
            416,
            "range_not_satisfiable",
            f"it has {size} bytes",
            request_id(request),
            {"Content-Range": f"bytes */{size}"},
        )
    start, end = (span.start, span.end) if span else (0, size)
    headers = {**headers, "Content-Length": str(end - start)}
    if span:
        headers["Content-Range"] = span.content_range
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    pieces = _pieces(services, video_id, found, start, end)
    first = next(pieces, b"")  # what cannot be read at all is an error, not a broken answer
    return StreamingResponse(chain((first,), pieces), status, headers, media_type=kind)


def _redirect(services: Services, found: Playable, *, lasting: bool) -> Response:
    """`lasting`: no other file ever has the address that was asked for, so the redirect may be kept for a while."""
    settings, file = services.settings, found.file
    if found.state in READY:
        gateway = settings.public_ipfs_gateway or settings.ipfs_gateway_urls[0]
        name = quote(file.path.rpartition("/")[2] + _KNOWN_ENDS.get(file.content_type, ""), safe="")
        address, seconds = f"{gateway.rstrip('/')}/ipfs/{file.cid}?filename={name}", 60
    else:
        assert file.key is not None
        seconds = settings.presign_seconds
        address = services.objects.presigned_get(settings.s3_media, file.key, file.content_type, seconds)
    kept = f"max-age={seconds // 2}" if lasting else _REVALIDATED
    return RedirectResponse(address, 307, {"Cache-Control": f"private, {kept}"})


# ---- where the bytes come from ----------------------------------------------------------------------------------


def _pieces(services: Services, video_id: str, found: Playable, start: int, end: int) -> Iterator[bytes]:
    """The bytes asked for, from wherever they are when they are needed. Raises the last origin's error when there is
    no other."""
    at, waiting, looked_again = start, _origins(services, found), False
    while at < end:
        origin = waiting.pop(0)
        try:
            for piece in origin(at, end):
                at += len(piece)
                yield piece
            if at < end:
                raise Outage(f"{found.file.path} of video {video_id} ends after {at} bytes")
        except (ServiceError, ObjectMissing, ObjectChanged):
            if not waiting and not looked_again:
                looked_again = True
                now = _find(services, video_id, found.file.path, found.revision)
                waiting = _origins(services, now) if now.file.cid == found.file.cid else []
            if not waiting:
                raise


def _origins(services: Services, found: Playable) -> list[Origin]:
    """The best first. While S3 still has what is on IPFS already, it helps out before a node that lately did not."""
    s3 = _from_s3(services, found) if found.as_stored else partial(_document, services, found)
    if found.state not in READY:
        return [s3]
    on_s3 = [s3] if found.state is State.PUBLISHED else []
    alone = not on_s3 and len(services.nodes) == 1
    patience, late = None if alone else _PATIENCE_SECONDS, [node for node in services.nodes if node.is_late]
    prompt = [node for node in services.nodes if node not in late]
    return [
        *(partial(_from_node, node, patience, found.file.cid) for node in prompt),
        *on_s3,
        *(partial(_from_node, node, None, found.file.cid) for node in late),
    ]


def _from_node(node: Kubo, patience: float | None, cid: str, start: int, end: int) -> Iterator[bytes]:
    try:
        yield from node.read(cid, start, end, patience)
    except Outage:
        node.note_late()
        raise


def _from_s3(services: Services, found: Playable) -> Origin:
    assert found.file.key is not None
    return partial(services.objects.read_range, services.settings.s3_media, found.file.key)


def _document(services: Services, found: Playable, start: int, end: int) -> Iterator[bytes]:
    """A playlist or another file that names files: S3 has the creator's, to be shown is the published form, which is
    made from it, for all documents of the revision at once."""
    data = services.playlists.get(found.file.cid)
    if data is None:
        data = _render(services, found)
    yield data[start:end]


def _render(services: Services, found: Playable) -> bytes:
    """The document asked for; all others of its revision are kept for later, as far as they fit."""
    upload = services.store.upload(found.upload_id)
    files = services.store.inventory(found.upload_id)
    settings = services.settings
    revision = Revision(upload, files, services.objects, settings.s3_media, settings.policy())
    wanted: bytes | None = None
    for document in revision.documents():
        data = relative(document)
        services.playlists.put(revision.by_path[document.path].cid, data)
        if document.path == found.file.path:
            wanted = data
    if wanted is None:
        raise Outage(f"{found.file.path} of upload {found.upload_id} cannot be rendered")
    return wanted
