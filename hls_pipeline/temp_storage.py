"""The S3 copies that wait for IPFS, and how they go: looked at, compared with what was staged, removed in batches.

`look` decides about every due object and changes nothing; `remove` carries it out. Whoever calls them has proven before
that the bytes are elsewhere, or knows that nobody needs them. When something is due is decided in `metadata_store/`,
why in `steps.py` and `withdrawal.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from hls_pipeline import clock, keys
from hls_pipeline.errors import Corruption, ProofMissing
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.lifecycle import CLEARED_TAG
from hls_pipeline.metadata_store import Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore, ObjectVersion
from hls_pipeline.revisions import content_id
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import READY, Upload

_AT_ONCE = 500
"""Objects removed between two renewals of the lease: well within a lease at 100 requests a second."""

PROOF_HOLDS = timedelta(minutes=15)
"""So long objects are removed on one proof: a worker that was suspended after it must not act on it hours later."""

HELD = timedelta(days=1)
"""After this a held object is looked at again."""


@dataclass(frozen=True)
class Found:
    """One object on record, with every version and delete marker that S3 has of it."""

    item: TempObject
    versions: tuple[ObjectVersion, ...]


@dataclass(frozen=True)
class Decision:
    """What is to become of the objects that are due."""

    removable: tuple[Found, ...]
    kept: tuple[Found, ...] = ()
    """`HLS_S3_KEEP` names them."""
    held: tuple[Found, ...] = ()
    """A legal hold or a retention period forbids removing them."""


def due(objects: Iterable[TempObject], now: datetime) -> list[TempObject]:
    return [item for item in objects if item.due_at is not None and item.due_at <= now]


def look(upload: Upload, waiting: Sequence[TempObject], objects: ObjectStore, settings: Settings) -> Decision:
    """Raises `Odd` when any object is not what was staged."""
    if not waiting:
        return Decision(())
    assert upload.revision is not None
    there = _versions(keys.revision(upload.video_id, upload.revision), objects, settings)
    found = [
        Found(_confirmed(upload, item, there.get(item.cid, ()), objects, settings), tuple(there.get(item.cid, ())))
        for item in waiting
    ]
    if odd := [finding for each in found if (finding := _oddity(upload, each))]:
        raise Odd(upload, odd)
    kept = {each.item.cid for each in found if _is_kept(each.item, settings)}
    held = _held([each for each in found if each.item.cid not in kept], objects, settings)
    return Decision(
        tuple(each for each in found if each.item.cid not in kept | held),
        tuple(each for each in found if each.item.cid in kept),
        tuple(each for each in found if each.item.cid in held),
    )


def look_at_everything(prefixes: Iterable[str], objects: ObjectStore, settings: Settings) -> Decision:
    """All that lies under `prefixes`, on record or not, is to go; only what is held stays."""
    there = [each for prefix in prefixes for each in _versions(prefix, objects, settings).items()]
    found = [
        Found(TempObject(cid, sum(one.size for one in versions), None), tuple(versions)) for cid, versions in there
    ]
    held = _held(found, objects, settings)
    return Decision(
        tuple(each for each in found if each.item.cid not in held),
        held=tuple(each for each in found if each.item.cid in held),
    )


def _versions(prefix: str, objects: ObjectStore, settings: Settings) -> dict[str, list[ObjectVersion]]:
    """Everything under a prefix of the media bucket, by address."""
    there: dict[str, list[ObjectVersion]] = defaultdict(list)
    for version in objects.versions(settings.s3_media, prefix):
        there[keys.s3_uri(settings.s3_media, version.key)].append(version)
    return there


class Odd(Corruption):
    """Objects are not what was staged; `findings` says which, and how."""

    def __init__(self, upload: Upload, findings: Sequence[Mapping[str, Any]]) -> None:
        first, more = findings[0], f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        super().__init__(
            f"upload {upload.upload_id}: {first['object']} {first['reason']}{more}, so nothing is deleted. "
            "Look at the object; the clean-up runs again by itself"
        )
        self.findings = findings


def _confirmed(
    upload: Upload, item: TempObject, seen: Sequence[ObjectVersion], objects: ObjectStore, settings: Settings
) -> TempObject:
    """The row with the ETag it lacks, where a try was cut off between putting an object and saying so: if it has the
    bytes that were to be put."""
    newest = next((version for version in seen if version.latest and not version.marker), None)
    if item.etag is not None or item.content_id is None or newest is None:
        return item
    there = objects.read(settings.s3_media, newest.key, etag=newest.etag)
    same = content_id(there, PROFILES[upload.profile or settings.ipfs_profile]) == item.content_id
    return replace(item, etag=newest.etag, size=newest.size) if same else item


def _oddity(upload: Upload, found: Found) -> dict[str, Any] | None:
    """Versions with the bytes that were staged may be several: a try that was cut off is repeated."""
    item, contents = found.item, [version for version in found.versions if not version.marker]
    if item.etag is None and upload.state in READY and contents:
        return _finding(item, "was never confirmed as staged", contents[0])
    for version in contents:
        if item.etag is not None and (version.etag, version.size) != (item.etag, item.size):
            return _finding(item, "is not what was staged; somebody replaced it", version)
    newest = max(contents, key=lambda version: version.latest, default=None)
    if item.version_id and newest and newest.latest and newest.version_id != item.version_id:
        return _finding(item, "was written again by somebody", newest)
    return None


def _finding(item: TempObject, reason: str, seen: ObjectVersion) -> dict[str, Any]:
    return {
        "finding": "object_changed",
        "object": item.cid,
        "reason": reason,
        "staged": {"etag": item.etag, "size": item.size, "version_id": item.version_id},
        "seen": {"etag": seen.etag, "size": seen.size, "version_id": seen.version_id},
    }


def _is_kept(item: TempObject, settings: Settings) -> bool:
    key = item.cid.removeprefix(keys.s3_uri(settings.s3_media, ""))
    return any(fnmatchcase(key, pattern) for pattern in settings.s3_keep)


def _held(found: Sequence[Found], objects: ObjectStore, settings: Settings) -> set[str]:
    """Addresses of objects with any version that must not be deleted."""
    now = clock.now()
    if not objects.locks_objects(settings.s3_media):
        return set()

    def is_held(each: Found) -> bool:
        contents = (version for version in each.versions if not version.marker)
        return any(objects.is_held(settings.s3_media, one.key, one.version_id, now) for one in contents)

    return {each.item.cid for each, held in zip(found, objects.each(is_held, found), strict=True) if held}


def remove(
    decision: Decision,
    evidence: Sequence[Mapping[str, Any]],
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    store: MetadataStore,
    settings: Settings,
) -> None:
    """Afterwards the removable objects and their rows are gone, a receipt says on whose evidence; what is kept is no
    longer due, what is held is looked at again in a day. Raises `Odd` when an object was replaced meanwhile: it stays;
    ProofMissing when the removal goes on for longer than the proof before it holds.
    """
    for found in decision.held:
        for version in found.versions:
            if not version.marker:
                objects.tag(settings.s3_media, version.key, version.version_id, *CLEARED_TAG)
    now = clock.now()
    store.objects_stay(lease, [found.item.cid for found in decision.kept], None, now)
    store.objects_stay(lease, [found.item.cid for found in decision.held], now + HELD, now)
    for batch in _batches(decision.removable):
        store.renew(lease, clock.now(), settings.lease_seconds)
        if evidence and clock.now() - now > PROOF_HOLDS:
            raise ProofMissing(
                f"upload {upload.upload_id}: its proof is of {clock.text(now)}; the next try proves it anew"
            )
        seen = [(one.key, one.etag, one.version_id) for found in batch for one in found.versions]
        replaced = {keys.s3_uri(settings.s3_media, key) for key in objects.delete(settings.s3_media, seen)}
        gone = [found.item.cid for found in batch if found.item.cid not in replaced]
        store.objects_removed(lease, gone, {"removed": gone, "evidence": list(evidence)}, clock.now())
        if replaced:
            again = [found for found in batch if found.item.cid in replaced]
            raise Odd(upload, [_finding(each.item, "was replaced just now", each.versions[0]) for each in again])
    if written := list(_written_meanwhile(decision.removable, upload, objects, settings)):
        raise Odd(upload, written)


def _written_meanwhile(
    removed: Sequence[Found], upload: Upload, objects: ObjectStore, settings: Settings
) -> Iterator[dict[str, Any]]:
    """Where versions are deleted by their ids, one that somebody adds meanwhile stays and nothing refuses: it is looked
    for."""
    if upload.revision is not None and any(one.version_id for found in removed for one in found.versions):
        there = _versions(keys.revision(upload.video_id, upload.revision), objects, settings)
        for found in removed:
            for version in there.get(found.item.cid, ()):
                yield _finding(found.item, "was written again while it was removed", version)


def note(error: Odd, lease: Lease, store: MetadataStore) -> None:
    """Keeps what was found, unless the last look found the same."""
    known = [
        {name: value for name, value in receipt.items() if name not in ("kind", "time")}
        for receipt in store.receipts(lease.upload_id, "finding")[-len(error.findings) :]
    ]
    if known != list(error.findings):
        store.add_receipts(lease, "finding", error.findings, clock.now())


def _batches(found: Sequence[Found]) -> Iterator[Sequence[Found]]:
    return (found[start : start + _AT_ONCE] for start in range(0, len(found), _AT_ONCE))
