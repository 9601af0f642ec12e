"""The CAR version 1 inside a CAR of either version, for imports of files that other tools wrote.

A version 2 file is a fixed pragma, a header of offsets, a whole version 1 file and perhaps an index, which we have no
use for. Reading version 1 belongs to `hls_pipeline.ipfs.car`. Source: ipld.io/specs/transport/car/carv2.
"""

from __future__ import annotations

import struct

from hls_pipeline.errors import Corruption
from hls_pipeline.ipfs.car import Readable

_PRAGMA = b"\x0a\xa1gversion\x02"
_HEADER = struct.Struct("<16xQQQ")
"""Characteristics, then offset and size of the version 1 data and the offset of the index; bytes from the start."""


class _Window:
    """`stream` behind some bytes that were read ahead, up to a limit."""

    def __init__(self, ahead: bytes, stream: Readable, limit: int | None) -> None:
        self._ahead = ahead
        self._stream = stream
        self._left = limit

    def read(self, n: int, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:n], self._ahead[n:]
            return data
        if self._left is None:
            return self._stream.read(n)
        data = self._stream.read(min(n, self._left)) if self._left else b""
        if self._left and not data:
            raise Corruption(f"the CAR ends {self._left} bytes early")
        self._left -= len(data)
        return data


def version_1(stream: Readable) -> Readable:
    """The version 1 data of a CAR. Corruption if its version 2 header makes no sense."""
    start = _take(stream, len(_PRAGMA))
    if start != _PRAGMA:
        return _Window(start, stream, None)
    header = _take(stream, _HEADER.size)
    if len(header) < _HEADER.size:
        raise Corruption("the header of a version 2 CAR is cut off")
    offset, size, _ = _HEADER.unpack(header)
    padding = offset - len(_PRAGMA) - _HEADER.size
    if padding < 0 or size == 0:
        raise Corruption(f"a version 2 CAR with {size} bytes of data at offset {offset}")
    while padding:
        skipped = stream.read(min(padding, 1 << 16))
        if not skipped:
            raise Corruption("the version 2 CAR ends before its data")
        padding -= len(skipped)
    return _Window(b"", stream, size)


def _take(stream: Readable, n: int) -> bytes:
    data = b""
    while len(data) < n and (piece := stream.read(n - len(data))):
        data += piece
    return data
