"""Reading UnixFS back: what a block is, a path in a directory, its listing, and any range of a file.

Blocks come from a `fetch` function that answers verified bytes (its own errors pass through). The shapes
inside them are still hostile: sizes must add up, shards must hold what their slots promise, and no walk can
be longer than what it answers; otherwise Corruption. Building belongs to `files` and `directories`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from hls_pipeline.errors import Corruption, NotFound
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import DAG_PB, IDENTITY, RAW, Cid
from hls_pipeline.ipfs.directories import FANOUT, MURMUR3, murmur

Fetch = Callable[[Cid], bytes]


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    """Undecodable bytes are kept as surrogates."""
    cid: Cid
    tsize: int


@dataclass(frozen=True, slots=True)
class Inspection:
    kind: Kind
    size: int
    """Bytes of content: of the file, of the symlink's target; 0 for a directory."""


def inspect(cid: Cid, block: bytes) -> Inspection:
    """What a block is the root of. Corruption if it is no UnixFS."""
    if cid.codec == RAW:
        return Inspection(Kind.FILE, len(block))
    _, node = _unixfs(cid, block)
    if node.type in (dagpb.DIRECTORY, dagpb.HAMT):
        return Inspection(Kind.DIRECTORY, 0)
    if node.type == dagpb.SYMLINK:
        return Inspection(Kind.SYMLINK, len(node.data))
    return Inspection(Kind.FILE, len(node.data) + sum(node.blocksizes))


def resolve(root: Cid, path: Sequence[str], fetch: Fetch) -> Cid:
    """The content id at `path` below `root`. NotFound."""
    at = root
    for name in path:
        found = _child(at, name.encode("utf-8", "surrogateescape"), fetch)
        if found is None:
            raise NotFound(f"no entry named {name[:80]!r} under {at}")
        at = found
    return at


def entries(cid: Cid, fetch: Fetch) -> Iterator[Entry]:
    """The entries of a directory, sharded or not, in the order of its links. NotFound if it is none."""
    pb, node = _directory(cid, fetch)
    for link in pb.links if node.type == dagpb.DIRECTORY else _shard_links(pb, node, b"", fetch):
        yield Entry(link.name.decode("utf-8", "surrogateescape"), link.cid, link.tsize)


def walk(roots: Iterable[Cid], blocks: Iterable[Block]) -> Iterator[Block]:
    """`blocks`, which are verified already, as long as they make up exactly what `roots` name: each must be named by
    one before it, repeated ones are left out, and at the end none may lack. Corruption."""
    wanted, seen = {bytes(root) for root in roots}, set[bytes]()
    for cid, data in blocks:
        key = bytes(cid)
        if key in seen:
            continue
        if key not in wanted:
            raise Corruption(f"block {cid} is no part of it")
        wanted.remove(key)
        seen.add(key)
        yield cid, data
        children = (bytes(child) for child in dagpb.links(cid, data) if child.hash != IDENTITY)
        wanted.update(child for child in children if child not in seen)
    if wanted:
        raise Corruption(f"{len(wanted)} blocks are missing, {Cid.from_bytes(min(wanted))} among them")


