"""The pages people look at: all videos, and one video with player, progress, versions and where its bytes are.

Everything is rendered here; the script only watches for changes, fetches the page again and exchanges the parts marked
`data-live`. Every text is escaped by the templates, and the policy allows no script but our own files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.staticfiles import StaticFiles
from starlette.types import Scope as AsgiScope

from hls_pipeline import clock, evidence, keys
from hls_pipeline.errors import NotFound
from hls_pipeline.gateway import access, progress, sessions
from hls_pipeline.gateway.access import Caller, CallerDep, Scope
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.videos import latest
from hls_pipeline.metadata_store import Version
from hls_pipeline.uploads import IN_WORK, State, Upload

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
_PER_PAGE = 60
_ENDED = frozenset({State.REJECTED, State.SUPERSEDED, State.UNCHANGED, State.WITHDRAWN})
"""How far such an arrival had come says nothing any more."""

TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class _Static(StaticFiles):
    """Our own few files; asked for anew each time, answered by 304."""

    async def get_response(self, path: str, scope: AsgiScope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "public, no-cache"
        return answer


def install(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/static", _Static(directory=_HERE / "static"), name="static")


@router.api_route("/", methods=["GET", "HEAD"])
def index(
    request: Request, services: ServicesDep, caller: CallerDep, after: str = "", refused: bool = Query(default=False)
) -> Response:
    visitor = _visitor(request, services, caller)
    uploads = services.store.newest_videos(_PER_PAGE + 1, after[:32]) if visitor.reads else ()
    shown = uploads[:_PER_PAGE]
    return _page(
        request,
        services,
        visitor,
        "index.html",
        cards=[_card(upload, services) for upload in shown],
        next=shown[-1].upload_id if len(uploads) > _PER_PAGE else None,
        refused=refused,
        first=not after,
    )


@router.api_route("/videos/{video_id}", methods=["GET", "HEAD"])
def video(video_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    visitor = _visitor(request, services, caller)
    if not visitor.reads:
        return _page(request, services, visitor, "sign_in.html", refused=False)
    try:
        if not keys.is_video_id(video_id):
            raise NotFound("this is no video id")
        upload = latest(services, video_id)
    except NotFound:
        return _page(request, services, visitor, "missing.html", status=404, video_id=video_id[:80])
    found = services.store.versions(video_id)
    current = services.store.current(video_id)
    about = progress.about(upload, services.store, full=True)
    document = json.loads(current.document) if current else None
    # An arrival that was refused, or changed nothing, is no revision: the one before it is still what there is.
    held = upload if upload.revision else services.store.current_upload(video_id) or upload
    return _page(
        request,
        services,
        visitor,
        "video.html",
        upload=upload,
        about=about,
        document=document,
        version=current.n if current else 0,
        title=_title(upload, document),
        timeline=list(_timeline(found)),
        places=_places(services, held),
        links=list(_links(request, services, video_id, document)),
        facts=_facts(held, about),
        nothing=document is None or "video_assets" not in document,
        ended=_ENDED,
        usually_off=services.metrics.usually_off(),
    )


# ---- who looks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Visitor:
    reads: bool
    writes: bool
    session: str | None
    """A new one, to be set."""
    signed_in: bool


def _visitor(request: Request, services: Services, caller: Caller) -> _Visitor:
    session = access.session_for_visitor(request)
    writes = caller.may(Scope.WRITE) or session is not None
    reads = services.settings.public_read or caller.may(Scope.READ) or session is not None
    return _Visitor(reads, writes, session, caller.key_id is not None and services.settings.page_key is None)


def _page(
    request: Request, services: Services, visitor: _Visitor, template: str, status: int = 200, **values: Any
) -> Response:
    text = TEMPLATES.get_template(template).render(visitor=visitor, **values)
    headers = {
        "Content-Security-Policy": _policy(services),
        "Cache-Control": "private, no-store",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
    answer = HTMLResponse(text, status, headers)
    if visitor.session:
        sessions.set_cookie(answer, visitor.session, secure=request.url.scheme == "https")
    return answer


def _policy(services: Services) -> str:
    """Media may come from elsewhere only where we send viewers there. hls.js makes a track for subtitles of `data:`."""
    media = "'self'"
    if services.settings.play == "redirect":
        settings = services.settings
        addresses = (
            settings.public_s3_endpoint or settings.s3_endpoint,
            settings.public_ipfs_gateway or settings.ipfs_gateway_urls[0],
        )
        origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, filter(None, addresses))}
        media = " ".join(["'self'", *sorted(origins)])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"media-src {media} blob: data:; connect-src {media}; "
        f"worker-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


# ---- what they see --------------------------------------------------------------------------------------------------


def _card(upload: Upload, services: Services) -> dict[str, Any]:
    in_work = upload.state in IN_WORK
    about = progress.about(upload, services.store, full=in_work)
    return {**about, "percent": about.get("percent", 100), "in_work": in_work, "heading": _title(upload, None)}


def _title(upload: Upload, document: Mapping[str, Any] | None) -> str:
    found = progress.title(upload) or (document or {}).get("title")
    return found if isinstance(found, str) and found.strip() else upload.video_id


def _facts(upload: Upload, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = upload.facts or {}
    shown = [("Revision", f"r{upload.revision}" if upload.revision else "none yet")]
    if isinstance(facts.get("duration"), int | float):
        shown.append(("Duration", duration(facts["duration"])))
    if facts.get("unprotected"):
        shown.append(("Protection", "none: its keys are published"))
    shown.append(("Size", size(upload.size if upload.size is not None else upload.drop.bytes)))
    shown.append(("Files", f"{len(upload.drop.objects):,}"))
    if (off := about["estimate_off_seconds"]) is not None:
        shown.append(("Against the estimate", f"{span(abs(off))} {'later' if off > 0 else 'earlier'}"))
    return shown


def _timeline(found: tuple[Version, ...]) -> Iterator[dict[str, Any]]:
    """Newest first, each with what it changed."""
    parsed = [(version, json.loads(version.document)) for version in found]
    for at in range(len(parsed) - 1, -1, -1):
        version, document = parsed[at]
        reason, seal = evidence.unsealed(version.reason)
        yield {
            "n": version.n,
            "revision": version.revision,
            "time": version.time,
            "actor": version.actor,
            "reason": reason,
            "seal": seal,
            "hash": version.hash,
            "status": document.get("status"),
            "changes": list(_differences(parsed[at - 1][1], document)) if at else [],
        }


def _differences(before: Any, after: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """Field by field; what a field holds is shortened for the page."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            path = f"{name}.{key}" if name else key
            if key not in after:
                yield {"name": path, "before": _short(before[key]), "after": None}
            elif key not in before:
                yield {"name": path, "before": None, "after": _short(after[key])}
            else:
                yield from _differences(before[key], after[key], path)
    elif before != after:
        yield {"name": name, "before": _short(before), "after": _short(after)}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= 120:
        return text
    if isinstance(value, list):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}, first {_short(value[0])}"
    return f"{text[:117]}…"


