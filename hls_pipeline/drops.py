"""The inbox: looking at its folders, reading a frozen drop, and taking it out once its files are safe.

A drop is read with `If-Match`, so what a step reads is what was frozen or nothing. Only objects that still are what
was frozen are ever deleted; whatever the creator wrote since then belongs to their next drop. When a folder starts is
decided in `uploads.judge`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import dropwhile, groupby
from typing import Any

from hls_pipeline import keys
from hls_pipeline.errors import DropChanged, ObjectChanged, ObjectMissing
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore, ObjectVersion
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Drop, DropObject, Folder, TakenIn, Upload, folder_of, judge


def folders(objects: ObjectStore, bucket: str, names: Collection[str] | None = None) -> Iterator[Folder]:
    """Every folder in the inbox that has something in it, as it is now; with `names` only those."""
    listed: Iterable[tuple[str, Iterable[DropObject]]]
    if names is None:
        listed = groupby(objects.listing(bucket), key=lambda item: item.key.partition("/")[0])
    else:
        listed = ((name, objects.listing(bucket, keys.inbox(name))) for name in sorted(names))
    for name, listing in listed:
        inside = [item for item in listing if "/" in item.key]
        if inside:
            yield folder_of(name, bucket, inside)


def folder(objects: ObjectStore, bucket: str, video_id: str) -> Folder:
    return folder_of(video_id, bucket, list(objects.listing(bucket, keys.inbox(video_id))))


def receive(
    objects: ObjectStore, store: MetadataStore, settings: Settings, now: datetime, names: Collection[str] | None = None
) -> tuple[list[Upload], list[str]]:
    """Freezes every folder that is due, and says of the others why they wait; with `names`, of those folders alone."""
    quiet = timedelta(seconds=settings.inbox_quiet_seconds)
    arrived, waiting = [], []
    for folder in folders(objects, settings.s3_inbox, names):
        if not keys.is_video_id(folder.video_id):
            _refuse_name(objects, settings.s3_inbox, folder)
            waiting.append(f"{folder.video_id!r}: no video id")
            continue
        verdict = judge(folder, store.latest_upload(folder.video_id), now, quiet)
        if isinstance(verdict, Drop):
            arrived.append(store.receive(verdict, now))
        elif isinstance(verdict, TakenIn) and store.is_held(folder.video_id, now):
            # Beside the run that does it, a delete that comes late would hit the same bytes, sent again meanwhile.
            waiting.append(f"{folder.video_id}: a run takes out what was taken in")
        elif isinstance(verdict, TakenIn):
            take_out(objects, folder.freeze())  # a run was cut off while it did this, or the mark came late
        else:
            waiting.append(f"{folder.video_id}: {verdict.reason}")
    return arrived, waiting


def _refuse_name(objects: ObjectStore, bucket: str, folder: Folder) -> None:
    if folder.rejected:
        return
    finding = {
        "code": "PKG_PATH_UNSAFE",
        "path": "",
        "line": None,
        "message": "the folder's name is no video id: letters, digits, - and _, at most 64, the first no - or _",
        "advice": "copy the package to a folder with such a name",
    }
    refuse(objects, bucket, folder.video_id, {"accepted": False, "root": None, "errors": [finding], "warnings": []})


@dataclass(frozen=True)
class DropSource:
    """A frozen drop as a source of package files."""

    objects: ObjectStore
    drop: Drop

    def sizes(self) -> Mapping[str, int]:
        return {self.drop.path(item): item.size for item in self.drop.objects}

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        """Raises DropChanged when the object is not what was frozen."""
        item = self.by_path[path]
        if item.size == 0:
            return
        try:
            yield from self.objects.read(self.drop.bucket, item.key, etag=item.etag, limit=limit)
        except (ObjectChanged, ObjectMissing) as error:
            raise changed(self.drop) from error

    @cached_property
    def by_path(self) -> dict[str, DropObject]:
        return {self.drop.path(item): item for item in self.drop.objects}


def changed(drop: Drop) -> DropChanged:
    return DropChanged(
        f"video {drop.video_id}: its inbox folder was written to after it was taken up; "
        "it starts again once it is still, or once _READY is written again"
    )


def take_out(objects: ObjectStore, drop: Drop) -> None:
    """Deletes what was frozen, as far as it still is what was frozen, then its marks.

    In a bucket that keeps versions exactly the frozen ones go, whatever is written meanwhile, and with them those they
    had replaced, which would come back to light. In another one S3 can compare ETags only, so that a file written again
    with the same bytes between the listing and its deletion goes too.
    """
    exactly = objects.keeps_versions(drop.bucket)
    listing = (objects.versions if exactly else objects.current)(drop.bucket, drop.prefix)
    frozen = {(item.key, item.etag, item.size, item.modified) for item in drop.objects}
    ready, rejected = (
        keys.inbox(drop.video_id, name) if drop.in_inbox else None for name in (keys.READY, keys.REJECTED)
    )

    def is_part(one: ObjectVersion) -> bool:
        if one.key == ready:
            return one.modified == drop.ready
        return one.key == rejected or (one.key, one.etag, one.size, one.modified) in frozen

    below: list[ObjectVersion] = []
    files: list[ObjectVersion] = []
    marks: list[ObjectVersion] = []
    for key, versions in groupby((one for one in listing if not one.marker), key=lambda one: one.key):
        going = list(dropwhile(lambda one: not is_part(one), versions))
        (marks if key in (ready, rejected) else files).extend(going[:1])
        below += going[1:]
    for each in (below, files, marks):
        objects.delete(drop.bucket, [(one.key, one.etag, one.version_id) for one in each])


def refuse(objects: ObjectStore, bucket: str, folder_name: str, report: Mapping[str, Any]) -> None:
    """Leaves the report beside the creator's files, which stay."""
    text = json.dumps(report, ensure_ascii=False, indent=2)
    objects.put(bucket, keys.inbox(folder_name, keys.REJECTED), text.encode(), "application/json")
