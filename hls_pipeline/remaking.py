"""A published revision made once more from what is on IPFS, long after its S3 copies are gone.

`revision` says where the bytes of an upload are read from: S3 where a file is on record there, IPFS otherwise, each
block hashed on its way. `begin` turns the current revision into a new one under another profile of content ids;
it then walks the ordinary path, and the old revision stays as it is. When that is wanted is decided by `wanted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from hls_pipeline import clock, keys, rehydration, staging, tables, work
from hls_pipeline.errors import Conflict, Corruption, ProofMissing, UsageError
from hls_pipeline.ipfs import reading
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES, Directory, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, rows
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import ACCEPTED_UNDER, IN_WORK, READY, Drop, DropObject, State, Upload

PREFIX = "ipfs://"
"""Start of a drop's prefix that says: its bytes are those of a revision that is on IPFS."""

_AT_ONCE = 4  # files read from a gateway
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


# ---- where the bytes are --------------------------------------------------------------------------------------------


def revision(
    upload: Upload, objects: ObjectStore, nodes: Sequence[Kubo], store: MetadataStore, settings: Settings
) -> Revision:
    """An accepted upload with a source for its bytes. Raises ProofMissing when all of them are on IPFS and no node has
    them all."""
    if upload.revision is None:
        raise Conflict(f"upload {upload.upload_id} is {upload.state} and has no revision; there is nothing to publish")
    files, media = store.inventory(upload.upload_id), settings.s3_media
    on_record = {item.cid for item in store.temp_objects(upload.upload_id) if item.etag}
    in_s3 = {file.path: file.key for file in files if file.key and keys.s3_uri(media, file.key) in on_record}
    origin = _origin(upload, store)
    if origin is None or all(file.size == 0 or file.path in in_s3 for file in files):
        return Revision(upload, files, objects, media, settings.policy())  # what was never on IPFS must be in S3
    if not in_s3:
        nodes = (_holder(origin, nodes),)
    source = _OnIpfs(origin, store.inventory(origin.upload_id), tuple(nodes), objects, media, in_s3)
    by_path = tuple(replace(file, key=file.path) for file in files)
    return Revision(upload, by_path, cast(ObjectStore, source), "", settings.policy())


def _origin(upload: Upload, store: MetadataStore) -> Upload | None:
    """The upload whose directories on IPFS have the bytes: a published one has its own, a new one none."""
    if upload.state in READY:
        return upload
    if not upload.drop.prefix.startswith(PREFIX):
        return None
    uploads = store.uploads_of(upload.video_id)
    return next((one for one in uploads if one.state in READY and _prefix(one) == upload.drop.prefix), None)


def _holder(upload: Upload, nodes: Sequence[Kubo]) -> Kubo:
    """The first node that has both directories. Raises what the last one raised."""

    def has_all(node: Kubo) -> Kubo:
        for root in (upload.root, upload.record):
            node.dag_stat(Cid.parse(root or ""), upload.dag_bytes or 0)
        return node

    if not nodes:
        raise ProofMissing("no IPFS node is configured")
    return rehydration.first(nodes, has_all)


