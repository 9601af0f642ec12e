"""Every S3 key, IPFS path and public address is spelled here.

Add a function when a new kind of object appears. Nothing here talks to a service.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import quote

READY, REJECTED = "_READY", "_REJECTED.json"
"""Marks that stand beside a package in the inbox."""
METADATA = "metadata.json"
RECORD_INVENTORY = "inventory.json"
ANCHORS, INVENTORIES = "_anchors/", "_inventory/"
"""Folders in the media bucket; no video id begins with `_`."""
ARRIVALS = "_arrivals/"
"""Where packages wait in the media bucket that came through the gateway; never served. No lifecycle rule may name it: a
server that notes at the put when an object is to end takes that along when it renames it."""
PRESIGNED = "_uploads/"
"""Where packages wait in the media bucket that their senders put there themselves; never served."""

VIDEO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_SAFE_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


def is_video_id(text: str) -> bool:
    return VIDEO_ID.fullmatch(text) is not None


def inbox(video_id: str, path: str = "") -> str:
    """Key in the inbox bucket of a file of a drop."""
    return f"{video_id}/{path}"


def arrival(arrival_id: str, path: str = "") -> str:
    """Key in the media bucket of a file of a package that came through the gateway."""
    return f"{ARRIVALS}{arrival_id}/{path}"


def presigned(arrival_id: str, path: str = "") -> str:
    """Key in the media bucket of a file that its sender put there."""
    return f"{PRESIGNED}{arrival_id}/{path}"


def revision(video_id: str, number: int) -> str:
    """Prefix in the media bucket of everything that belongs to one revision."""
    return f"{video_id}/r{number}/"


def media(video_id: str, number: int, cid: str, path: str) -> str:
    """A media file, under its content id; the extension stays, players refuse segments without one."""
    return f"{revision(video_id, number)}media/{cid}{suffix(path)}"


def original(video_id: str, number: int, path: str) -> str:
    """A playlist as the creator sent it."""
    return f"{revision(video_id, number)}original/{path}"


def stored(video_id: str, number: int, cid: str, path: str, *, playlist: bool) -> str:
    """Where a published file lies as the creator sent it."""
    return original(video_id, number, path) if playlist else media(video_id, number, cid, path)


def unreferenced(video_id: str, number: int, path: str) -> str:
    """A file that no playlist reaches: kept, never published."""
    return f"{revision(video_id, number)}unreferenced/{path}"


def s3_manifest(video_id: str, number: int, path: str) -> str:
    """A playlist whose references are `s3://`."""
    return f"{revision(video_id, number)}s3/{path}"


def current_document(video_id: str) -> str:
    """Where the creator finds the current metadata document, in the media bucket."""
    return f"{video_id}/{METADATA}"


def inventory_export(day: str) -> str:
    """The inventory of a day (`2026-01-05`), in the media bucket."""
    return f"{INVENTORIES}{day}.parquet"


def anchor(time: str, root: str) -> str:
    """The heads of all version chains as of a time, in the media bucket; `root` is what IPFS calls their directory."""
    return f"{ANCHORS}{time}/{root}.json"


def anchor_root(key: str) -> str:
    """The root in the key of an anchor."""
    return PurePosixPath(key).stem


def record_manifest(path: str) -> str:
    """Inside the record directory on IPFS: a playlist with `ipfs://` references."""
    return f"ipfs/{path}"


def record_original(path: str) -> str:
    """Inside the record directory on IPFS: a playlist as the creator sent it."""
    return f"original/{path}"


def suffix(path: str) -> str:
    """The extension of `path` with its dot, lower case; empty where it is no plain one."""
    text = PurePosixPath(path).suffix.lower()
    return text if _SAFE_SUFFIX.fullmatch(text) else ""


def s3_uri(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key}"


def s3_reference(bucket: str, key: str) -> str:
    """An `s3://` URI as it may stand in a playlist: percent-encoded, so that no name can end a quoted string."""
    return f"s3://{bucket}/{quote(key)}"


def ipfs_uri(cid: str) -> str:
    return f"ipfs://{cid}"


def ipfs_reference(cid: str, path: str) -> str:
    """A file by its own CID as it may stand in a playlist; the name keeps its extension visible to players."""
    return f"ipfs://{cid}?filename={quote(PurePosixPath(path).name, safe='')}"


def ipfs_path(root: str, path: str) -> str:
    """A file inside a published directory."""
    return f"ipfs://{root}/{quote(path)}"


def play(video_id: str, path: str) -> str:
    """The one stable playback address, relative to the gateway."""
    return f"/v1/videos/{video_id}/play/{quote(path)}"
