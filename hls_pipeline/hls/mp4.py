"""The outermost boxes of an MP4 file, read as its bytes stream past (ISO/IEC 14496-12 section 4.2).

Only headers are looked at; bodies are passed over, so that a file of any size costs a few bytes of memory.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left

from hls_pipeline.hls.findings import shown
from hls_pipeline.hls.model import ByteRange

_FIRST = frozenset({
    b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"ssix", b"prft", b"emsg", b"free", b"skip", b"mdat", b"wide", b"uuid",
    b"pdin", b"meta", b"mfra", b"pnot", b"udta", b"junk", b"pssh",
})  # fmt: skip
_TYPE = re.compile(rb"[ -~\xa9]{4}")
_MOST_BOXES = 1_000_000


def looks_like_mp4(head: bytes) -> bool:
    return head[4:8] in _FIRST and (int.from_bytes(head[:4], "big") >= 8 or head[:4] in (b"\0\0\0\0", b"\0\0\0\1"))


class BoxReader:
    """`feed` it the file in order; then ask which boxes there were and whether they fit."""

    def __init__(self) -> None:
        self._position = 0
        self._next = 0
        """Where the next header begins."""
        self._header = b""
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        """By kind, in the order of the file; the end of one that reaches to the end of the file is its start."""
        self._count = 0
        self._last = ("", 0)
        self._broken: str | None = None
        self._to_end = False

    def feed(self, chunk: bytes) -> None:
        start, self._position = self._position, self._position + len(chunk)
        while not self._broken and not self._to_end and self._next + len(self._header) < self._position:
            at = self._next + len(self._header) - start
            need = 16 if self._header[:4] == b"\0\0\0\1" and len(self._header) >= 8 else 8
            self._header += chunk[at : at + need - len(self._header)]
            if len(self._header) < need:
                return
            if need == 8 and self._header[:4] == b"\0\0\0\1":
                continue
            self._box(self._header)
            self._header = b""

    def _box(self, header: bytes) -> None:
        size, name = struct.unpack(">I4s", header[:8])
        kind = name.decode("latin-1")
        if len(header) == 16:
            size = int.from_bytes(header[8:16], "big")
        self._count += 1
        if not _TYPE.fullmatch(name):
            self._broken = f"at byte {self._next:,} there is no box, but {shown(kind)}"
        elif size == 0:
            self._to_end = True
        elif size < len(header):
            self._broken = f"the box {shown(kind)} at byte {self._next:,} is smaller than its header"
        elif self._count > _MOST_BOXES:
            self._broken = f"there are more than {_MOST_BOXES:,} boxes"
        if self._broken:
            return
        self._starts.setdefault(kind, []).append(self._next)
        self._last = (kind, self._next)
        self._next += size
        self._ends.setdefault(kind, []).append(self._next)

    def has(self, kind: str, part: ByteRange | None = None) -> bool:
        """Whether there is such a box, in `part` all of it."""
        starts = self._starts.get(kind, ())
        first = bisect_left(starts, part.offset) if part else 0
        return first < len(starts) and (part is None or self._ends[kind][first] <= part.end)

    def fault(self, size: int) -> str | None:
        """What is wrong with the boxes of a file of `size` bytes."""
        if self._broken or self._to_end:
            return self._broken
        if self._header:
            return f"{len(self._header)} bytes are left over after the last box"
        if self._next > size:
            kind, start = self._last
            return f"the box {shown(kind)} at byte {start:,} ends {self._next - size:,} bytes after the file"
        return None
