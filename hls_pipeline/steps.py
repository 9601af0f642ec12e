"""The path of a package, top to bottom in the order things happen. Read this page first.

    stage → write_s3_manifest → publish → write_ipfs_manifest → finalize ┄ (when due) ┄ clear_temp_storage

Each step takes what it needs, makes one thing true, and returns the upload as it is then. Run twice, or again after a
crash at any point, it leaves the same result: what is done already is recognised by what S3, IPFS and the metadata
store say, never by a note of our own. Bytes are streamed; nothing is deleted before its successor is proven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from hls_pipeline import (
    clock,
    documents,
    drops,
    estimate,
    evidence,
    judging,
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
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Receipt
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision
from hls_pipeline.settings import Settings
from hls_pipeline.tracing import observed
from hls_pipeline.uploads import READY, State, Upload

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
    Files that are `noted` were read on their way into the drop, where nobody else writes; they are not read again.

    Raises DropChanged when the creator wrote to the folder meanwhile.
    """
    if upload.state is not State.RECEIVED:
        return upload
    if upload.revision is None:
        upload = judging.judge(upload, lease, objects, nodes, store, settings, noted)
        if upload.revision is None:
            return upload
    staging.bring_to_media(upload, lease, objects, store, settings, ours=noted or ())
    store.renew(lease, clock.now(), settings.lease_seconds)
    drops.take_out(objects, upload.drop)
    return upload


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

    def put(key: str) -> TempObject:
        return staging.temp_object(keys.s3_uri(media, key), objects.put(media, key, by_key[key], PLAYLIST_TYPE))

    store.objects_put(lease, objects.each(put, list(by_key)))


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
    root, expected = revision.directory.root, replicas.extent(upload)
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
    elif upload.state in READY:
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
    expected = replicas.extent(upload)

    def refill(node: Kubo, again: bool) -> None:
        replicas.publish(node, revision, expected, settings, again=again)
        replicas.publish_small(node, _record(revision), f"{upload.video_id} record")

    def check_or_refill(node: Kubo) -> list[Receipt]:
        """Of what seems to be there only the pin is made first; then every block is sent, for it may be damaged."""
        for again in (False, True):
            try:
                return replicas.read_back_both(node, upload, settings.proof_sample)
            except ProofMissing as lost:
                try:
                    refill(node, again)
                except ObjectMissing as error:
                    raise ProofMissing(f"{lost}; S3 cannot fill it up either: {error}") from error
        return replicas.read_back_both(node, upload, settings.proof_sample)

    return replicas.on_quorum(nodes, settings.ipfs_quorum, check_or_refill, settings.ipfs_grace_seconds)


# ---- shared by the steps -----------------------------------------------------------------------------------------


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
