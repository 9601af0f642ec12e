"""Sending a package to the inbox and following it, as any creator's program may do.

`send` puts the files and, last, the marker; `follow` watches the metadata store until the upload is where one wants
it. Only names are judged here, because they become keys: all else is the pipeline's own work.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hls_pipeline import keys
from hls_pipeline.errors import Conflict, ObjectMissing, UsageError
from hls_pipeline.hls.content_types import content_type
from hls_pipeline.hls.findings import refuse
from hls_pipeline.hls.paths import metadata_path, path_fault
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.sources import Source, open_source
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
    began: datetime
    """S3's time before the first file went."""
    paths: frozenset[str]

    def became(self, upload: Upload) -> bool:
        """Whether it is this upload: that of our mark, or one that took up all we sent just before we could tell."""
        drop = upload.drop
        if None not in (self.ready, drop.ready):
            return self.ready == drop.ready
        is_all = self.paths == {drop.path(item) for item in drop.objects}
        return is_all and any(item.modified >= self.began for item in drop.objects)


@dataclass(frozen=True)
class _Described:
    """A package with another metadata.json than its own, or with one at all."""

    source: Source
    metadata: bytes
    place: str

    def sizes(self) -> Mapping[str, int]:
        return {**self.source.sizes(), self.place: len(self.metadata)}

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        return iter([self.metadata[:limit]]) if path == self.place else self.source.read(path, limit)


@contextmanager
def opened(package: Path, metadata: Path | None) -> Iterator[Source]:
    """A folder, zip or tar, with the metadata that goes with it. Raises UsageError, or PackageRefused for another
    file."""
    with open_source(package) as source:
        if metadata is not None:
            source = _Described(source, _read(metadata), metadata_path(source.sizes()) or keys.METADATA)
        yield source


def send(
    source: Source,
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
    video_id = choose_video_id(video_id, metadata_of(source, sizes))

    def put(path: str) -> None:
        objects.upload(inbox, keys.inbox(video_id, path), _counted(source.read(path), progress), content_type(path))

    began = objects.time(inbox)
    objects.each(put, [*sizes])
    ready = keys.inbox(video_id, keys.READY)
    objects.put(inbox, ready, b"", "application/octet-stream")
    marked: datetime | None = None
    with suppress(ObjectMissing):
        marked = objects.modified(inbox, ready)
    return Sent(video_id, marked, began, frozenset(sizes))


def choose_video_id(given: str | None, metadata: bytes | None) -> str:
    """The one given, the one in the metadata (both must agree), or a new one."""
    return named_video_id(given, metadata) or f"video-{secrets.token_hex(6)}"


def named_video_id(given: str | None, metadata: bytes | None) -> str | None:
    """The one given or in the metadata. Raises Conflict where they differ, UsageError for one that is none."""
    try:
        named = json.loads(metadata or b"{}").get("video_id")
    except (ValueError, AttributeError, RecursionError):
        named = None  # the pipeline's report says what is wrong with the metadata
    if given and named and given != named:
        raise Conflict(f"--video-id says {given}, metadata.json says {named}; make them agree")
    chosen = given or named or None
    if chosen is not None and not (isinstance(chosen, str) and keys.is_video_id(chosen)):
        raise UsageError(f"{chosen!r} is no video id: letters, digits, - and _, at most 64, the first no - or _")
    return chosen


def metadata_of(source: Source, sizes: Mapping[str, int]) -> bytes | None:
    """Of one that is too large to be accepted, the beginning."""
    path = metadata_path(sizes)
    return b"".join(source.read(path, Limits().metadata_size + 1)) if path else None


def follow(sent: Sent, store: MetadataStore) -> Iterator[Upload]:
    """The upload each time its state changes, until it goes no further by itself. One that started without our mark,
    because the folder had been quiet, gives way to one that starts with it."""
    seen: State | None = None
    upload_id: str | None = None
    while True:
        uploads = [upload for upload in store.uploads_of(sent.video_id) if sent.became(upload)]
        ours = (u for u in reversed(uploads) if upload_id in (None, u.upload_id))
        upload = max(ours, key=lambda u: u.drop.ready is not None, default=None)
        if upload and upload.state is not seen:
            upload_id = upload.upload_id if upload.drop.ready else None
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


def _read(path: Path) -> bytes:
    """The bytes of the file that `--metadata` names. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--metadata {path}: {error.strerror}") from error


def last_written(package: Path) -> int:
    """When a file of the package was last written to or put in place, in nanoseconds; a copy may bring an old
    time of writing along. Raises UsageError when that cannot be seen."""
    try:
        found = [path.lstat() for path in (package.rglob("*") if package.is_dir() else [package])]
    except OSError as error:
        raise UsageError(f"{package} cannot be read: {error.strerror}") from error
    return max((max(one.st_mtime_ns, one.st_ctime_ns) for one in found), default=0)


def _counted(pieces: Iterator[bytes], progress: Progress) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        progress(len(piece))
