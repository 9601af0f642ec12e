"""Directories as Kubo builds them: one block of sorted links, or a hash trie (HAMT) above the threshold.

`build_directory` turns a flat list of paths into nested directories. Paths are checked for sense (no empty
part, no `.` or `..`, no file where a directory is), not for taste: what names a package may use belongs to
`hls`. Sources: specs.ipfs.tech/unixfs, IPIP-499, boxo ipld/unixfs/io and hamt (0.42: a directory exactly at
the threshold is not sharded).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mmh3

from hls_pipeline.errors import UserError
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import DAG_PB, Cid, varint
from hls_pipeline.ipfs.files import Node, Profile, parent

FANOUT = 256
MURMUR3 = 0x22
"""Multicodec murmur3-x64-64."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is of something: distinct blocks and the bytes in them."""

    blocks: int
    bytes: int


@dataclass(frozen=True)
class Directory:
    """A tree of directories over files that were hashed elsewhere."""

    root: Node
    blocks: tuple[Block, ...]
    """The directories' own blocks, children before parents; those of the files are not among them."""
    files: Mapping[str, Node]
    """What was put in, by path."""
    nodes: Mapping[str, Node]
    """Every file and directory by path; the root is `""`."""
    extent: Extent
    """Distinct blocks of the tree, as far as whole files and directory blocks tell. Chunks that repeat within
    a file, or between different files, are counted each time: then a node holds less than this."""


def build_directory(entries: Mapping[str, Node], profile: Profile, empty: Iterable[str] = ()) -> Directory:
    """The directory with `entries` (path → node) and the directories `empty`. UserError for a senseless path."""
    tree = _tree(entries, empty)
    nodes = dict(entries)
    blocks: dict[Cid, bytes] = {}
    for path in sorted(tree, key=lambda path: path.count("/") if path else -1, reverse=True):
        node, own = _directory([(name, nodes[child]) for name, child in tree[path].items()], profile)
        nodes[path] = node
        blocks.update(own)
    files = {node.cid: node for node in entries.values()}.values()
    extent = Extent(
        len(blocks) + sum(file.blocks for file in files),
        sum(map(len, blocks.values())) + sum(file.tsize for file in files),
    )
    frozen = MappingProxyType(dict(entries)), MappingProxyType(nodes)
    return Directory(nodes[""], tuple(blocks.items()), *frozen, extent)


def _tree(entries: Mapping[str, Node], empty: Iterable[str]) -> dict[str, dict[str, str]]:
    """Each directory's path → its children's names → their paths."""
    tree: dict[str, dict[str, str]] = {"": {}}
    for path in entries:
        _enter(tree, path)
    for path in empty:
        if path:
            _enter(tree, path)
            tree.setdefault(path, {})
    for path in entries:
        if path in tree:
            raise UserError(f"{path!r} is both a file and a directory")
    return tree


def _enter(tree: dict[str, dict[str, str]], path: str) -> None:
    """Put `path` into its directory, and that into its own, up to the first that is known."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise UserError(f"{path!r} is no path of a file in a directory: it has an empty part, `.` or `..`")
    while path:
        directory, _, name = path.rpartition("/")
        known = directory in tree
        tree.setdefault(directory, {})[name] = path
        if known:
            return
        path = directory


def _directory(children: Sequence[tuple[str, Node]], profile: Profile) -> tuple[Node, list[Block]]:
    named = sorted((name.encode("utf-8", "surrogateescape"), node) for name, node in children)
    links = [dagpb.Link(name, node.cid, node.tsize) for name, node in named]
    nodes = [node for _, node in named]
    block = dagpb.encode(b"\x08\x01", links)
    if profile.sharding_by == "block":
        measure = len(block)
    else:
        measure = sum(len(link.name) + len(bytes(link.cid)) for link in links)
    if measure > profile.sharding_threshold:
        entries = [(murmur(link.name), link, node) for link, node in zip(links, nodes, strict=True)]
        return _shard(entries, 0, profile)
    node = parent(Cid.of(block, DAG_PB, profile.version), block, nodes)
    return node, [(node.cid, block)]


_Entry = tuple[bytes, dagpb.Link, Node]


def _shard(entries: Sequence[_Entry], depth: int, profile: Profile) -> tuple[Node, list[Block]]:
    """One node of the trie: entries by the hash byte at `depth`, those that share it one level down."""
    if depth == 8:
        raise UserError(f"{len(entries)} names in a directory share a hash: {entries[0][1].name[:80]!r} …")
    slots: dict[int, list[_Entry]] = {}
    for entry in entries:
        slots.setdefault(entry[0][depth], []).append(entry)
    links, nodes, blocks = [], [], []
    for slot in sorted(slots):
        prefix = b"%02X" % slot
        if len(slots[slot]) == 1:
            _, link, node = slots[slot][0]
            links.append(dagpb.Link(prefix + link.name, link.cid, link.tsize))
        else:
            node, below = _shard(slots[slot], depth + 1, profile)
            blocks += below
            links.append(dagpb.Link(prefix, node.cid, node.tsize))
        nodes.append(node)
    block = dagpb.encode(_shard_data(slots), links)
    node = parent(Cid.of(block, DAG_PB, profile.version), block, nodes)
    return node, [*blocks, (node.cid, block)]


def _shard_data(slots: Iterable[int]) -> bytes:
    """The UnixFS message of a trie node: type, bit field of used slots, hash function, fan-out."""
    used = sum(1 << slot for slot in slots)
    field = used.to_bytes((used.bit_length() + 7) // 8, "big")
    return b"\x08\x05" + dagpb.encode_bytes(2, field) + b"\x28" + varint(MURMUR3) + b"\x30" + varint(FANOUT)


def murmur(name: bytes) -> bytes:
    """The first 64 bits of murmur3-x64-128, whose bytes choose the slots from the root down."""
    return mmh3.hash64(name, signed=False)[0].to_bytes(8, "big")
