"""The path of a package, top to bottom in the order things happen. Read this page first.

    stage → write_s3_manifest → publish → write_ipfs_manifest → finalize ┄ (when due) ┄ clear_temp_storage

Each step takes what it needs, makes one thing true, and returns the upload as it is then. Run twice, or again after a
crash at any point, it leaves the same result: what is done already is recognised by what S3, IPFS and the metadata
store say, never by a note of our own. Bytes are streamed; nothing is deleted before its successor is proven.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from hls_pipeline import clock, documents, drops, estimate, keys, replicas
from hls_pipeline.errors import Conflict, Corruption, ObjectChanged, ObjectMissing, ProofMissing
from hls_pipeline.hls.content_types import PLAYLIST_TYPE
from hls_pipeline.hls.findings import Finding, Report
from hls_pipeline.hls.model import Playlist, Reference, SideFile
from hls_pipeline.hls.package import Package, survey
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative, rewrite
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES, Extent, FileBuilder, Node, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore, Stored
from hls_pipeline.revisions import Revision, hash_bytes
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import DropObject, State, Upload

_MISSING_FILES = frozenset({"URI_MISSING_FILE", "PKG_NO_PLAYLIST"})
"""Findings that more files could mend: a folder nobody marked ready is given time."""


# ---- 1. every file checked, its content id known, stored under it; the inbox is emptied ------------------------


def stage(upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings) -> Upload:
    """Afterwards the upload has a revision and an inventory, or is rejected, unchanged, or waits for missing files.

    Raises DropChanged when the creator wrote to the folder meanwhile.
    """
    if upload.state is not State.RECEIVED:
        return upload
    if upload.revision is None:
        upload = _judge(upload, lease, objects, store, settings)
        if upload.revision is None:
            return upload
    _copy_to_media(upload, lease, objects, store, settings)
    store.renew(lease, clock.now(), settings.lease_seconds)
    drops.take_out(objects, upload.drop)
    return upload


def _judge(upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings) -> Upload:
    source = drops.DropSource(objects, upload.drop)
    profile = PROFILES[settings.ipfs_profile]
    package, report, contents = _examine(source, profile, settings)
    if package is None or not report.accepted:
        return _refuse(upload, lease, report, objects, store, settings)
    files = _inventory(upload, package, contents, store.next_revision(upload.video_id))
    directory = build_directory({file.path: contents.nodes[file.path] for file in files}, profile)
    metadata = dict(package.metadata)
    upload = replace(upload, root=str(directory.root.cid), metadata=metadata)
    if _is_current(upload, store):
        drops.take_out(objects, upload.drop)
        store.unchanged(lease, clock.now())
        return store.upload(upload.upload_id)
    own = {cid.digest: len(block) for cid, block in directory.blocks}
    blocks = contents.blocks | own
    return store.accept(
        lease,
        revision=store.next_revision(upload.video_id),
        facts=package.facts,
        files=files,
        objects=_expected(upload, files, contents, settings),
        profile=profile.name,
        playlist=package.root,
        root=upload.root,
        size=directory.root.size,
        blocks=len(blocks),
        dag_bytes=sum(blocks.values()),
        metadata=metadata,
        report=report.to_json(),
    )


@dataclass(frozen=True)
class _Contents:
    """What reading every published file once gave."""

    nodes: dict[str, Node]  # as published
    originals: dict[str, str]  # content ids of the creator's bytes
    blocks: dict[bytes, int]  # digest → bytes of each distinct block


def _examine(
    source: drops.DropSource, profile: Profile, settings: Settings
) -> tuple[Package | None, Report, _Contents]:
    """Checks the package and computes its content ids, reading each file once."""
    survey_ = survey(source, policy(settings))
    contents = _Contents({}, {}, {})
    package = survey_.package
    if package is None:
        return None, survey_.report, contents

    def read(path: str) -> tuple[str, Node, dict[bytes, int], tuple[Finding, ...]]:
        builder, probe = FileBuilder(profile), package.probe(path)
        blocks: dict[bytes, int] = {}
        for piece in source.read(path):
            probe.feed(piece)
            blocks.update((cid.digest, len(block)) for cid, block in builder.feed(piece))
        node, rest = builder.finish()
        blocks.update((cid.digest, len(block)) for cid, block in rest)
        return path, node, blocks, tuple(probe.findings())

    findings = list(survey_.report.findings)
    for path, node, blocks, found in source.objects.each(read, [file.path for file in package.files]):
        contents.nodes[path] = node
        contents.originals[path] = str(node.cid)
        contents.blocks.update(blocks)
        findings += found
    for playlist in package.playlists.values():
        node, made = hash_bytes(relative(playlist), profile)
        contents.nodes[playlist.path] = node
        contents.originals[playlist.path] = str(hash_bytes(playlist.data, profile)[0].cid)
        contents.blocks.update((cid.digest, len(block)) for cid, block in made)
    return package, Report(package.root, tuple(findings)), contents


def _inventory(upload: Upload, package: Package, contents: _Contents, revision: int) -> list[InventoryFile]:
    """Playlists depth first from the root, then every other file once, at its first mention."""
    video_id = upload.video_id

    def item(path: str, role: str, content_type: str) -> InventoryFile:
        node = contents.nodes[path]
        if role == "playlist":
            key = keys.original(video_id, revision, path)
        else:
            key = keys.media(video_id, revision, str(node.cid), path)
        source = upload.drop.prefix + path
        return InventoryFile(
            0, path, role, content_type, node.size, str(node.cid), node.tsize, node.blocks, key, source
        )

    playlists = [item(path, "playlist", PLAYLIST_TYPE) for path in package.playlists]
    others = [item(file.path, file.role, file.content_type) for file in package.files]
    return [replace(file, position=n) for n, file in enumerate([*playlists, *others])]


def _expected(
    upload: Upload, files: Iterable[InventoryFile], contents: _Contents, settings: Settings
) -> list[TempObject]:
    sizes = {item.key: item.size for item in upload.drop.objects}
    return [
        TempObject(keys.s3_uri(settings.s3_media, file.key), sizes[file.source_key], contents.originals[file.path])
        for file in files
        if file.key and file.source_key
    ]


def _is_current(upload: Upload, store: MetadataStore) -> bool:
    """Whether the current revision has the same content and the same metadata."""
    current = store.current_upload(upload.video_id)
    return current is not None and (current.root, current.metadata) == (upload.root, upload.metadata)


def _refuse(
    upload: Upload,
    lease: Lease,
    report: Report,
    objects: ObjectStore,
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """The report goes beside the creator's files. A folder nobody marked ready may first get its missing files."""
    drop, now = upload.drop, clock.now()
    until = now
    if drop.in_inbox:
        folder = drops.folder(objects, drop.bucket, upload.video_id)
        if not folder.left_as_it_was(drop):
            raise drops.changed(drop)
        if drop.ready is None and any(item.code in _MISSING_FILES for item in report.errors):
            until = folder.last_write + timedelta(seconds=settings.inbox_abandon_seconds)
    if now < until:
        store.wait_for_files(lease, report.to_json(), until)
        return store.upload(upload.upload_id)
    if drop.in_inbox:
        drops.refuse(objects, drop.bucket, upload.video_id, report.to_json())
    else:
        drops.take_out(objects, drop)
    store.reject(lease, report.to_json(), now)
    return store.upload(upload.upload_id)


