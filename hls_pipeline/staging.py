"""Reading a drop once, and bringing it to where the revision waits for IPFS.

What the stage step is made of: `examine` checks every file and computes its content id in one pass over the bytes,
`inventory` lists what is published and where it will lie, `bring_to_media` brings it there. Whether a package is
accepted is decided in `judging.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hls_pipeline import clock, drops, keys
from hls_pipeline.errors import ObjectChanged, ObjectMissing, Outage, ServiceError
from hls_pipeline.hls.content_types import DEFAULT_TYPE, PLAYLIST_TYPE, content_type
from hls_pipeline.hls.findings import Finding, Report, bounded
from hls_pipeline.hls.media import MediaProbe
from hls_pipeline.hls.model import Playlist, SideFile
from hls_pipeline.hls.package import Package, survey
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.unixfs import FileBuilder, Node, Profile
from hls_pipeline.metadata_store import InventoryFile, Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore, Stored
from hls_pipeline.revisions import Revision, content_id, hash_bytes
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import DropObject, Upload


@dataclass(frozen=True)
class Contents:
    """What reading every published file once gave."""

    nodes: dict[str, Node]  # as published
    originals: dict[str, str]  # content ids of the creator's bytes
    blocks: dict[bytes, int]  # digest → bytes of each distinct block


class Reading:
    """What one pass over a file gives: `feed` it every piece in order, then `finish` it."""

    node: Node
    """The file under its content id; set by `finish`."""

    def __init__(self, profile: Profile) -> None:
        self.probe = MediaProbe()
        self.blocks: dict[bytes, int] = {}  # digest → bytes of each distinct block
        self._builder = FileBuilder(profile)

    @classmethod
    def of(cls, pieces: Iterable[bytes], profile: Profile) -> Reading:
        reading = cls(profile)
        for _ in reading.passing(pieces):
            pass
        return reading

    def passing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of the whole file, read on their way to somewhere else."""
        for piece in pieces:
            self.feed(piece)
            yield piece
        self.finish()

    def feed(self, piece: bytes) -> None:
        self.probe.feed(piece)
        self._note(self._builder.feed(piece))

    def finish(self) -> None:
        """From here on nothing of the bytes is held any longer."""
        self.node, rest = self._builder.finish()
        self._note(rest)

    def _note(self, blocks: Iterable[Block]) -> None:
        self.blocks.update((cid.digest, len(block)) for cid, block in blocks)


def examine(
    source: drops.DropSource | Revision,
    profile: Profile,
    policy: Policy,
    playlist: str | None = None,
    noted: Mapping[str, Reading] | None = None,
) -> tuple[Package | None, Report, Contents]:
    """Checks the package and computes its content ids, reading each file once. `playlist` is its root, where known;
    `noted` are the files that somebody read already, with exactly the bytes that `source` would give."""
    survey_ = survey(source, policy, playlist)
    contents = Contents({}, {}, {})
    package = survey_.package
    if package is None:
        return None, survey_.report, contents

    def look(path: str) -> tuple[str, Node, dict[bytes, int], tuple[Finding, ...]]:
        reading = (noted or {}).get(path) or Reading.of(source.read(path), profile)
        return path, reading.node, reading.blocks, package.judge(path, reading.probe)

    findings = list(survey_.findings)
    for path, node, blocks, found in source.objects.each(look, [file.path for file in package.files]):
        contents.nodes[path] = node
        contents.originals[path] = str(node.cid)
        contents.blocks.update(blocks)
        findings += found
    documents: list[Playlist | SideFile] = [*package.playlists.values(), *package.side_files.values()]
    for document in documents:
        node, made = hash_bytes(relative(document), profile)
        contents.nodes[document.path] = node
        contents.originals[document.path] = content_id([document.data], profile)
        contents.blocks.update((cid.digest, len(block)) for cid, block in made)
    return package, Report(package.root, bounded(findings)), contents


def inventory(upload: Upload, package: Package, contents: Contents, revision: int) -> list[InventoryFile]:
    """Playlists depth first from the root, then every other file once, at its first mention."""
    video_id = upload.video_id

    def item(path: str, role: str, content_type: str) -> InventoryFile:
        node = contents.nodes[path]
        key = keys.stored(video_id, revision, str(node.cid), path, playlist=role == "playlist")
        source = upload.drop.prefix + path
        return InventoryFile(
            0, path, role, content_type, node.size, str(node.cid), node.tsize, node.blocks, key, source
        )

    playlists = [item(path, "playlist", PLAYLIST_TYPE) for path in package.playlists]
    others = [item(file.path, file.role, file.content_type) for file in package.files]
    return [replace(file, position=n) for n, file in enumerate([*playlists, *others])]


def expected_objects(
    upload: Upload, files: Iterable[InventoryFile], contents: Contents, settings: Settings
) -> list[TempObject]:
    sizes = {item.key: item.size for item in upload.drop.objects}
    return [
        TempObject(keys.s3_uri(settings.s3_media, file.key), sizes[file.source_key], contents.originals[file.path])
        for file in files
        if file.key and file.source_key
    ]


