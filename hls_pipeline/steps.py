"""The path of a package, top to bottom in the order things happen. Read this page first.

    stage → write_s3_manifest → publish → write_ipfs_manifest → finalize ┄ (when due) ┄ clear_temp_storage

Each step takes what it needs, makes one thing true, and returns the upload as it is then. Run twice, or again after a
crash at any point, it leaves the same result: what is done already is recognised by what S3, IPFS and the metadata
store say, never by a note of our own. Bytes are streamed; nothing is deleted before its successor is proven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from hls_pipeline import (
    clock,
    documents,
    drops,
    estimate,
    evidence,
    keys,
    pinning,
    remaking,
    renderings,
    replicas,
    staging,
    temp_storage,
    withdrawal,
)
from hls_pipeline.errors import ObjectMissing, ProofMissing
from hls_pipeline.hls.content_types import PLAYLIST_TYPE
from hls_pipeline.hls.findings import Report
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Receipt
from hls_pipeline.ipfs.unixfs import PROFILES, Extent, build_directory
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision
from hls_pipeline.settings import Settings
from hls_pipeline.tracing import observed
from hls_pipeline.uploads import ACCEPTED_UNDER, PRIVATE_KEYS, State, Upload

_MISSING_FILES = frozenset({"URI_MISSING_FILE", "PKG_NO_PLAYLIST", "PKG_ROOT_AMBIGUOUS", "HLS_DEFINE_IMPORT"})
"""Findings that more files could mend: a folder nobody marked ready is given time."""

_GIVEN_UP = frozenset({State.WITHDRAWN, State.SUPERSEDED})
"""States in which nothing is brought onto IPFS any more, whoever asks for it."""


# ---- 1. every file checked, its content id known, stored under it; the inbox is emptied ------------------------


@observed
def stage(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
    noted: Mapping[str, staging.Reading] | None = None,
) -> Upload:
    """Afterwards the upload has a revision and an inventory, or is rejected, unchanged, or waits for missing files.
    Files that are `noted` were read on their way into the drop, and are not read again.

    Raises DropChanged when the creator wrote to the folder meanwhile.
    """
    if upload.state is not State.RECEIVED:
        return upload
    if upload.revision is None:
        upload = _judge(upload, lease, objects, nodes, store, settings, noted)
        if upload.revision is None:
            return upload
    staging.copy_to_media(upload, lease, objects, store, settings)
    store.renew(lease, clock.now(), settings.lease_seconds)
    drops.take_out(objects, upload.drop)
    return upload


def _judge(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
    noted: Mapping[str, staging.Reading] | None,
) -> Upload:
    source = drops.DropSource(objects, upload.drop)
    profile = PROFILES[settings.ipfs_profile]
    policy = settings.policy().of(upload.video_id)
    package, report, contents = staging.examine(source, profile, policy, noted=noted)
    if package is None or not report.accepted:
        return _refuse(upload, lease, report, objects, store, settings)
    files = staging.inventory(upload, package, contents, store.next_revision(upload.video_id))
    directory = build_directory({file.path: contents.nodes[file.path] for file in files}, profile)
    metadata = dict(package.metadata)
    facts = {
        **package.facts,
        PRIVATE_KEYS: {file.path: file.size for file in package.keys},
        ACCEPTED_UNDER: policy.recorded(),
    }
    upload = replace(upload, root=str(directory.root.cid), metadata=metadata, facts=facts)
    current = store.current_upload(upload.video_id)
    if current and _is_same(upload, current) and _is_still_there(current, nodes, settings):
        staging.keep_changed_extras(upload, package.unreferenced, current.revision or 0, objects, settings)
        store.unchanged(lease, clock.now())
        drops.take_out(objects, upload.drop)
        return store.upload(upload.upload_id)
    own = {cid.digest: len(block) for cid, block in directory.blocks}
    blocks = contents.blocks | own
    return store.accept(
        lease,
        revision=store.next_revision(upload.video_id),
        facts=facts,
        files=files,
        objects=staging.expected_objects(upload, files, contents, settings),
        profile=profile.name,
        playlist=package.root,
        root=upload.root,
        size=directory.root.size,
        blocks=len(blocks),
        dag_bytes=sum(blocks.values()),
        metadata=metadata,
        report=report.to_json(),
    )


def _is_same(upload: Upload, current: Upload) -> bool:
    """Whether the current revision has the same content, the same metadata and the same private keys."""
    (mine, theirs) = ({path: item.etag for path, item in one.private_keys.items()} for one in (upload, current))
    return (current.root, current.metadata, theirs) == (upload.root, upload.metadata, mine)


def _is_still_there(current: Upload, nodes: Sequence[Kubo], settings: Settings) -> bool:
    """Whether a quorum gives the current revision back: only then the drop may go. What the nodes lost is published
    anew from it, as the next revision. Raises Outage when too few nodes answer."""
    try:
        replicas.on_quorum(
            nodes, settings.ipfs_quorum, partial(_read_back, current, settings), settings.ipfs_grace_seconds
        )
    except ProofMissing:
        return False
    return True


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


# ---- 2. playlists rewritten to s3://, the temporary JSON is a version -------------------------------------------


@observed
def write_s3_manifest(
    upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings
) -> Upload:
    """Afterwards the upload is staged, and the creator finds the temporary document beside the media."""
    if upload.state is State.RECEIVED:
        revision = remaking.revision(upload, objects, (), store, settings)
        rendered = {document.path: renderings.s3_form(document, revision) for document in revision.documents()}
        _put_manifests(upload, lease, rendered, objects, store, settings)
        store.staged(
            lease,
            _temporary_document(revision, store),
            actor=_actor(upload),
            reason="staged",
            run_id=lease.run_id,
            now=clock.now(),
        )
    mirror_document(lease, objects, store, settings)
    return store.upload(upload.upload_id)


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
        [
            staging.temp_object(keys.s3_uri(media, key), objects.put(media, key, data, PLAYLIST_TYPE))
            for key, data in by_key.items()
        ],
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


@observed
def publish(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the published directory is pinned and complete on a quorum of nodes, by their own word. Of a revision
    that was published long ago this is proven again, and mended from the node that has it all.

    Raises ProofMissing while there are too few, Corruption when S3 gives other bytes than were staged.
    """
    if upload.state in _GIVEN_UP:
        return upload
    revision = remaking.revision(upload, objects, nodes, store, settings)
    root, expected = revision.directory.root, _extent(upload)
    store.claim(lease, str(root.cid))
    outcome = replicas.attempt(
        nodes,
        settings.ipfs_quorum,
        lambda node: replicas.publish(node, revision, expected, settings),
        settings.ipfs_grace_seconds,
    )
    store.add_receipts(lease, "finding", outcome.findings(str(root.cid)), clock.now())
    store.pinned(lease, outcome.receipts, clock.now())
    return store.upload(upload.upload_id)