@dataclass(frozen=True)
class _OnIpfs:
    """The part of an object store that a revision reads with; a key is a path in the package. A clean-up that was cut
    off leaves some files in S3, which may be what a node has lost since."""

    upload: Upload
    files: tuple[InventoryFile, ...]
    nodes: tuple[Kubo, ...]
    objects: ObjectStore
    bucket: str
    in_s3: Mapping[str, str]
    """Path → key of what S3 still has."""

    def read(self, _bucket: str, key: str, *, limit: int | None = None) -> Iterator[bytes]:
        if stored := self.in_s3.get(key):
            yield from self.objects.read(self.bucket, stored, limit=limit)
            return
        file = self._by_path[key]
        if file.is_playlist:  # the published form is rewritten already; the record has the creator's own
            path = keys.record_original(key).split("/")
            pieces = rehydration.first(self.nodes, lambda node: self._original(node, path))
        else:
            pieces = rehydration.verified(file, self._profile, self._node_with(file))
        yield from pieces if limit is None else _up_to(limit, pieces)

    def _original(self, node: Kubo, path: list[str]) -> Iterator[bytes]:
        cid = reading.resolve(Cid.parse(self.upload.record or ""), path, node.block)
        return iter([b"".join(reading.read_file(cid, node.block))])

    def _node_with(self, file: InventoryFile) -> Kubo:
        if len(self.nodes) == 1:
            return self.nodes[0]

        def has_it(node: Kubo) -> Kubo:
            node.dag_stat(Cid.parse(file.cid), file.dag_size)
            return node

        return rehydration.first(self.nodes, has_it)

    def each(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        with ThreadPoolExecutor(_AT_ONCE, "ipfs") as pool:
            return list(pool.map(work, items))

    @cached_property
    def _by_path(self) -> dict[str, InventoryFile]:
        return {file.path: file for file in self.files}

    @cached_property
    def _profile(self) -> Profile:
        return PROFILES[self.upload.profile or ""]


def _up_to(limit: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:limit]
        limit -= len(piece)
        if limit <= 0:
            return


# ---- the same package under another profile -------------------------------------------------------------------------


def wanted(upload: Upload, settings: Settings) -> bool:
    """Whether a published revision is made once more when somebody materializes it: its content ids would be others."""
    return upload.state in READY and upload.profile != settings.ipfs_profile


def begin(
    upload: Upload, holder: str, objects: ObjectStore, nodes: Sequence[Kubo], store: MetadataStore, settings: Settings
) -> Upload:
    """The upload that is to become the next revision, held by `holder`. Begun twice, it is the same one."""
    drop = _drop(upload, settings)
    with work.holding(upload, holder, store, settings) as lease:
        known = next((one for one in store.uploads_of(upload.video_id) if one.upload_id == drop.upload_id), None)
        if known is None:
            found = _examined(upload, objects, nodes, store, settings)
            _copy_private_keys(upload, found.columns["revision"], objects, settings)
            known = _enter(drop, found, lease, store)
        elif known.state is State.FAILED:
            known = store.resume(known.upload_id, clock.now())
        if known.state in IN_WORK:
            store.take_lease(known, holder, clock.now(), settings.lease_seconds)
    return known


def _prefix(upload: Upload) -> str:
    return f"{PREFIX}{upload.root}/"


def _drop(upload: Upload, settings: Settings) -> Drop:
    """What arrives is the published directory, to be known by other content ids. Keys that a key service has are not
    in it, but its playlists name them."""
    prefix = _prefix(upload)
    whole = DropObject(prefix, settings.ipfs_profile, upload.size or 0, upload.created_at)
    private = (replace(item, key=prefix + path) for path, item in upload.private_keys.items())
    return Drop(upload.video_id, settings.s3_media, prefix, (whole, *private), None)


def _copy_private_keys(upload: Upload, number: int, objects: ObjectStore, settings: Settings) -> None:
    """A key service looks for the keys of the current revision. Raises UsageError where nobody says where they are."""
    if not upload.private_keys:
        return
    bucket = settings.s3_keys
    if bucket is None:
        raise UsageError(f"video {upload.video_id} has private keys: HLS_S3_KEYS must name their bucket")
    before, after = keys.revision(upload.video_id, upload.revision or 0), keys.revision(upload.video_id, number)
    for item in objects.listing(bucket, before):
        target = (bucket, after + item.key.removeprefix(before))
        objects.copy((bucket, item.key), target, etag=item.etag, size=item.size, kind="application/octet-stream")


@dataclass(frozen=True)
class _Examined:
    files: tuple[InventoryFile, ...]
    directory: Directory
    columns: dict[str, Any]


def _examined(
    upload: Upload, objects: ObjectStore, nodes: Sequence[Kubo], store: MetadataStore, settings: Settings
) -> _Examined:
    """The package judged as it was, save that its keys are where the key service is now, and hashed anew. Raises
    Corruption when it is not accepted any more."""
    profile = PROFILES[settings.ipfs_profile]
    before = revision(upload, objects, nodes, store, settings)
    policy = before.accepted_under
    policy = replace(policy, key_service_url=settings.key_service_url or policy.key_service_url)
    package, report, contents = staging.examine(before, profile, policy, upload.playlist)
    if package is None or not report.accepted:
        first = report.errors[0]
        raise Corruption(f"video {upload.video_id}: what is published breaks a rule: {first.code} at {first.path}")
    files = staging.inventory(upload, package, contents, store.next_revision(upload.video_id))
    directory = build_directory({file.path: contents.nodes[file.path] for file in files}, profile)
    blocks = contents.blocks | {cid.digest: len(block) for cid, block in directory.blocks}
    columns = {
        "revision": store.next_revision(upload.video_id),
        "profile": profile.name,
        "playlist": package.root,
        "root": str(directory.root.cid),
        "size": directory.root.size,
        "blocks": len(blocks),
        "dag_bytes": sum(blocks.values()),
        "facts": {**(upload.facts or {}), **package.facts, ACCEPTED_UNDER: policy.recorded()},  # private keys, too
        "metadata": upload.metadata,
        "report": report.to_json(),
    }
    return _Examined(tuple(replace(file, source_key=None) for file in files), directory, columns)


def _enter(drop: Drop, found: _Examined, lease: Lease, store: MetadataStore) -> Upload:
    """In one transaction the new revision is staged: nothing of it has to wait in S3."""
    now, upload_id = clock.now(), drop.upload_id
    counts = {"launches": 0, "attempts": 0}
    with store.writing(lease) as db:
        db.execute(
            sa.insert(tables.upload).values(
                upload_id=upload_id,
                video_id=drop.video_id,
                state=State.STAGED,
                drop=drop.to_json(),
                created_at=now,
                updated_at=now,
                **counts,
                **found.columns,
            )
        )
        for state in (State.RECEIVED, State.STAGED):
            rows.note_state(db, upload_id, state, now, lease.run_id)
        rows.add_inventory(db, upload_id, found.files)
    return store.upload(upload_id)
