"""The HTTP gateway: `/ipfs/<cid>[/path]` as files, listings, raw blocks and CARs, read only and never cached wrongly.

Answers follow Kubo's path gateway, but content types are those of `hls.content_types`; every block is hashed again on
its way out, and one that is missing or damaged in the middle cuts the connection.
Sources: specs.ipfs.tech/http-gateways (path, trustless), RFC 9110 for ranges and conditions.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import quote, unquote

from hls_pipeline.errors import NotFound, PipelineError, UserError
from hls_pipeline.hls.content_types import content_type, extension
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import Kind, entries, inspect, read_file
from hls_pipeline.local.ipfs_node.blocks import BlockMissing
from hls_pipeline.local.ipfs_node.node import Node, walk
from hls_pipeline.local.ipfs_node.server import App, Request, Response

_IMMUTABLE = "public, max-age=29030400, immutable"
_LISTING = "public, max-age=604800, stale-while-revalidate=2678400"
_METHODS = "GET, HEAD, OPTIONS"
_COMMON = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": _METHODS,
    "Access-Control-Allow-Headers": "Content-Type, Range, User-Agent, X-Requested-With",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, X-Chunked-Output, X-Ipfs-Path, X-Ipfs-Roots",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "sandbox allow-scripts"}
"""Pages of packages run in an origin of their own: all packages share the gateway's."""
_TEXT = {**_COMMON, "Content-Type": "text/plain; charset=utf-8"}
_CAR, _RAW = "application/vnd.ipld.car", "application/vnd.ipld.raw"
_FORMATS = {"car": _CAR, "raw": _RAW}
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*(?:,.*)?")


class _NotAcceptable(UserError):
    """We have the content, but not in this form."""


@dataclass(frozen=True)
class _Target:
    """What a request names."""

    request: Request
    path: str
    """From `/ipfs/`, percent-encoded anew, without a slash at its end."""
    cids: tuple[Cid, ...]
    """The content ids along the path."""

    @property
    def cid(self) -> Cid:
        return self.cids[-1]

    def option(self, name: str) -> str:
        return self.request.query.get(name, [""])[0]

    @property
    def name(self) -> str:
        """What the file is called: `?filename=`, or the last part of the path."""
        return self.option("filename") or unquote(self.path.rpartition("/")[2])

    def headers(self, etag: str) -> dict[str, str]:
        roots = ",".join(map(str, self.cids))
        found = {"ETag": etag, "Cache-Control": _IMMUTABLE, "X-Ipfs-Path": self.path, "X-Ipfs-Roots": roots}
        if self.option("filename"):
            found["Content-Disposition"] = _disposition("inline", self.name)
        if self.option("download") == "true":
            found["Content-Disposition"] = _disposition("attachment", self.name)
        return {**_COMMON, **found}


def app(node: Node) -> App:
    return App(lambda request: _answer(node, request), _error)


def _answer(node: Node, request: Request) -> Response:
    if request.method == "OPTIONS":
        return Response(200, _COMMON)
    if request.method not in ("GET", "HEAD"):
        message = f"Method {request.method} not allowed: read only access\n"
        return Response(405, {**_TEXT, "Allow": _METHODS}, message.encode())
    if not request.path.startswith("/ipfs/"):
        return Response(404, _TEXT, b"404 page not found\n")
    try:
        return _found(node, request)
    except BlockMissing as error:
        if "only-if-cached" not in request.headers.get("Cache-Control", ""):
            raise
        return Response(412, _TEXT, f"{error}\n".encode())


def _found(node: Node, request: Request) -> Response:
    names = [name for name in unquote(request.path, errors="surrogateescape").split("/") if name][1:]
    if not names:
        raise UserError("no content id follows /ipfs/")
    walked: list[Block] = []
    target = _Target(request, _quoted("/ipfs/" + "/".join(names)), _descend(node, names, walked))
    form = _form(target)
    if form == _RAW:
        return _raw(node, target)
    if form == _CAR:
        return _car(node, target, walked)
    return _unixfs(node, target)


def _descend(node: Node, names: list[str], walked: list[Block]) -> tuple[Cid, ...]:
    """The content ids along a path; the blocks that had to be read for it go to `walked`. NotFound; UserError."""

    def load(cid: Cid) -> bytes:
        walked.append((cid, node.store.read(cid)))
        return walked[-1][1]

    cids = [Cid.parse(names[0])]
    for name in names[1:]:
        cids.append(node.descend(cids[-1], [name], load))
    return tuple(cids)


def _form(target: _Target) -> str:
    """The content type of a trustless answer, or nothing for files and listings. `?format=` wins (IPIP-523)."""
    wanted = target.option("format")
    if wanted:
        if wanted not in _FORMATS:
            raise _NotAcceptable(f"format={wanted[:40]} is not served here; car and raw are")
        return _FORMATS[wanted]
    accepted = [part.partition(";")[0].strip().lower() for part in target.request.headers.get("Accept", "").split(",")]
    return next((form for form in (_RAW, _CAR) if form in accepted), "")


def _raw(node: Node, target: _Target) -> Response:
    etag = f'"{target.cid}.raw"'
    name = target.option("filename") or f"{target.cid}.bin"
    headers = {**target.headers(etag), "Content-Type": _RAW, "Content-Disposition": _disposition("attachment", name)}
    if _is_cached(target, etag):
        return Response(304, headers)
    return Response(200, headers, node.store.read(target.cid))