def _places(services: Services, upload: Upload) -> dict[str, Any]:
    """Where the bytes of a revision are now."""
    waiting = services.store.temp_objects(upload.upload_id)
    held = [item for item in waiting if item.etag]
    proofs: dict[str, dict[str, Any]] = {}
    behind: dict[str, datetime] = {}
    removed_at, odd = None, None
    for receipt in services.store.receipts(upload.upload_id):
        at = clock.parse(receipt["time"])
        if receipt["kind"] == "deletion":
            removed_at = at
        elif receipt.get("finding") == "object_changed":
            odd = receipt
        elif receipt.get("root") != upload.root:
            continue
        elif receipt["kind"] == "proof":
            proofs[receipt["peer_id"]] = {"level": receipt["level"].replace("_", " "), "at": clock.parse(receipt["at"])}
            behind.pop(receipt["node"], None)
        elif receipt.get("finding") == "node_behind":
            behind[receipt["node"]] = at
    return {
        "objects": len(held),
        "bytes": sum(item.size for item in held),
        "due": any(item.due_at for item in waiting),
        "removed_at": removed_at,
        "odd": odd,
        "nodes": [{"peer": peer, **proof} for peer, proof in sorted(proofs.items())],
        "behind": [] if upload.state is State.WITHDRAWN else sorted(behind.items()),
        "root": upload.root if proofs else None,
        "missing": max(0, services.settings.ipfs_quorum - len(proofs)),
        "let_go": upload.state is State.WITHDRAWN,
    }


def _links(
    request: Request, services: Services, video_id: str, document: Mapping[str, Any] | None
) -> Iterator[tuple[str, str, bool]]:
    """(what, address, may be opened)."""
    base = f"{request.url.scheme}://{request.url.netloc}"
    if document is None:
        return
    yield "Metadata", f"{base}/v1/videos/{video_id}", True
    if "video_assets" not in document:  # it was withdrawn
        return
    yield "Play", f"{base}{document['play']}", True
    assets = document["video_assets"]
    if "ipfs_directory" in assets:
        root = str(assets["ipfs_directory"]).removeprefix("ipfs://")
        gateway = (services.settings.public_ipfs_gateway or services.settings.ipfs_gateway_urls[0]).rstrip("/")
        yield "IPFS gateway", f"{gateway}/ipfs/{root}/{assets['playlist']}", True
        yield "IPFS directory", str(assets["ipfs_directory"]), False
        yield "IPFS playlist", str(assets["ipfs_m3u8"]), False
    else:
        yield "S3 manifest", str(document["s3_manifest"]), False


# ---- how it is written ----------------------------------------------------------------------------------------------


def size(count: int | None) -> str:
    if count is None:
        return "–"
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return (
        f"{count} bytes"
        if units[0] == "bytes"
        else f"{value:.3g} {units[0]}"
        if value < 100
        else f"{value:.0f} {units[0]}"
    )


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def span(seconds: float) -> str:
    """About how long: `0.4 s`, `40 min`, `3.5 h`. The script has the same."""
    if seconds < 100:
        return f"{round(seconds, 1):g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


_WORDS = {
    State.RECEIVED: "Received",
    State.STAGED: "Moving to IPFS",
    State.PINNED: "On IPFS",
    State.PUBLISHED: "Published",
    State.CLEARED: "Published",
    State.REJECTED: "Refused",
    State.FAILED: "Failed",
    State.SUPERSEDED: "Superseded",
    State.UNCHANGED: "Unchanged",
    State.WITHDRAWN: "Withdrawn",
}

_FILTERS: dict[str, Callable[..., Any]] = {
    "size": size,
    "span": span,
    "state": lambda state: _WORDS[State(state)],
    "moment": lambda moment: f"{_moment(moment):%d %b %Y, %H:%M:%S} UTC",
    "iso": lambda moment: clock.text(_moment(moment)),
    "hue": lambda video_id: zlib.crc32(video_id.encode()) % 5,
    "short_cid": lambda cid: f"{cid[:12]}…{cid[-6:]}" if len(cid) > 24 else cid,
}


def _moment(value: datetime | str) -> datetime:
    return clock.parse(value) if isinstance(value, str) else value


TEMPLATES.filters.update(_FILTERS)