def read_file(cid: Cid, fetch: Fetch, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes of a file from `start` up to, not including, `end`. Blocks outside of them are not fetched."""
    block = fetch(cid)
    size = _file_size(cid, block)
    end = size if end is None else min(end, size)
    waiting = [(cid, 0, size)] if start < end else []
    while waiting:
        node, at, length = waiting.pop()
        if node != cid:
            block = fetch(node)
        if _file_size(node, block) != length:
            raise Corruption(f"block {node} does not hold the {length} bytes of a file that its parent names")
        content, children = _file_parts(node, block)
        piece = content[max(start - at, 0) : max(end - at, 0)]
        if piece:
            yield piece
        waiting += reversed(_within(children, at + len(content), start, end))


def _within(children: list[tuple[Cid, int]], at: int, start: int, end: int) -> list[tuple[Cid, int, int]]:
    """The children that hold bytes of the range, with their offsets; the first child starts at `at`."""
    chosen = []
    for child, length in children:
        if length and at < end and at + length > start:
            chosen.append((child, at, length))
        at += length
    return chosen


def _file_size(cid: Cid, block: bytes) -> int:
    what = inspect(cid, block)
    if what.kind is not Kind.FILE:
        raise NotFound(f"{cid} is a {what.kind.value}, not a file")
    return what.size


def _file_parts(cid: Cid, block: bytes) -> tuple[bytes, list[tuple[Cid, int]]]:
    """A file block's own content, and its children with the bytes below each."""
    if cid.codec == RAW:
        return block, []
    pb, node = _unixfs(cid, block)
    if len(pb.links) != len(node.blocksizes):
        raise Corruption(f"block {cid} has {len(pb.links)} children and {len(node.blocksizes)} sizes")
    return node.data, [(link.cid, size) for link, size in zip(pb.links, node.blocksizes, strict=True)]


def _unixfs(cid: Cid, block: bytes) -> tuple[dagpb.PbNode, dagpb.UnixFs]:
    if cid.codec != DAG_PB:
        raise Corruption(f"block {cid} has codec 0x{cid.codec:x}; we read raw and dag-pb")
    pb = dagpb.decode(block)
    return pb, dagpb.decode_unixfs(pb.data)


def _directory(cid: Cid, fetch: Fetch) -> tuple[dagpb.PbNode, dagpb.UnixFs]:
    if cid.codec == RAW:
        raise NotFound(f"{cid} is a file, not a directory")
    pb, node = _unixfs(cid, fetch(cid))
    if node.type not in (dagpb.DIRECTORY, dagpb.HAMT):
        raise NotFound(f"{cid} is not a directory")
    return pb, node


def _child(cid: Cid, name: bytes, fetch: Fetch) -> Cid | None:
    pb, node = _directory(cid, fetch)
    if node.type == dagpb.DIRECTORY:
        return next((link.cid for link in pb.links if link.name == name), None)
    for slot in murmur(name):
        _check_shard(pb, node)
        prefix = b"%02X" % slot
        link = next((link for link in pb.links if link.name in (prefix, prefix + name)), None)
        if link is None or link.name != prefix:
            return link.cid if link else None
        pb, node = _unixfs(link.cid, fetch(link.cid))
    raise Corruption(f"the sharded directory {cid} is deeper than its hash")


def _shard_links(pb: dagpb.PbNode, node: dagpb.UnixFs, slots: bytes, fetch: Fetch) -> Iterator[dagpb.Link]:
    """The entries below a trie node. Each must sit where its hash says, so no trie can pretend to be larger."""
    _check_shard(pb, node)
    for link in pb.links:
        here = slots + _slot(link.name)
        if len(link.name) > 2:
            if murmur(link.name[2:])[: len(here)] != here:
                raise Corruption(f"entry {link.name[2:]!r} of a sharded directory is in the wrong place")
            yield dagpb.Link(link.name[2:], link.cid, link.tsize)
        elif len(here) == 8:
            raise Corruption("a sharded directory is deeper than its hash")
        else:
            below, shard = _unixfs(link.cid, fetch(link.cid))
            yield from _shard_links(below, shard, here, fetch)


def _check_shard(pb: dagpb.PbNode, node: dagpb.UnixFs) -> None:
    if node.type != dagpb.HAMT or node.fanout != FANOUT or node.hash_type != MURMUR3:
        raise Corruption("a sharded directory with another fan-out or hash than 256 and murmur3")
    if not pb.links:
        raise Corruption("an empty node in a sharded directory")


def _slot(name: bytes) -> bytes:
    try:
        return bytes.fromhex(name[:2].decode("ascii"))
    except ValueError as error:
        raise Corruption(f"link {name[:80]!r} of a sharded directory has no slot") from error