def _car(node: Node, target: _Target, walked: list[Block]) -> Response:
    """The blocks that prove the path, then those below its end, each once and depth first."""
    scope = target.option("dag-scope") or "all"
    if scope not in ("all", "entity", "block"):
        raise UserError(f"dag-scope={scope[:40]} is none of all, entity, block")
    if (target.option("car-version") or "1") != "1":
        raise _NotAcceptable("only version 1 of CAR is served here")
    etag = f'W/"{target.cid}.car.{scope}"'
    name = target.option("filename") or f"{target.cid}.car"
    headers = {
        **target.headers(etag),
        "Content-Type": f"{_CAR}; version=1; order=dfs; dups=n",
        "Content-Disposition": _disposition("attachment", name),
        "Accept-Ranges": "none",
    }
    if _is_cached(target, etag):
        return Response(304, headers)
    node.store.size(target.cid)
    return Response(200, headers, car.write_car([target.cid], _scoped(node, target.cid, scope, walked)))


def _scoped(node: Node, cid: Cid, scope: str, walked: list[Block]) -> Iterator[Block]:
    seen = {bytes(passed) for passed, _ in walked}
    yield from walked
    if scope == "all":
        yield from walk([cid], node.store.read, seen)
        return
    data = node.store.read(cid)
    if scope == "entity" and inspect(cid, data).kind is Kind.FILE:
        yield from walk([cid], node.store.read, seen)
        return
    own: list[Block] = [(cid, data)]
    if scope == "entity" and inspect(cid, data).kind is Kind.DIRECTORY:
        own = []
        for _ in entries(cid, lambda shard: _noted(own, shard, node.store.read(shard))):
            pass
    yield from (block for block in own if bytes(block[0]) not in seen)


def _noted(blocks: list[Block], cid: Cid, data: bytes) -> bytes:
    blocks.append((cid, data))
    return data


def _unixfs(node: Node, target: _Target) -> Response:
    what = inspect(target.cid, node.store.read(target.cid))
    if what.kind is Kind.DIRECTORY:
        return _directory(node, target)
    if what.kind is Kind.SYMLINK:
        raise NotFound(f"{target.path} is a symlink; they are not followed")
    return _file(node, target, what.size)


def _directory(node: Node, target: _Target) -> Response:
    if not target.request.path.endswith("/"):
        query = f"?{target.request.raw_query}" if target.request.raw_query else ""
        return Response(301, {**_TEXT, "Location": f"{target.path}/{query}"}, b"Moved Permanently\n")
    try:
        index = node.descend(target.cid, ["index.html"])
    except BlockMissing:
        raise
    except NotFound:
        return _listing(node, target)
    page = _Target(target.request, f"{target.path}/index.html", (*target.cids, index))
    return _unixfs(node, page)


def _listing(node: Node, target: _Target) -> Response:
    etag = f'"DirIndex-1_CID-{target.cid}"'
    headers = {
        **target.headers(etag),
        "Cache-Control": _LISTING,
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    if _is_cached(target, etag):
        return Response(304, headers)
    return Response(200, headers, _page(node, target))


def _page(node: Node, target: _Target) -> Iterator[bytes]:
    title = html.escape(unquote(target.path))
    yield (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em}td{padding:0 1.5em 0 0}"
        "td+td{text-align:right}</style></head>\n"
        f"<body><h1>{title}</h1>\n<table>\n"
    ).encode("utf-8", "replace")
    if len(target.cids) > 1:
        yield b'<tr><td><a href="..">..</a></td><td></td></tr>\n'
    for entry in entries(target.cid, node.store.read):
        href = html.escape("./" + _quoted(entry.name))
        name = html.escape(entry.name)
        row = f'<tr><td><a href="{href}">{name}</a></td><td title="{entry.cid}">{entry.tsize:,}</td></tr>\n'
        yield row.encode("utf-8", "replace")
    yield b"</table></body></html>\n"


def _file(node: Node, target: _Target, size: int) -> Response:
    etag = f'"{target.cid}"'
    headers = {**target.headers(etag), "Accept-Ranges": "bytes", "Content-Type": content_type(target.name)}
    if extension(target.name) == ".html":
        headers |= _PAGE
    if _is_cached(target, etag):
        return Response(304, headers)
    wanted = _range(target.request.headers, etag, size)
    if wanted is None:
        return Response(200, {**headers, "Content-Length": str(size)}, read_file(target.cid, node.store.read))
    start, end = wanted
    if start >= end:
        refused = {**headers, **_TEXT, "Content-Range": f"bytes */{size}"}
        return Response(416, refused, b"invalid range: failed to overlap\n")
    part = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return Response(206, {**headers, **part}, read_file(target.cid, node.store.read, start, end))


def _range(headers: Message, etag: str, size: int) -> tuple[int, int] | None:
    """The first range asked for, as start and end; an empty one if it lies outside; None for the whole file."""
    match = _RANGE.fullmatch(headers.get("Range", ""))
    if not match or not (match[1] or match[2]) or headers.get("If-Range", etag) != etag:
        return None
    if not match[1]:
        return max(size - int(match[2]), 0), size
    start, end = int(match[1]), min(int(match[2] or size), size - 1) + 1
    if match[2] and int(match[2]) < start:
        return None
    return start, end


def _is_cached(target: _Target, etag: str) -> bool:
    known = target.request.headers.get("If-None-Match", "")
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags


def _error(error: PipelineError) -> Response:
    status = 500
    if isinstance(error, NotFound):
        status = 404
    elif isinstance(error, _NotAcceptable):
        status = 406
    elif isinstance(error, UserError):
        status = 400
    return Response(status, _TEXT, f"{error}\n".encode("utf-8", "replace"))


def _disposition(kind: str, name: str) -> str:
    """RFC 6266: a plain name for old clients, the true one for all others."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def _quoted(path: str) -> str:
    return quote(path, errors="surrogateescape")
