"""The wire forms under UnixFS: dag-pb nodes with their links, and the UnixFS message inside them.

Encoding is canonical (links before data, fields in order), so that equal nodes have equal content ids.
Decoding takes any byte string and answers a value or Corruption. How files and directories are laid out
belongs to `files` and `directories`. Sources: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hls_pipeline.errors import Corruption
from hls_pipeline.ipfs.cid import DAG_PB, RAW, Cid, read_varint, varint

FILE_RAW, DIRECTORY, FILE, METADATA, SYMLINK, HAMT = range(6)
"""UnixFS types (`Data.Type`)."""

_VARINT, _BYTES = 0, 2
_Field = tuple[int, int, int | bytes]


@dataclass(frozen=True, slots=True)
class Link:
    name: bytes
    cid: Cid
    tsize: int
    """Cumulative bytes of the blocks below this link, duplicates counted."""


@dataclass(frozen=True, slots=True)
class PbNode:
    data: bytes
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class UnixFs:
    type: int
    data: bytes = b""
    size: int | None = None
    blocksizes: tuple[int, ...] = ()
    hash_type: int | None = None
    fanout: int | None = None


def encode(data: bytes, links: Iterable[Link]) -> bytes:
    """A dag-pb node. Links are written in the order given; directories sort theirs by name first."""
    pieces = []
    for link in links:
        body = encode_bytes(1, bytes(link.cid)) + encode_bytes(2, link.name) + b"\x18" + varint(link.tsize)
        pieces.append(encode_bytes(2, body))
    pieces.append(encode_bytes(1, data))
    return b"".join(pieces)


def encode_bytes(field: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([field << 3 | _BYTES]) + varint(len(value)) + value


def decode(block: bytes) -> PbNode:
    """A dag-pb node. Corruption."""
    data, links = b"", []
    for field, kind, value in _fields(block):
        if field == 1 and isinstance(value, bytes):
            data = value
        elif field == 2 and isinstance(value, bytes):
            links.append(_decode_link(value))
        else:
            raise Corruption(f"field {field} of wire type {kind} in a dag-pb node")
    return PbNode(data, tuple(links))


def decode_unixfs(data: bytes) -> UnixFs:
    """The UnixFS message of a dag-pb node; mode and mtime are read over. Corruption."""
    numbers: dict[int, int] = {}
    blocksizes: list[int] = []
    content = b""
    for field, _, value in _fields(data):
        if field == 2 and isinstance(value, bytes):
            content = value
        elif field == 4 and isinstance(value, int):
            blocksizes.append(value)
        elif field == 4 and isinstance(value, bytes):
            blocksizes.extend(_packed(value))
        elif isinstance(value, int):
            numbers[field] = value
    if numbers.get(1) not in range(6):
        raise Corruption(f"UnixFS type {numbers.get(1)} is unknown")
    return UnixFs(numbers[1], content, numbers.get(3), tuple(blocksizes), numbers.get(5), numbers.get(6))


def links(cid: Cid, block: bytes) -> tuple[Cid, ...]:
    """The children of a block in their order; a raw one has none. Corruption for any codec but dag-pb."""
    if cid.codec == RAW:
        return ()
    if cid.codec != DAG_PB:
        raise Corruption(f"block {cid} has codec 0x{cid.codec:x}; we read raw and dag-pb")
    return tuple(link.cid for link in decode(block).links)


def _decode_link(body: bytes) -> Link:
    name, tsize, cid = b"", 0, None
    for field, _, value in _fields(body):
        if field == 1 and isinstance(value, bytes):
            cid = Cid.from_bytes(value)
        elif field == 2 and isinstance(value, bytes):
            name = value
        elif field == 3 and isinstance(value, int):
            tsize = value
        else:
            raise Corruption(f"field {field} in a dag-pb link")
    if cid is None:
        raise Corruption("a dag-pb link without a content id")
    return Link(name, cid, tsize)


def _fields(message: bytes) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = read_varint(message, at)
            yield number, kind, value
        elif kind == _BYTES:
            length, at = read_varint(message, at)
            if length > len(message) - at:
                raise Corruption(f"protobuf field {number} is cut off")
            yield number, kind, message[at : at + length]
            at += length
        else:
            raise Corruption(f"protobuf wire type {kind} in a dag-pb node")


def _packed(value: bytes) -> Iterator[int]:
    at = 0
    while at < len(value):
        number, at = read_varint(value, at)
        yield number
