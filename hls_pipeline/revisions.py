"""An accepted revision as it lies in the media bucket: its package read again, its files as IPFS blocks.

Every later step starts from the creator's own bytes kept at staging, so each form of a playlist is rendered from the
original and a step can be repeated at any time. Nothing here changes anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

from hls_pipeline.errors import Corruption
from hls_pipeline.hls.model import Playlist, SideFile
from hls_pipeline.hls.package import Package, survey
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, Directory, FileBuilder, Node, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.uploads import ACCEPTED_UNDER, Upload

_READERS = 4
"""Files that are read ahead at once, in one stream of blocks."""


def node(file: InventoryFile) -> Node:
    return Node(Cid.parse(file.cid), file.size, file.dag_size, file.dag_blocks)


def hash_bytes(data: bytes, profile: Profile) -> tuple[Node, list[Block]]:
    """A small file as a node and its blocks."""
    builder = FileBuilder(profile)
    blocks = list(builder.feed(data))
    made, rest = builder.finish()
    return made, [*blocks, *rest]


def content_id(pieces: Iterable[bytes], profile: Profile) -> str:
    """Of a file that is read once, piece by piece."""
    builder = FileBuilder(profile)
    for piece in pieces:
        builder.feed(piece)
    return str(builder.finish()[0].cid)


@dataclass(frozen=True)
class Revision:
    """One accepted revision: what is on record of it, and where its bytes lie."""

    upload: Upload
    files: tuple[InventoryFile, ...]
    objects: ObjectStore
    bucket: str
    policy: Policy

    @cached_property
    def profile(self) -> Profile:
        assert self.upload.profile is not None
        return PROFILES[self.upload.profile]

    @cached_property
    def by_path(self) -> Mapping[str, InventoryFile]:
        return {file.path: file for file in self.files}

    @property
    def accepted_under(self) -> Policy:
        """Today's policy, save for what decides which files are published and what playlists name."""
        return self.policy.of(self.upload.video_id, (self.upload.facts or {}).get(ACCEPTED_UNDER))

    @cached_property
    def package(self) -> Package:
        """The package, read again from the originals. Corruption if they no longer make the package we accepted."""
        package = survey(self, self.accepted_under, self.upload.playlist).package
        if package is None or {*package.playlists, *(file.path for file in package.files)} != {*self.by_path}:
            raise Corruption(f"upload {self.upload.upload_id}: the files in S3 are not the package that was accepted")
        return package

    @property
    def media(self) -> Iterator[InventoryFile]:
        """Each distinct non-playlist file once, at its first mention."""
        return (file for file in self.files if not file.is_playlist)

    @cached_property
    def directory(self) -> Directory:
        """The published directory. Corruption if it is not the one whose content id was computed at staging."""
        directory = build_directory({file.path: node(file) for file in self.files}, self.profile)
        if str(directory.root.cid) != self.upload.root:
            raise Corruption(f"upload {self.upload.upload_id}: the inventory does not make {self.upload.root}")
        return directory

    def documents(self) -> Iterator[Playlist | SideFile]:
        """What carries references, leaves first."""
        for path in self.package.rewrite_order:
            yield self.package.playlists.get(path) or self.package.side_files[path]

    def blocks(self, files: Iterable[InventoryFile], ahead: int = 0) -> Iterator[Block]:
        """The blocks of `files` as published, read from S3 and hashed on the way. Up to `ahead` bytes of the next files
        are being read meanwhile. Raises Corruption when the bytes are not those that were staged."""
        for file, pieces in self._begun(files, ahead):
            builder = FileBuilder(self.profile)
            for piece in pieces():
                yield from builder.feed(piece)
            made, rest = builder.finish()
            yield from rest
            if str(made.cid) != file.cid:
                raise Corruption(f"{file.path}: S3 gives other bytes than were staged ({made.cid}, not {file.cid})")

    def _begun(
        self, files: Iterable[InventoryFile], ahead: int
    ) -> Iterator[tuple[InventoryFile, Callable[[], Iterable[bytes]]]]:
        """Each file and what gives its bytes. Asking S3 takes as long as getting a segment: several are asked for at
        once. A file larger than all of `ahead` is read piece by piece, when its turn comes."""
        waiting, size = deque[tuple[InventoryFile, Callable[[], Iterable[bytes]]]](), 0
        pool = ThreadPoolExecutor(_READERS, "s3-ahead")
        try:
            for file in files:
                while waiting and size + file.size > ahead:
                    yield waiting[0]
                    size -= waiting.popleft()[0].size
                read = partial(self._published, file)
                waiting.append((file, pool.submit(list, read()).result if file.size <= ahead else read))
                size += file.size
            yield from waiting
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _published(self, file: InventoryFile) -> Iterable[bytes]:
        document = self.package.playlists.get(file.path) or self.package.side_files.get(file.path)
        return [relative(document)] if document else self.read(file.path)

    # ---- the source protocol of `hls` -------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        private = {path: item.size for path, item in self.upload.private_keys.items()}
        return private | {file.path: file.size for file in self.files}

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        """The creator's bytes."""
        file = self.by_path[path]
        if file.size == 0:
            return iter(())
        assert file.key is not None
        return self.objects.read(self.bucket, file.key, limit=limit)