# ---- 4. playlists rewritten to ipfs://, recorded on IPFS beside the originals -----------------------------------


@observed
def write_ipfs_manifest(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the record directory is proven on a quorum of nodes like the published one. Where playlists are
    rewritten in another way than when the revision was published, it is a new record, and the old one stays pinned."""
    if upload.state in _GIVEN_UP:
        return upload
    revision = remaking.revision(upload, objects, nodes, store, settings)
    small = _record(revision)
    root = str(small.directory.root.cid)
    store.claim(lease, root)
    outcome = replicas.attempt(
        nodes,
        settings.ipfs_quorum,
        lambda node: replicas.publish_small(node, small, f"{upload.video_id} record"),
        settings.ipfs_grace_seconds,
    )
    store.add_receipts(lease, "finding", outcome.findings(root), clock.now())
    manifest = small.directory.nodes[keys.record_manifest(revision.package.root)]
    store.record_published(lease, root, str(manifest.cid), outcome.receipts, clock.now())
    return store.upload(upload.upload_id)


def _record(revision: Revision) -> replicas.SmallDirectory:
    """The playlists with `ipfs://` references, the creator's own ones, and the list of files."""
    return replicas.SmallDirectory.of(renderings.record(revision), revision.profile)


# ---- 5. the final JSON becomes the current version ---------------------------------------------------------------


@observed
def finalize(upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings) -> Upload:
    """Afterwards the final document is current, or the upload is superseded by a higher revision that was ready first.

    Raises ProofMissing unless both directories are proven on the quorum.
    """
    if upload.state is State.PINNED:
        proofs, files, now = store.receipts(upload.upload_id, "proof"), store.inventory(upload.upload_id), clock.now()
        _require_proof(upload, proofs, settings)
        if store.newest_ready_revision(upload.video_id) > (upload.revision or 0):
            store.supersede(lease, "a newer revision was ready first", now)
            return store.upload(upload.upload_id)
        store.finalize(
            lease,
            _final_document(upload, files, proofs, now),
            now + timedelta(seconds=settings.s3_grace_seconds),
            actor=_actor(upload),
            reason=evidence.sealed("published", files, upload.facts, proofs),
            run_id=lease.run_id,
            now=now,
        )
    elif upload.state in remaking.READY:
        _revise(upload, lease, store, settings)
    mirror_document(lease, objects, store, settings)
    upload = store.upload(upload.upload_id)
    published = upload.state is State.PUBLISHED
    if published and settings.pinning_services and not store.receipts(upload.upload_id, "pinning"):
        pinning.request(upload, lease, store, settings)
    return upload


def _revise(upload: Upload, lease: Lease, store: MetadataStore, settings: Settings) -> None:
    """A new version where what is on IPFS is not what the revision's last document names."""
    proofs, files, now = store.receipts(upload.upload_id, "proof"), store.inventory(upload.upload_id), clock.now()
    before, document = store.newest_version(upload), _final_document(upload, files, proofs, now)
    if before and json.loads(before.document)["video_assets"] != document["video_assets"]:
        _require_proof(upload, proofs, settings)
        store.revise(
            lease,
            document,
            actor=_actor(upload),
            reason=evidence.sealed("made again", files, upload.facts, proofs),
            run_id=lease.run_id,
            now=now,
        )


def _final_document(
    upload: Upload, files: Sequence[InventoryFile], proofs: Sequence[dict[str, Any]], now: datetime
) -> dict[str, Any]:
    assert upload.revision and upload.playlist and upload.root and upload.record and upload.manifest
    return documents.final(
        video_id=upload.video_id,
        revision=upload.revision,
        root_playlist_cid=upload.manifest,
        root=upload.root,
        record=upload.record,
        playlist=upload.playlist,
        segments=[file.cid for file in files if not file.is_playlist],
        completed_at=now,
        replicas=len(replicas.proven(proofs, upload.root)),
        creator=upload.metadata or {},
    )


def _require_proof(upload: Upload, proofs: Sequence[dict[str, Any]], settings: Settings) -> None:
    for root in (upload.root, upload.record):
        if root is None or len(replicas.proven(proofs, root)) < settings.ipfs_quorum:
            raise ProofMissing(
                f"upload {upload.upload_id}: {root or 'its record'} is not proven on {settings.ipfs_quorum} node(s)"
            )


# ---- 6. when due: the proof is repeated, then the S3 copies go ---------------------------------------------------


@observed
def clear_temp_storage(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """Afterwards the upload's S3 objects that are due and their rows are gone, a receipt says on whose evidence.

    Raises ProofMissing when a quorum does not give back every block of both directories, not even after it was filled
    up from S3, and Corruption when an object is not what was staged; then nothing at all is deleted.
    """
    mirror_document(lease, objects, store, settings)
    waiting = temp_storage.due(store.temp_objects(upload.upload_id), clock.now())
    if waiting and upload.state is State.WITHDRAWN:
        withdrawal.finish(upload, lease, objects, nodes, store, settings)
    elif waiting:
        try:
            decision = temp_storage.look(upload, waiting, objects, settings)
            proofs = _made_superfluous(upload, lease, objects, nodes, store, settings)
            temp_storage.remove(decision, proofs, upload, lease, objects, store, settings)
        except temp_storage.Odd as odd:
            temp_storage.note(odd, lease, store)
            raise
    return store.upload(upload.upload_id)


def _made_superfluous(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> list[dict[str, Any]]:
    """Why the S3 copies may go: a published revision is proven again, pins and keys of one that was overtaken go, too.

    A node that lost something since `finalize` is filled up from the S3 copies first: they are the last chance.
    """
    if upload.state is State.SUPERSEDED:
        if refusals := withdrawal.release(upload, lease, nodes, store, settings):
            raise refusals[0]
        withdrawal.forget_private_keys(upload, objects, settings)
        return []
    assert upload.root and upload.record
    revision = remaking.revision(upload, objects, nodes, store, settings)
    expected = _extent(upload)
    check = partial(_read_back, upload, settings)

    def refill(node: Kubo, again: bool) -> None:
        replicas.publish(node, revision, expected, settings, again=again)
        replicas.publish_small(node, _record(revision), f"{upload.video_id} record")

    def check_or_refill(node: Kubo) -> list[Receipt]:
        """Of what seems to be there only the pin is made first; then every block is sent, for it may be damaged."""
        for again in (False, True):
            try:
                return check(node)
            except ProofMissing as lost:
                try:
                    refill(node, again)
                except ObjectMissing as error:
                    raise ProofMissing(f"{lost}; S3 cannot fill it up either: {error}") from error
        return check(node)

    return replicas.on_quorum(nodes, settings.ipfs_quorum, check_or_refill, settings.ipfs_grace_seconds)


# ---- shared by the steps -----------------------------------------------------------------------------------------


def _extent(upload: Upload) -> Extent:
    """What staging counted of the published directory."""
    return Extent(upload.blocks or 0, upload.dag_bytes or 0)


def _read_back(upload: Upload, settings: Settings, node: Kubo) -> list[Receipt]:
    """Both directories given back by one node. Raises ProofMissing."""
    package = replicas.read_back(node, upload.root or "", _extent(upload), settings.proof_sample)
    return [*package, *replicas.read_back(node, upload.record or "")]


def mirror_document(lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings) -> None:
    """Puts the current document where the creator finds it, unless it is there already."""
    version = store.unmirrored(lease.video_id)
    if version:
        document = json.dumps(json.loads(version.document), ensure_ascii=False, indent=2)
        objects.put(settings.s3_media, keys.current_document(lease.video_id), document.encode(), "application/json")
        store.mirrored(lease, version)


def _actor(upload: Upload) -> str:
    if upload.drop.prefix.startswith(remaking.PREFIX):
        return "backfill"
    return "inbox" if upload.drop.in_inbox else "gateway"
