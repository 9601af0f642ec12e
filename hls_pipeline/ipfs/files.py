"""A file as a balanced DAG: chunks become leaves, and full groups of leaves become link nodes.

`FileBuilder` is fed bytes in any pieces and hands out blocks as they are finished, so that one class serves
hashing alone and sending. It holds one unfinished chunk and one unfinished group per level, whatever the
file's size. Profiles live here; directories are built in `directories`. Source:
specs.ipfs.tech/ipips/ipip-0499, boxo importer/balanced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import DAG_PB, Cid, varint


@dataclass(frozen=True, slots=True)
class Profile:
    """The choices that decide content ids (IPIP-499)."""

    name: str
    version: Literal[0, 1]
    raw_leaves: bool
    chunk_size: int
    """Bytes."""
    max_links: int
    """Children of one link node of a file."""
    sharding_by: Literal["links", "block"]
    """What of a directory is measured: name and content id lengths, or the whole encoded block."""
    sharding_threshold: int = 256 * 1024
    """Bytes; a directory that measures more is sharded."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("unixfs-v1-2025", 1, True, 1024 * 1024, 1024, "block"),
        Profile("unixfs-v0-2015", 0, False, 256 * 1024, 174, "links"),
    )
}


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory or symlink under its content id."""

    cid: Cid
    size: int
    """Bytes of file content; of a directory, of all files below."""
    tsize: int
    """Bytes of all blocks of the DAG, repeated ones counted each time (as dag-pb's Tsize does)."""
    blocks: int
    """How many blocks the DAG has, repeated ones counted each time."""


class FileBuilder:
    """Chunks, hashes and links one file. `feed` as often as you like, then `finish` once."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._pieces: list[bytes | memoryview] = []
        self._pending = 0
        self._levels: list[list[Node]] = [[]]

    def feed(self, chunk: bytes) -> list[Block]:
        """Take more content; answer the blocks that this finished."""
        wanted = self._profile.chunk_size
        if not self._pending and len(chunk) == wanted:
            self._pieces = [chunk]
            return self._leaf()
        finished: list[Block] = []
        view = memoryview(chunk)
        while len(view):
            piece, view = view[: wanted - self._pending], view[wanted - self._pending :]
            self._pieces.append(piece)
            self._pending += len(piece)
            if self._pending == wanted:
                finished += self._leaf()
        return finished

    def finish(self) -> tuple[Node, list[Block]]:
        """The file's node, and the blocks that were still open."""
        finished: list[Block] = []
        if self._pending or not any(self._levels):
            finished += self._leaf()
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            if self._levels[level]:
                finished += self._fold(level)
            level += 1
        return self._levels[level][0], finished

    def _leaf(self) -> list[Block]:
        """The pending pieces as a block, joined once: copies cost speed here."""
        size = sum(map(len, self._pieces))
        if self._profile.raw_leaves:
            block = b"".join(self._pieces)
            cid = Cid.of(block)
        else:
            block = b"".join(_wrapped(self._pieces, size))
            cid = Cid.of(block, DAG_PB, self._profile.version)
        self._pieces, self._pending = [], 0
        return [(cid, block), *self._add(0, Node(cid, size, len(block), 1))]

    def _add(self, level: int, node: Node) -> list[Block]:
        """Put a node on its level; a group that is full then becomes one node on the level above."""
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(node)
        if len(self._levels[level]) < self._profile.max_links:
            return []
        return self._fold(level)

    def _fold(self, level: int) -> list[Block]:
        children, self._levels[level] = self._levels[level], []
        size = sum(child.size for child in children)
        sizes = (b"\x20" + varint(child.size) for child in children)
        data = b"\x08\x02\x18" + varint(size) + b"".join(sizes)
        block = dagpb.encode(data, (dagpb.Link(b"", child.cid, child.tsize) for child in children))
        node = parent(Cid.of(block, DAG_PB, self._profile.version), block, children)
        return [(node.cid, block), *self._add(level + 1, node)]


def parent(cid: Cid, block: bytes, children: Iterable[Node]) -> Node:
    """The node of a block that links to these."""
    size, tsize, blocks = 0, len(block), 1
    for child in children:
        size, tsize, blocks = size + child.size, tsize + child.tsize, blocks + child.blocks
    return Node(cid, size, tsize, blocks)


def _wrapped(pieces: list[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """A leaf inside dag-pb: UnixFS type file, content, size."""
    length = varint(size)
    content = [b"\x12", length, *pieces] if size else []
    inside = 3 + len(length) + sum(map(len, content))
    return [b"\x0a", varint(inside), b"\x08\x02", *content, b"\x18", length]