def _copy_to_media(
    upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings
) -> None:
    """Copies, on the S3 server, what is not there yet; each copy is tied to the ETag that was read."""
    media = settings.s3_media
    frozen = {item.key: item for item in upload.drop.objects}
    files = store.inventory(upload.upload_id)
    put = {item.cid for item in store.temp_objects(upload.upload_id) if item.etag}
    missing = {file.key: file for file in files if file.key and keys.s3_uri(media, file.key) not in put}

    def copy(file: InventoryFile) -> TempObject:
        assert file.key and file.source_key
        source = frozen[file.source_key]
        stored = objects.copy(
            (upload.drop.bucket, source.key), (media, file.key), etag=source.etag, size=source.size, kind=file.content_type
        )
        return _put(keys.s3_uri(media, file.key), stored)

    try:
        store.objects_put(lease, objects.each(copy, list(missing.values())))
        _keep_unreferenced(upload, files, objects, settings)
    except (ObjectChanged, ObjectMissing) as error:
        _undo_acceptance(upload, lease, objects, store, settings)
        raise drops.changed(upload.drop) from error


def _put(cid: str, stored: Stored) -> TempObject:
    return TempObject(cid, stored.size, None, stored.etag, stored.version_id)


def _keep_unreferenced(
    upload: Upload, files: Iterable[InventoryFile], objects: ObjectStore, settings: Settings
) -> None:
    """Files that no playlist reaches are kept in S3 and never published."""
    published = {file.source_key for file in files} | {upload.drop.prefix + keys.METADATA}
    assert upload.revision is not None
    for item in upload.drop.objects:
        if item.key not in published:
            target = keys.unreferenced(upload.video_id, upload.revision, upload.drop.path(item))
            objects.copy(
                (upload.drop.bucket, item.key),
                (settings.s3_media, target),
                etag=item.etag,
                size=item.size,
                kind="application/octet-stream",
            )


