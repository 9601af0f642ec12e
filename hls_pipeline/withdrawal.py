"""Taking a video back: decided in one transaction, carried out afterwards, as often as it takes.

From the transaction on, readers get a document that says so and no run goes on with the video. What it has in S3 and
on the nodes is removed at once as far as the services answer; rows in `temp_storage` stand for the rest, and the
clean-up goes on with it. Versions and receipts stay: that it was there, and who withdrew it, belongs to the history.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hls_pipeline import clock, documents, drops, keys, pinning, temp_storage, work
from hls_pipeline.errors import PipelineError, ServiceError, UserError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.pinning_service import PinningService
from hls_pipeline.metadata_store import Lease, MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload
from hls_pipeline.versions import Version

_REASON_LENGTH = 1000  # characters


@dataclass(frozen=True)
class Withdrawal:
    version: Version
    """The document that readers get now."""
    left: tuple[str, ...]
    """What could not be done yet, and why; the clean-up goes on with it."""


def withdraw(
    video_id: str,
    *,
    actor: str,
    reason: str,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Withdrawal:
    """Afterwards nobody is served the video any more. Said again, it goes on with what is left.

    Raises UserError for a reason that is none, NotFound for an unknown video, Conflict when nothing of it was accepted.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > _REASON_LENGTH:
        raise UserError(f"withdrawing {video_id} needs a reason: one line of at most {_REASON_LENGTH} characters")
    now = clock.now()
    version, uploads = store.withdraw(
        video_id,
        lambda revision: documents.withdrawn(video_id=video_id, revision=revision, withdrawn_at=now, reason=reason),
        settings.s3_media,
        actor=actor,
        reason=reason,
        run_id=None,
        now=now,
    )
    left = []
    for upload in uploads:
        try:
            with work.holding(upload, f"withdraw:{uuid.uuid4()}", store, settings, last=True) as lease:
                finish(upload, lease, objects, nodes, store, settings)
        except PipelineError as error:
            left.append(str(error))
    return Withdrawal(version, tuple(left))


def finish(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> None:
    """Afterwards a withdrawn upload has nothing left in S3 and no pin, at pinning services neither; a node that is down
    does not keep S3 from being emptied. Raises what kept it from being finished."""
    refusals = release(upload, lease, nodes, store, settings)
    drops.take_out(objects, upload.drop)
    forget_private_keys(upload, objects, settings)
    decision = temp_storage.look_at_everything(_prefixes(upload, store), objects, settings)
    temp_storage.remove(decision, [], upload, lease, objects, store, settings)
    if refusals:
        raise refusals[0]
    rows = [item.cid for item in store.temp_objects(upload.upload_id)]
    if decision.held:
        store.objects_stay(lease, rows, clock.now() + temp_storage.HELD, clock.now())
    else:
        store.objects_removed(lease, rows, {"removed": rows, "evidence": []}, clock.now())


def release(
    upload: Upload, lease: Lease, nodes: Sequence[Kubo], store: MetadataStore, settings: Settings
) -> list[ServiceError]:
    """Gives up the upload's claims; what nobody else needs is unpinned on every node and at every pinning service.
    Answers why it is not, where it is not; those claims stand until the next try."""
    holders: list[Kubo | PinningService] = [*nodes, *pinning.connect(settings)]
    refusals: list[ServiceError] = []
    for root in store.claims(upload.upload_id):
        unpinned, refused = list[str](), list[ServiceError]()
        receipt: dict[str, Any] = {"root": root, "unpinned": unpinned}
        for holder in holders:
            # Asked for each: whoever is slow may take longer than a claim waits.
            if not store.release_claim(lease, root):
                receipt["kept"] = "another revision or video has it too"
                break
            try:
                if holder.unpin(Cid.parse(root)):
                    unpinned.append(holder.name)
            except ServiceError as error:
                refused.append(error)
        else:
            receipt["refused"] = list(map(str, refused))
            (store.still_claimed if refused else store.unpinned)(lease, root)
            refusals += refused
        store.add_receipts(lease, "withdrawal", [receipt], clock.now())
    return refusals


def forget_private_keys(upload: Upload, objects: ObjectStore, settings: Settings) -> None:
    """The key service has nothing any more of a revision that nobody can watch."""
    if upload.private_keys and upload.revision is not None and settings.s3_keys:
        objects.delete_versions(settings.s3_keys, keys.revision(upload.video_id, upload.revision))


def _prefixes(upload: Upload, store: MetadataStore) -> list[str]:
    """The revision's folder, and the mirrored document unless a newer arrival has put its own there."""
    prefixes = [] if upload.revision is None else [keys.revision(upload.video_id, upload.revision)]
    current = store.current(upload.video_id)
    if current and json.loads(current.document)["status"] == "withdrawn":
        prefixes.append(keys.current_document(upload.video_id))
    return prefixes
