"""CAR version 1: content-addressed blocks as one stream, the form in which blocks travel to and from nodes.

Writing yields pieces without copying block data. Reading trusts nothing: sizes are capped before memory is
taken, varints are bounded and every block is hashed against its content id; whatever is wrong is Corruption.
What blocks mean belongs to `unixfs`; sending them belongs to `kubo`. Source:
ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from hls_pipeline.errors import Corruption
from hls_pipeline.ipfs.cid import Cid, read_cid, varint

MAX_HEADER = 8 * 1024
MAX_BLOCK = 2 * 1024 * 1024
"""Bytes of one block: the limit of Kubo ≥ 0.40 on import and of Bitswap."""
_MAX_SECTION = MAX_BLOCK + 256

Block = tuple[Cid, bytes]


class Readable(Protocol):
    """Any stream that hands out at most `n` bytes, and none only at its end."""

    def read(self, n: int, /) -> bytes: ...


def header(roots: Iterable[Cid]) -> bytes:
    """The CAR header: DAG-CBOR of {"roots": [CID…], "version": 1}, behind its length. At most 199 roots."""
    encoded = [_cbor_cid(root) for root in roots]
    body = b"\xa2\x65roots" + _cbor_head(4, len(encoded)) + b"".join(encoded) + b"\x67version\x01"
    return varint(len(body)) + body


def frame(cid: Cid, data: bytes) -> tuple[bytes, bytes]:
    """What goes before a block and the block itself, apart so that no block is copied (use gather writes)."""
    name = bytes(cid)
    return varint(len(name) + len(data)) + name, data


def write_car(roots: Iterable[Cid], blocks: Iterable[Block]) -> Iterator[bytes]:
    """A whole CAR, in pieces."""
    yield header(roots)
    for cid, data in blocks:
        yield from frame(cid, data)


def read_car(stream: Readable) -> Iterator[Block]:
    """The blocks of a CAR in their order, each verified. Corruption, also when it ends within a block."""
    read_roots(stream)
    yield from read_blocks(stream)


def read_roots(stream: Readable) -> tuple[Cid, ...]:
    """Read the header and answer its roots; the blocks follow in `stream`. Corruption."""
    length = _stream_varint(stream)
    if length is None:
        raise Corruption("an empty stream is no CAR")
    if not 0 < length <= MAX_HEADER:
        raise Corruption(f"a CAR header of {length} bytes; at most {MAX_HEADER} are allowed")
    return _decode_header(_exactly(stream, length))


def read_blocks(stream: Readable) -> Iterator[Block]:
    """The blocks after a header, each verified against its content id. Corruption."""
    while (length := _stream_varint(stream)) is not None:
        if length > _MAX_SECTION:
            raise Corruption(f"a CAR section of {length} bytes; blocks have at most {MAX_BLOCK}")
        section = _exactly(stream, length)
        cid, start = read_cid(section, 0)
        data = section[start:]
        if len(data) > MAX_BLOCK:
            raise Corruption(f"block {cid} has {len(data)} bytes; at most {MAX_BLOCK} are allowed")
        if not cid.verifies(data):
            raise Corruption(f"the bytes sent as block {cid} hash to something else")
        yield cid, data


def _stream_varint(stream: Readable) -> int | None:
    """The next length, or None at a clean end of the stream."""
    number = 0
    for index in range(5):
        byte = stream.read(1)
        if not byte:
            if index == 0:
                return None
            raise Corruption("the CAR ends within a length")
        number |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return number
    raise Corruption("a CAR section length of more than 5 bytes")


def _exactly(stream: Readable, length: int) -> bytes:
    first = stream.read(length)
    if len(first) == length:
        return first
    pieces, missing = [first], length - len(first)
    while missing:
        piece = stream.read(missing) if pieces[-1] else b""
        if not piece:
            raise Corruption(f"the CAR ends {missing} bytes early")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _cbor_head(major: int, number: int) -> bytes:
    """Of an item whose argument fits a byte: a header has no room for more roots than that."""
    return bytes([major << 5 | number] if number < 24 else [major << 5 | 24, number])


def _cbor_cid(cid: Cid) -> bytes:
    """A DAG-CBOR link: tag 42 around the binary CID behind a zero byte."""
    name = b"\0" + bytes(cid)
    return b"\xd8\x2a" + _cbor_head(2, len(name)) + name


class _HeaderReader:
    """The few CBOR shapes that a CAR header may contain; everything else is refused."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise Corruption("the CAR header is cut off")
        self.at += count
        return piece

    def head(self, major: int) -> int:
        """The argument of the next item, which must be of this major type."""
        first = self.take(1)[0]
        if first >> 5 != major or first & 31 > 26:
            raise Corruption(f"CBOR byte 0x{first:02x} where a CAR header has major type {major}")
        argument = first & 31
        return argument if argument < 24 else int.from_bytes(self.take(1 << (argument - 24)), "big")

    def link(self) -> Cid:
        if self.head(6) != 42:
            raise Corruption("a root in the CAR header is no link")
        name = self.take(self.head(2))
        if name[:1] != b"\0":
            raise Corruption("a root in the CAR header has no identity prefix")
        return Cid.from_bytes(name[1:])


def _decode_header(body: bytes) -> tuple[Cid, ...]:
    reader = _HeaderReader(body)
    version, roots = None, None
    for _ in range(reader.head(5)):
        key = reader.take(reader.head(3))
        if key == b"version" and version is None:
            version = reader.head(0)
        elif key == b"roots" and roots is None:
            roots = tuple(reader.link() for _ in range(reader.head(4)))
        else:
            raise Corruption(f"unexpected or repeated key {key[:40]!r} in the CAR header")
    if version != 1 or roots is None or reader.at != len(body):
        raise Corruption(f"a CAR header of version {version}; we read version 1 with roots")
    return roots