def bring_to_media(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    store: MetadataStore,
    settings: Settings,
    ours: Collection[str] = (),
) -> None:
    """Copies everything on the S3 server, or renames it there where the server can; either is tied to the ETag that was
    read. `ours` are files that nobody else writes to: a creator's own stay until all of them are copied. Once the media
    are on record all of it is there, and nothing is copied or undone any more: the drop may be gone in part."""
    media, files = settings.s3_media, store.inventory(upload.upload_id)
    put = {item.cid for item in store.temp_objects(upload.upload_id) if item.etag}
    distinct = {file.key: file for file in files if file.key}
    if put.issuperset(keys.s3_uri(media, key) for key in distinct):
        return
    frozen = {item.key: item for item in upload.drop.objects}
    renaming = bool(ours) and objects.renames(media, keys.arrival(secrets.token_hex(16)))

    def bring(file: InventoryFile) -> TempObject:
        assert file.key and file.source_key
        source = frozen[file.source_key]
        path, etag, size = upload.drop.path(source), source.etag, source.size
        try:
            if renaming and path in ours and content_type(path) == file.content_type:
                stored = objects.rename(media, source.key, file.key, etag=etag, size=size)
            else:
                origin, target = (upload.drop.bucket, source.key), (media, file.key)
                stored = objects.copy(origin, target, etag=etag, size=size, kind=file.content_type)
        except ObjectMissing:
            stored = objects.head(media, file.key)  # renamed by somebody who was cut off after it
            if (stored.etag, stored.size) != (etag, size):
                raise
        return temp_object(keys.s3_uri(media, file.key), stored)

    try:
        _keep_private_keys(upload, objects, settings)
        _keep_unreferenced(upload, files, objects, settings)
        brought = objects.each(bring, list(distinct.values()))
        if renaming:
            _require_listed(brought, upload, objects, settings)
        store.objects_put(lease, brought)
    except (ObjectChanged, ObjectMissing) as error:
        _undo_acceptance(upload, lease, objects, store, settings)
        raise drops.changed(upload.drop) from error
    except ServiceError:
        objects.doubt_renames(media)
        raise


def _require_listed(brought: Iterable[TempObject], upload: Upload, objects: ObjectStore, settings: Settings) -> None:
    """A server that does not know how to rename may say that it did and have an empty object: one that was taken back
    to an older release, or one of several that answer to the same name. What the object was is still there then.
    Raises Outage; the next run copies."""
    assert upload.revision is not None
    prefix = keys.revision(upload.video_id, upload.revision)
    listed = objects.listing(settings.s3_media, prefix)
    there = {(keys.s3_uri(settings.s3_media, item.key), item.etag, item.size) for item in listed}
    if not there.issuperset((item.cid, item.etag, item.size) for item in brought):
        raise Outage(f"upload {upload.upload_id}: S3 does not list what was renamed; it is copied in the next run")


def _keep_private_keys(upload: Upload, objects: ObjectStore, settings: Settings) -> None:
    """Keys go to their own bucket, which a key service reads; nothing else here ever reads them."""
    if private := upload.private_keys:
        assert settings.s3_keys and upload.revision is not None
        prefix = keys.revision(upload.video_id, upload.revision)
        _keep(upload, list(private.values()), settings.s3_keys, prefix, objects)


def _keep_unreferenced(
    upload: Upload, files: Iterable[InventoryFile], objects: ObjectStore, settings: Settings
) -> None:
    """Files that no playlist reaches are kept in S3 and never published."""
    published = {file.source_key for file in files} | {upload.drop.prefix + keys.METADATA}
    published |= {item.key for item in upload.private_keys.values()}
    assert upload.revision is not None
    kept = keys.unreferenced(upload.video_id, upload.revision, "")
    _keep(upload, [item for item in upload.drop.objects if item.key not in published], settings.s3_media, kept, objects)


def keep_changed_extras(
    upload: Upload, paths: Collection[str], revision: int, objects: ObjectStore, settings: Settings
) -> None:
    """The published files are those of `revision`, but what no playlist reaches may be new: it is kept there too."""
    extras = [item for item in upload.drop.objects if upload.drop.path(item) in paths]
    _keep(upload, extras, settings.s3_media, keys.unreferenced(upload.video_id, revision, ""), objects)


def _keep(upload: Upload, items: Sequence[DropObject], bucket: str, prefix: str, objects: ObjectStore) -> None:
    """What of the drop is not there yet is copied as it is, under its path in the package."""
    there = {item.key: item.etag for item in objects.listing(bucket, prefix)} if items else {}

    def keep(item: DropObject) -> None:
        source, target = (upload.drop.bucket, item.key), (bucket, prefix + upload.drop.path(item))
        objects.copy(source, target, etag=item.etag, size=item.size, kind=DEFAULT_TYPE)

    objects.each(keep, [item for item in items if there.get(prefix + upload.drop.path(item)) != item.etag])


def _undo_acceptance(
    upload: Upload, lease: Lease, objects: ObjectStore, store: MetadataStore, settings: Settings
) -> None:
    """The drop changed while it was copied: nothing of it stays, its revision number is free again."""
    assert upload.revision is not None
    prefix = keys.revision(upload.video_id, upload.revision)
    store.renew(lease, clock.now(), settings.lease_seconds)
    for bucket in filter(None, (settings.s3_media, settings.s3_keys)):
        objects.delete_versions(bucket, prefix)  # all of them: the next package may have the same keys
    store.take_back(lease)


def temp_object(cid: str, stored: Stored) -> TempObject:
    """As on record, once it is there; `cid` is its `s3://` address."""
    return TempObject(cid, stored.size, None, stored.etag, stored.version_id)
