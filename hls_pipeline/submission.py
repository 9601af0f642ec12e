"""Sending a package to the inbox and following it, as any creator's program may do.

`send` puts the files and, last, the marker; `follow` watches the metadata store until the upload is where one wants
it. Only names are judged here, because they become keys: all else is the pipeline's own work.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hls_pipeline import keys
from hls_pipeline.errors import Conflict, ObjectMissing, UsageError
from hls_pipeline.hls.content_types import content_type
from hls_pipeline.hls.findings import refuse
from hls_pipeline.hls.paths import path_fault
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.sources import Source
from hls_pipeline.metadata_store import MetadataStore, Version
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.uploads import IN_WORK, State, Upload

Progress = Callable[[int], None]
"""Told how many more bytes went."""

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Sent:
    """A package in the inbox, and when S3 says it was marked ready."""

    video_id: str
    ready: datetime | None
    """None: it was taken up before we could ask."""


def send(
    source: Source,
    metadata: bytes | None,
    video_id: str | None,
    objects: ObjectStore,
    inbox: str,
    progress: Progress = lambda _: None,
) -> Sent:
    """Puts every file and then `_READY`. `progress` is told bytes as they go. Raises UsageError or Conflict for a
    video id that is none, or that contradicts the metadata, and PackageRefused for an unsafe name."""
    sizes = source.sizes()
    for path in sizes:
        if fault := path_fault(path, Limits()):
            refuse("PKG_PATH_UNSAFE", path, f"the file name {fault}")
    if metadata is None and keys.METADATA in sizes:
        metadata = b"".join(source.read(keys.METADATA))
    video_id = choose_video_id(video_id, metadata)

    def put(path: str) -> None:
        pieces = iter([metadata]) if path == keys.METADATA and metadata is not None else source.read(path)
        objects.upload(inbox, keys.inbox(video_id, path), _counted(pieces, progress), content_type(path))

    objects.each(put, [*sizes, *([keys.METADATA] if metadata is not None and keys.METADATA not in sizes else [])])
    ready = keys.inbox(video_id, keys.READY)
    objects.put(inbox, ready, b"", "application/octet-stream")
    try:
        return Sent(video_id, objects.modified(inbox, ready))
    except ObjectMissing:
        return Sent(video_id, None)


def choose_video_id(given: str | None, metadata: bytes | None) -> str:
    """The one given, the one in the metadata (both must agree), or a new one."""
    try:
        named = json.loads(metadata or b"{}").get("video_id")
    except (ValueError, AttributeError, RecursionError):
        named = None  # the pipeline's report says what is wrong with the metadata
    if given and named and given != named:
        raise Conflict(f"--video-id says {given}, metadata.json says {named}; make them agree")
    chosen = given or named or f"video-{secrets.token_hex(6)}"
    if not isinstance(chosen, str) or not keys.is_video_id(chosen):
        raise UsageError(f"{chosen!r} is no video id: letters, digits, - and _, at most 64, the first no - or _")
    return chosen


def follow(sent: Sent, store: MetadataStore) -> Iterator[Upload]:
    """The upload each time its state changes, until it goes no further by itself."""
    seen: State | None = None
    upload_id: str | None = None
    while True:
        uploads = [u for u in store.uploads_of(sent.video_id) if sent.ready in (None, u.drop.ready)]
        upload = next((u for u in reversed(uploads) if upload_id in (None, u.upload_id)), None)
        if upload and upload.state is not seen:
            upload_id = upload.upload_id
            seen = upload.state
            yield upload
            if seen not in IN_WORK:
                return
        time.sleep(_POLL_SECONDS)


def documents(store: MetadataStore, upload: Upload) -> tuple[Version, ...]:
    """The documents of the upload's revision so far, or the current one when the upload changed nothing."""
    if upload.state is State.UNCHANGED:
        current = store.current(upload.video_id)
        return (current,) if current else ()
    return tuple(v for v in store.versions(upload.video_id) if v.revision == upload.revision)


def read_metadata(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--metadata {path}: {error.strerror}") from error


def last_written(package: Path) -> int:
    """When the newest file of the package was last written to, in nanoseconds."""
    files = package.rglob("*") if package.is_dir() else [package]
    return max((path.lstat().st_mtime_ns for path in files), default=0)


def _counted(pieces: Iterator[bytes], progress: Progress) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        progress(len(piece))
