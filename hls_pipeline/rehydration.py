"""Bringing a cleared revision back to S3 from IPFS: for a player farm, or when IPFS is to be left.

Every file is hashed block by block on its way, and becomes an object only if its content id comes out as it was at
staging. The copies are on record like those of `stage` and `write_s3_manifest`, but they are not due: they stay until
`give_up` lets the clean-up have them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hls_pipeline import clock, keys, renderings
from hls_pipeline.errors import Conflict, ProofMissing, ServiceError
from hls_pipeline.hls.content_types import PLAYLIST_TYPE
from hls_pipeline.ipfs import reading
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import FileBuilder, Profile
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision, content_id
from hls_pipeline.settings import Settings
from hls_pipeline.staging import temp_object
from hls_pipeline.uploads import READY, Upload

_T = TypeVar("_T")


@dataclass(frozen=True)
class Restored:
    """What was brought back; what was there already is not counted."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class _Copy:
    """One object to be, and where its bytes come from."""

    key: str
    content_type: str
    size: int
    content_id: str | None
    pieces: Callable[[Kubo], Iterator[bytes]]
    """The bytes from one node. Raises ProofMissing, at its end at the latest, when they are not those of staging."""


def rehydrate(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> Restored:
    """Afterwards every S3 object of a published revision is there again, and none is due for removal.

    Raises Conflict for an upload that was never published, ProofMissing when no node gives a file back as it was
    staged; what was brought back until then stays, and the next try goes on from there.
    """
    if upload.state not in READY or upload.revision is None or upload.record is None:
        raise Conflict(f"upload {upload.upload_id} is {upload.state}; only a published revision can be brought back")
    revision = Revision(upload, store.inventory(upload.upload_id), objects, settings.s3_media, settings.policy())
    put = partial(_put, upload=upload, lease=lease, objects=objects, nodes=nodes, store=store, settings=settings)
    done = [*put(_files(revision, nodes)), *put(_manifests(revision))]
    if done:
        receipt = {"objects": len(done), "bytes": sum(copy.size for copy in done)}
        store.add_receipts(lease, "restoration", [receipt], clock.now())
    return Restored(len(done), sum(copy.size for copy in done))


def give_up(lease: Lease, store: MetadataStore) -> None:
    """The clean-up may remove the copies again, once IPFS is proven to have them still."""
    store.objects_due(lease, clock.now())


def _put(
    copies: Sequence[_Copy],
    *,
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
) -> list[_Copy]:
    """Puts what is not there as it is on record; answers that."""
    media = settings.s3_media

    def restore(copy: _Copy) -> None:
        first(nodes, lambda node: objects.upload(media, copy.key, copy.pieces(node), copy.content_type))
        store.objects_put(lease, [temp_object(keys.s3_uri(media, copy.key), objects.head(media, copy.key))])

    expected = [TempObject(keys.s3_uri(media, copy.key), copy.size, copy.content_id) for copy in copies]
    store.expect_objects(lease, expected)
    store.objects_stay(lease, [item.cid for item in expected], None, clock.now())
    known = {item.cid: (item.etag, item.size) for item in store.temp_objects(upload.upload_id)}
    listing = objects.listing(media, keys.revision(upload.video_id, upload.revision or 0))
    seen = {keys.s3_uri(media, item.key): (item.etag, item.size) for item in listing}
    there = {cid for cid in seen if known.get(cid) == seen[cid]}
    missing = [copy for copy in copies if keys.s3_uri(media, copy.key) not in there]
    objects.each(restore, missing)
    if objects.locks_objects(media):  # what a hold kept is tagged for S3's own rule, which would still remove it
        objects.each(lambda cid: objects.untag(media, cid.removeprefix(keys.s3_uri(media, ""))), sorted(there))
    return missing


# ---- where the bytes come from -----------------------------------------------------------------------------------


def _files(revision: Revision, nodes: Sequence[Kubo]) -> list[_Copy]:
    """Media as they were published; playlists as the creator sent them, which the record has."""
    record = _blocks(revision.upload.record or "", nodes)
    copies: dict[str, _Copy] = {}
    for file in revision.files:
        assert file.key is not None
        if file.is_playlist:
            path = keys.record_original(file.path).split("/")
            cid = reading.resolve(Cid.parse(revision.upload.record or ""), path, record.__getitem__)
            data = b"".join(reading.read_file(cid, record.__getitem__))
            copies[file.key] = _small(file.key, data, revision.profile)
        else:
            pieces = partial(verified, file, revision.profile)
            copies[file.key] = _Copy(file.key, file.content_type, file.size, file.cid, pieces)
    return list(copies.values())


def _manifests(revision: Revision) -> list[_Copy]:
    """The `s3://` playlists, rendered again from the originals that are there by now."""
    upload = revision.upload
    return [
        _small(
            keys.s3_manifest(upload.video_id, upload.revision or 0, document.path),
            renderings.s3_form(document, revision),
            revision.profile,
        )
        for document in revision.documents()
    ]


def _small(key: str, data: bytes, profile: Profile) -> _Copy:
    return _Copy(key, PLAYLIST_TYPE, len(data), content_id([data], profile), lambda _: iter([data]))


def _blocks(root: str, nodes: Sequence[Kubo]) -> dict[Cid, bytes]:
    """All blocks of a small directory, each hashed."""
    return first(nodes, lambda node: dict(node.blocks(Cid.parse(root))))


def verified(file: InventoryFile, profile: Profile, node: Kubo) -> Iterator[bytes]:
    """A file's bytes; every block of them is hashed, and the last piece does not come if the whole is another file."""
    builder, held = FileBuilder(profile), b""
    for piece in node.read(Cid.parse(file.cid)):
        yield held
        held = piece
        builder.feed(piece)
    made, _ = builder.finish()
    if str(made.cid) != file.cid:
        raise ProofMissing(f"{file.path}: {node.name} gives other bytes than were staged ({made.cid}, not {file.cid})")
    yield held


def first(nodes: Sequence[Kubo], work: Callable[[Kubo], _T]) -> _T:
    """From the first node where `work` succeeds; the last one's error when none does."""
    *others, last = nodes
    for node in others:
        try:
            return work(node)
        except ServiceError:
            continue
    return work(last)