def _undo_acceptance(
    upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings
) -> None:
    """The drop changed while it was copied: nothing of it stays, its revision number is free again."""
    assert upload.revision is not None
    prefix = keys.revision(upload.video_id, upload.revision)
    store.renew(lease, clock.now(), settings.lease_seconds)
    left = [(item.key, item.etag, None) for item in objects.listing(settings.s3_media, prefix)]
    objects.delete(settings.s3_media, left)
    store.take_back(lease)


# ---- 2. playlists rewritten to s3://, the temporary JSON is a version -------------------------------------------


def write_s3_manifest(
    upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings
) -> Upload:
    """Afterwards the upload is staged, and the creator finds the temporary document beside the media."""
    if upload.state is State.RECEIVED:
        revision = _revision(upload, objects, store, settings)
        rendered = {document.path: _s3_form(document, revision) for document in revision.documents()}
        _put_manifests(upload, lease, rendered, objects, store, settings)
        store.staged(
            lease,
            _temporary_document(revision, store),
            actor=_actor(upload),
            reason="staged",
            run_id=lease.holder,
            now=clock.now(),
        )
    mirror_document(upload.video_id, objects, store, settings)
    return store.upload(upload.upload_id)


def _s3_form(document: Playlist | SideFile, revision: Revision) -> bytes:
    package, upload = revision.package, revision.upload

    def rename(reference: Reference) -> str | None:
        if reference.target is None:
            return None
        if reference.target in package.playlists or reference.target in package.side_files:
            key = keys.s3_manifest(upload.video_id, upload.revision or 0, reference.target)
        else:
            key = revision.by_path[reference.target].key or ""
        return keys.s3_reference(revision.bucket, key)

    return rewrite(document, rename)


def _put_manifests(
    upload: Upload,
    lease: Lease,
    rendered: dict[str, bytes],
    objects: ObjectStore,
    store: MetadataStore,
    settings: Settings,
) -> None:
    assert upload.revision is not None
    media, number = settings.s3_media, upload.revision
    by_key = {keys.s3_manifest(upload.video_id, number, path): data for path, data in rendered.items()}
    expected = [TempObject(keys.s3_uri(media, key), len(data), None) for key, data in by_key.items()]
    store.expect_objects(lease, expected)
    store.objects_put(
        lease,
        [_put(keys.s3_uri(media, key), objects.put(media, key, data, PLAYLIST_TYPE)) for key, data in by_key.items()],
    )


def _temporary_document(revision: Revision, store: MetadataStore) -> dict[str, Any]:
    upload = revision.upload
    assert upload.revision is not None and upload.playlist is not None
    manifest = keys.s3_manifest(upload.video_id, upload.revision, upload.playlist)
    return documents.temporary(
        video_id=upload.video_id,
        revision=upload.revision,
        manifest=keys.s3_uri(revision.bucket, manifest),
        playlist=upload.playlist,
        segments=[keys.s3_uri(revision.bucket, file.key or "") for file in revision.media],
        estimated_completion=estimate.completion(upload, store, clock.now()),
        creator=upload.metadata or {},
    )


# ---- 3. every block on a quorum of nodes, pinned, the nodes' content ids equal to ours --------------------------


