"""What an operator sees of an asset in the Dagster UI: counts, content ids, links, and the report of a refusal.

Names and texts in a package are a stranger's: they are escaped before they stand in Markdown. Tables are cut at 20
rows, because each materialization keeps its metadata for ever; the whole is in the metadata store.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from hls_pipeline import replicas, settings
from hls_pipeline.metadata_store import InventoryFile, Version
from hls_pipeline.uploads import State, Upload

_ROWS = 20


def package_rules(upload: Upload) -> dg.AssetCheckResult:
    """The report as an asset check: red when the package was refused."""
    report = upload.report or {}
    errors, warnings = report.get("errors", []), report.get("warnings", [])
    refused = upload.state is State.REJECTED or upload.incomplete
    return dg.AssetCheckResult(
        passed=not refused,
        check_name="package_rules",
        asset_key="s3_segments",
        description=_summary(upload, errors),
        metadata={"errors": len(errors), "warnings": len(warnings), "findings": _findings([*errors, *warnings])},
    )


def inventory(upload: Upload, files: Sequence[InventoryFile]) -> dict[str, Any]:
    media = [file for file in files if not file.is_playlist]
    return {
        "directory": _cid(upload.root or ""),
        "profile": upload.profile or "",
        "files": len(media),
        "playlists": len(files) - len(media),
        "bytes": sum(file.size for file in files),
        "roles": dg.MetadataValue.json(dict(Counter(file.role for file in files))),
        "media": dg.MetadataValue.json(upload.facts or {}),
        "inventory": _table([{"path": f.path, "role": f.role, "bytes": f.size, "cid": f.cid} for f in files[:_ROWS]]),
    }


def version(upload: Upload, newest: Version | None) -> dict[str, Any]:
    """The row of the version table that the upload's revision has reached, 0 before the first, and where to read on."""
    gateway = (settings.load().gateway_url or "").rstrip("/")
    page = dg.MetadataValue.url(f"{gateway}/videos/{upload.video_id}")
    if newest is None:
        return {"version": 0, "page": page}
    document = dg.MetadataValue.url(f"{gateway}/v1/videos/{upload.video_id}/versions/{newest.n}")
    return {"version": newest.n, "hash": newest.hash, "page": page, "read version": document}


def document(newest: Version | None) -> dict[str, Any]:
    if newest is None:
        return {}
    content = json.loads(newest.document)
    return {
        "status": str(content.get("status")),
        "play": str(content.get("play")),
        "document": dg.MetadataValue.json(_shortened(content)),
    }


def proof(receipts: Iterable[Mapping[str, Any]], root: str, opens: str) -> dict[str, Any]:
    """`opens` is the path inside the directory that a person may want to see."""
    rows = [receipt for receipt in receipts if receipt.get("root") == root][-_ROWS:]
    names = ("level", "node", "node_version", "answered", "at")
    return {
        "cid": _cid(root),
        "open": gateway_link(f"{root}/{opens}"),
        "nodes": len({receipt["peer_id"] for receipt in rows}),
        "receipts": _table([{name: row[name] for name in names} for row in rows]),
    }


def on_quorum(receipts: Iterable[Mapping[str, Any]], root: str) -> dg.AssetCheckResult:
    """Whether as many nodes as configured proved `root` complete."""
    wanted = settings.load().ipfs_quorum
    nodes = replicas.proven(receipts, root)
    return dg.AssetCheckResult(
        passed=len(nodes) >= wanted,
        description=f"{len(nodes)} node(s) read every block from their disk; {wanted} wanted",
        metadata={"cid": _cid(root), "nodes": dg.MetadataValue.json(sorted(nodes))},
    )


def deletion(receipts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = receipts[-1] if receipts else {}
    return {
        "objects removed": len(last.get("removed", ())),
        "evidence": dg.MetadataValue.json(list(last.get("evidence", ()))),
    }


def _summary(upload: Upload, errors: Sequence[Mapping[str, Any]]) -> str:
    if upload.incomplete:
        return f"files are missing; the folder may be completed until {upload.not_before}"
    if not errors:
        return "accepted"
    first = errors[0]
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    place = f"{first['path']}:{first['line']}" if first.get("line") else first["path"]
    return f"refused: {first['code']} at {place}: {first['message']}{more}"


def _findings(found: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    rows = [
        f"| {_plain(f['code'])} | {_plain(f['path'])} | {f['line'] or ''} | {_plain(f['message'])} |"
        for f in found[:_ROWS]
    ]
    return dg.MetadataValue.md("\n".join(["| code | file | line | what |", "|---|---|---|---|", *rows]))


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    names = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(_plain(row[name]) for name in names) + " |" for row in rows]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return dg.MetadataValue.md("\n".join([*head, *lines]))


def _plain(text: object) -> str:
    """Foreign text that Markdown takes for nothing but text."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", str(text)).replace("\n", " ")[:200]


def _cid(cid: str) -> str:
    return f"ipfs://{cid}"


def gateway_link(path: str) -> dg.UrlMetadataValue:
    """The address at the first node's gateway."""
    gateways = settings.load().ipfs_gateway_urls
    return dg.MetadataValue.url(f"{gateways[0]}/ipfs/{quote(path)}" if gateways else f"ipfs://{quote(path)}")


def _shortened(content: dict[str, Any]) -> dict[str, Any]:
    """The document with its list of segments cut: a long video has thousands."""
    assets = dict(content.get("video_assets", {}))
    segments = assets.get("segments", [])
    if len(segments) > _ROWS:
        assets["segments"] = [*segments[:_ROWS], f"… {len(segments) - _ROWS} more"]
    return {**content, "video_assets": assets}
