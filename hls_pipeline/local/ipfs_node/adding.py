"""`add`: files of a multipart body chunked, linked into directories, stored and pinned.

Layout follows `hls_pipeline.ipfs.unixfs` with the choices of the call; what Kubo offers beyond them (other hashes and
chunkers, trickle DAGs, inlining, filestore) is refused rather than ignored, because it would change content ids.
Unlike Kubo we send the event of a root last, when everything below it is durable and pinned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hls_pipeline.errors import UserError
from hls_pipeline.ipfs.car import MAX_BLOCK
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, FileBuilder, Node, Profile, build_directory
from hls_pipeline.local.ipfs_node.multipart import Part, parts
from hls_pipeline.local.ipfs_node.pins import checked_name
from hls_pipeline.local.ipfs_node.rpc import Call

_READ = 1024 * 1024
_LARGEST_CHUNK = MAX_BLOCK - 256
"""Bytes; what wraps a chunk must fit into the block too."""
_MOST_LINKS = 16 * 1024
_REFUSED = ("trickle", "nocopy", "fscache", "inline", "preserve-mode", "preserve-mtime")
_FIXED = {
    "hash": "sha2-256",
    "max-directory-links": "0",
    "max-hamt-fanout": "256",
    "mode": "0",
    "mtime": "0",
    "to-files": "",
}
"""Options that this node knows with one value alone."""
_Put = Callable[[Cid, bytes], None]


@dataclass
class _Tree:
    """What the parts of one body add up to."""

    files: dict[str, Node] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)

    def tops(self) -> dict[str, _Tree]:
        """What lies below each first name, in the order in which these came. UserError if one is file and directory."""
        tops: dict[str, _Tree] = {}
        for path, node in self.files.items():
            top, _, rest = path.partition("/")
            tops.setdefault(top, _Tree()).files[rest] = node
        for path in self.directories:
            top, _, rest = path.partition("/")
            tops.setdefault(top, _Tree()).directories.add(rest)
        for top, below in tops.items():
            if "" in below.files and (len(below.files) > 1 or below.directories):
                raise UserError(f"{top[:80]!r} is both a file and a directory")
        return tops


def add(call: Call) -> Iterator[Mapping[str, Any]]:
    profile = _profile(call)
    only_hash = call.flag("only-hash")
    pin = call.flag("pin", True) and not only_hash
    name = checked_name(call.text("pin-name"))
    if name and not pin:
        raise UserError("pin-name option requires pin to be set")
    quiet = call.flag("silent")
    progress = call.flag("progress")
    tree = _Tree()
    with call.node.store.session() as session:
        put = _nowhere if only_hash else session.put
        for part in parts(call.request):
            path = part.path
            if part.content_type == "application/x-directory":
                tree.directories.update({path} - {""})
                continue
            for taken in _add_file(call, part, path, profile, tree, put):
                if progress:
                    yield {"Name": path, "Bytes": taken}
            if "/" in path and not quiet:
                yield _event(path, tree.files[path])
        roots, events = _finish(tree, profile, call.flag("wrap-with-directory"), put)
        session.flush()
        for root in roots if pin else ():
            for _ in call.node.pinning(root.cid, "recursive", name, session):
                call.check_time()
    if not quiet:
        yield from events


def _nowhere(*_: object) -> None:
    """Where blocks go that were only to be hashed."""


def _add_file(call: Call, part: Part, path: str, profile: Profile, tree: _Tree, put: _Put) -> Iterator[int]:
    """Store one file and note it in `tree`; yields the bytes taken so far. UserError if the path is taken."""
    if part.content_type == "application/symlink":
        raise UserError(f"{path[:80]!r} is a symlink; send what it points to")
    if path in tree.files:
        raise UserError(f"{path[:80]!r} comes twice")
    builder = FileBuilder(profile)
    taken = 0
    while data := part.read(_READ):
        call.check_time()
        for cid, block in builder.feed(data):
            put(cid, block)
        taken += len(data)
        yield taken
    node, rest = builder.finish()
    for cid, block in rest:
        put(cid, block)
    tree.files[path] = node


def _finish(tree: _Tree, profile: Profile, wrap: bool, put: _Put) -> tuple[list[Node], list[dict[str, Any]]]:
    """Build the directories. The roots to be pinned, and the events that must wait for that."""
    if wrap:
        named = {path or str(node.cid): node for path, node in tree.files.items()}
        top_files = [_event(path, node) for path, node in named.items() if "/" not in path]
        root, events = _directory("", _Tree(named, tree.directories), profile, put)
        return [root], [*top_files, *events]
    roots, events = [], []
    for top, below in tree.tops().items():
        node, own = (below.files[""], []) if "" in below.files else _directory(top, below, profile, put)
        roots.append(node)
        events += own or [_event(top or str(node.cid), node)]
    return roots, events


def _directory(name: str, tree: _Tree, profile: Profile, put: _Put) -> tuple[Node, list[dict[str, Any]]]:
    """Store the directories of a tree called `name`. Its root, and an event for each, children before parents."""
    built = build_directory(tree.files, profile, tree.directories - {""})
    for cid, block in built.blocks:
        put(cid, block)
    inner = sorted(built.nodes.keys() - tree.files.keys() - {""}, key=lambda path: (-path.count("/"), path))
    events = [_event(f"{name}/{path}" if name else path, built.nodes[path]) for path in inner]
    return built.root, [*events, _event(name, built.root)]


def _event(name: str, node: Node) -> dict[str, Any]:
    return {"Name": name, "Hash": str(node.cid), "Size": str(node.tsize)}


def _profile(call: Call) -> Profile:
    """The layout that the call asks for. UserError for one that we do not build."""
    version = call.number("cid-version", 1)
    if version not in (0, 1):
        raise UserError(f"CID version {version} is unknown")
    for name in _REFUSED:
        if call.flag(name):
            raise UserError(f"this node does not add with {name}")
    for name, value in _FIXED.items():
        if call.text(name, value) != value:
            raise UserError(f"this node adds with {name}={value!r} alone")
    base = PROFILES["unixfs-v1-2025" if version else "unixfs-v0-2015"]
    links = call.number("max-file-links", base.max_links)
    if not 2 <= links <= _MOST_LINKS:
        raise UserError(f"max-file-links must be between 2 and {_MOST_LINKS}")
    return replace(
        base,
        raw_leaves=call.flag("raw-leaves", base.raw_leaves),
        chunk_size=_chunk_size(call.text("chunker"), base.chunk_size),
        max_links=links,
    )


def _chunk_size(chunker: str, default: int) -> int:
    if not chunker:
        return default
    match = re.fullmatch(r"size-(\d{1,9})", chunker)
    if not match:
        raise UserError(f"unrecognized chunker option: {chunker[:80]}")
    size = int(match[1])
    if not 1 <= size <= _LARGEST_CHUNK:
        raise UserError(f"the chunk size must be between 1 and {_LARGEST_CHUNK} bytes")
    return size