def publish(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the published directory is pinned and complete on a quorum of nodes, by their own word.

    Raises ProofMissing while there are too few, Corruption when S3 gives other bytes than were staged.
    """
    if upload.state is State.CLEARED:
        return upload
    revision = _revision(upload, objects, store, settings)
    root, expected = revision.directory.root, Extent(upload.blocks or 0, upload.dag_bytes or 0)
    store.claim(lease, str(root.cid))
    receipts = replicas.on_quorum(
        nodes,
        settings.ipfs_quorum,
        lambda node: replicas.publish(node, revision, expected, streams=settings.ipfs_streams),
    )
    store.pinned(lease, receipts, clock.now())
    return store.upload(upload.upload_id)


# ---- 4. playlists rewritten to ipfs://, recorded on IPFS beside the originals -----------------------------------


def write_ipfs_manifest(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the record directory is proven on a quorum of nodes like the published one."""
    if upload.state is State.CLEARED:
        return upload
    revision = _revision(upload, objects, store, settings)
    rendered = _ipfs_forms(revision)
    record = {keys.record_manifest(path): data for path, data in rendered.items()}
    record |= {keys.record_original(p.path): p.data for p in revision.package.playlists.values()}
    record[keys.RECORD_INVENTORY] = _inventory_document(revision)
    small = replicas.SmallDirectory.of(record, revision.profile)
    root = str(small.directory.root.cid)
    store.claim(lease, root)
    receipts = replicas.on_quorum(
        nodes, settings.ipfs_quorum, lambda node: replicas.publish_small(node, small, f"{upload.video_id} record")
    )
    manifest = small.directory.nodes[keys.record_manifest(revision.package.root)]
    store.record_published(lease, root, str(manifest.cid), receipts, clock.now())
    return store.upload(upload.upload_id)


def _ipfs_forms(revision: Revision) -> dict[str, bytes]:
    """Every playlist with references by content id. Leaves come first; a reference back to a playlist that is not
    rendered yet (a rendition report) names it inside the published directory instead."""
    cids = {file.path: file.cid for file in revision.media}
    for path in revision.package.side_files:
        cids.pop(path, None)  # they are rendered too, and then have another content id
    rendered: dict[str, bytes] = {}

    def rename(reference: Reference) -> str | None:
        if reference.target is None:
            return None
        if reference.target in cids:
            return keys.ipfs_reference(cids[reference.target], reference.target)
        return keys.ipfs_path(str(revision.directory.root.cid), reference.target)

    for document in revision.documents():
        rendered[document.path] = rewrite(document, rename)
        cids[document.path] = str(hash_bytes(rendered[document.path], revision.profile)[0].cid)
    return rendered


def _inventory_document(revision: Revision) -> bytes:
    """The list of published files, as it stands on IPFS."""
    files = [
        {"path": f.path, "size": f.size, "cid": f.cid, "content_type": f.content_type, "role": f.role}
        for f in revision.files
    ]
    about = {
        "video_id": revision.upload.video_id,
        "revision": revision.upload.revision,
        "profile": revision.profile.name,
        "directory": str(revision.directory.root.cid),
        "playlist": revision.package.root,
        "files": files,
    }
    return documents.canonical(about).encode()


# ---- 5. the final JSON becomes the current version ---------------------------------------------------------------


def finalize(upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings) -> Upload:
    """Afterwards the final document is current, or the upload is superseded by a higher revision that was ready first.

    Raises ProofMissing unless both directories are proven on the quorum.
    """
    if upload.state is State.PINNED:
        _require_proof(upload, store, settings)
        now = clock.now()
        if store.newest_ready_revision(upload.video_id) > (upload.revision or 0):
            store.supersede(lease, "a newer revision was ready first", now)
            return store.upload(upload.upload_id)
        store.finalize(
            lease,
            _final_document(upload, store, now),
            now + timedelta(seconds=settings.s3_grace_seconds),
            actor=_actor(upload),
            reason="published",
            run_id=lease.holder,
            now=now,
        )
    mirror_document(upload.video_id, objects, store, settings)
    return store.upload(upload.upload_id)


def _final_document(upload: Upload, store: MetadataStore, now: datetime) -> dict[str, Any]:
    assert upload.revision and upload.playlist and upload.root and upload.record and upload.manifest
    return documents.final(
        video_id=upload.video_id,
        revision=upload.revision,
        root_playlist_cid=upload.manifest,
        root=upload.root,
        record=upload.record,
        playlist=upload.playlist,
        segments=[file.cid for file in store.inventory(upload.upload_id) if not file.is_playlist],
        completed_at=now,
        replicas=len(replicas.proven(store.receipts(upload.upload_id, "proof"), upload.root)),
        creator=upload.metadata or {},
    )


def _require_proof(upload: Upload, store: MetadataStore, settings: Settings) -> None:
    receipts = store.receipts(upload.upload_id, "proof")
    for root in (upload.root, upload.record):
        if root is None or len(replicas.proven(receipts, root)) < settings.ipfs_quorum:
            raise ProofMissing(
                f"upload {upload.upload_id}: {root or 'its record'} is not proven on {settings.ipfs_quorum} node(s)"
            )


# ---- 6. when due: the proof is repeated, then the S3 copies go ---------------------------------------------------


def clear_temp_storage(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the upload's S3 objects and their rows are gone, a receipt says on whose evidence.

    Raises ProofMissing when a quorum does not give back every block of both directories, Corruption when an object is
    not what was staged; then nothing at all is deleted.
    """
    mirror_document(upload.video_id, objects, store, settings)
    evidence: list[dict[str, Any]] = []
    if upload.state is State.PUBLISHED:  # what was overtaken before it was published needs no proof to go
        assert upload.root and upload.record
        for root in (upload.root, upload.record):
            evidence += replicas.on_quorum(
                nodes, settings.ipfs_quorum, partial(replicas.read_back, root=root)
            )
    waiting = store.temp_objects(upload.upload_id)
    there = _as_staged(upload, waiting, objects, settings)
    for start in range(0, len(there), _DELETE_AT_ONCE):
        batch = there[start : start + _DELETE_AT_ONCE]
        store.renew(lease, clock.now(), settings.lease_seconds)
        kept = objects.delete(settings.s3_media, [(item.key, item.etag, None) for item in batch])
        if kept:
            raise Corruption(f"upload {upload.upload_id}: s3://{settings.s3_media}/{kept[0]} was replaced; it stays")
    receipt = {"removed": [item.cid for item in waiting], "evidence": evidence}
    store.objects_removed(lease, [item.cid for item in waiting], receipt, clock.now())
    store.cleared(lease, clock.now())
    return store.upload(upload.upload_id)


_DELETE_AT_ONCE = 500


def _as_staged(
    upload: Upload, waiting: Iterable[TempObject], objects: ObjectStore, settings: Settings
) -> list[DropObject]:
    """The objects that are still there. Raises Corruption if any is not what was staged."""
    assert upload.revision is not None
    listed = {
        keys.s3_uri(settings.s3_media, item.key): item
        for item in objects.listing(settings.s3_media, keys.revision(upload.video_id, upload.revision))
    }
    found = [(item, listed[item.cid]) for item in waiting if item.cid in listed]
    for expected, seen in found:
        if expected.etag is not None and (expected.etag, expected.size) != (seen.etag, seen.size):
            raise Corruption(
                f"upload {upload.upload_id}: {expected.cid} is not what was staged; somebody replaced it, "
                "so nothing is deleted. Look at the object, then run the clean-up again"
            )
    return [seen for _, seen in found]


# ---- shared by the steps -----------------------------------------------------------------------------------------


def policy(settings: Settings) -> Policy:
    return Policy(keys=settings.keys)


def mirror_document(video_id: str, objects: ObjectStore, store: MetadataStore, settings: Settings) -> None:
    """Puts the current document where the creator finds it, unless it is there already."""
    version = store.unmirrored(video_id)
    if version:
        document = json.dumps(json.loads(version.document), ensure_ascii=False, indent=2)
        objects.put(settings.s3_media, keys.current_document(video_id), document.encode(), "application/json")
        store.mirrored(version)


def _revision(upload: Upload, objects: ObjectStore, store: MetadataStore, settings: Settings) -> Revision:
    if upload.revision is None:
        raise Conflict(f"upload {upload.upload_id} is {upload.state} and has no revision; there is nothing to publish")
    files = store.inventory(upload.upload_id)
    return Revision(upload, files, objects, settings.s3_media, policy(settings))


def _actor(upload: Upload) -> str:
    return "inbox" if upload.drop.in_inbox else "gateway"
