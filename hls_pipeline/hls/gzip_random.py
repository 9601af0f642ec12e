"""Reading a gzip file at any place without unpacking it again from the start.

While it is read forwards for the first time, the decompressor's state is copied at every mark; a jump back then costs
at most one stretch between marks. There are a few hundred of them, so that they take some 20 MB however large the file
is: when there are more, every second one goes, and stretches are twice as long from there on. It is enough of a file
for `archives.TarSource`: read, seek and tell.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

_STEP = 1 << 16
_FIRST_STRETCH = 4 * _STEP
_MOST_MARKS = 512


class _Mark(NamedTuple):
    """Everything needed to go on from `position`: a place in the packed file and the decompressor there."""

    position: int
    packed: int
    decompressor: Any


class RandomGzip:
    """`check` is told unpacked and packed bytes as they grow and raises when they are out of proportion."""

    def __init__(self, file: BinaryIO, check: Callable[[int, int], None]) -> None:
        self._file = file
        self._check = check
        self._marks = [_Mark(0, 0, zlib.decompressobj(31))]
        self._stretch = _FIRST_STRETCH
        self._buffer = b""
        self._position = 0
        self._restore(self._marks[0])

    def tell(self) -> int:
        return self._position

    @property
    def position_in_stream(self) -> int:
        """How far it is unpacked at the moment; reading before it needs a jump, after it more unpacking."""
        return self._reached

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0:
            raise ValueError("only seeking from the start is possible")
        start = self._reached - len(self._buffer)
        if not start <= position <= self._reached:
            mark = self._marks[bisect_right(self._marks, position, key=lambda m: m.position) - 1]
            if position < start or mark.position > self._reached:
                self._restore(mark)
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        """Raises zlib.error or EOFError where the file is damaged or cut off."""
        while self._reached < self._position + size and self._unpack():
            start = self._reached - len(self._buffer)
            if start < self._position:
                self._buffer = self._buffer[min(len(self._buffer), self._position - start) :]
        start = self._reached - len(self._buffer)
        offset = self._position - start
        data = self._buffer[offset : offset + size] if offset >= 0 else b""
        self._position += len(data)
        return data

    def exhaust(self) -> None:
        """Reads on to the end, where gzip says how long all of it was, and its checksum. Raises like `read`."""
        self.seek(self._reached)
        while self.read(_STEP):
            pass

    def _restore(self, mark: _Mark) -> None:
        self._reached = mark.position
        self._packed = mark.packed
        self._pending = b""
        self._decompressor = mark.decompressor.copy()
        self._buffer = b""

    def _unpack(self) -> bool:
        """One more step forwards; False at the end."""
        if self._decompressor.eof:  # a gzip file may be several, one after the other
            self._pending = self._decompressor.unused_data.lstrip(b"\0")
            while not self._pending:
                if not self._fill():
                    return False
                self._pending = self._pending.lstrip(b"\0")
            self._decompressor = zlib.decompressobj(31)
        elif not self._pending and not self._fill():
            raise EOFError("the gzip file is cut off")
        data = self._decompressor.decompress(self._pending, _FIRST_STRETCH)
        self._pending = self._decompressor.unconsumed_tail
        self._buffer += data
        self._reached += len(data)
        self._check(self._reached, self._packed)
        if self._reached - self._marks[-1].position >= self._stretch and not self._decompressor.eof:
            self._mark()
        return True

    def _mark(self) -> None:
        self._marks.append(_Mark(self._reached, self._packed - len(self._pending), self._decompressor.copy()))
        if len(self._marks) > _MOST_MARKS:
            self._marks = self._marks[::2]
            self._stretch *= 2

    def _fill(self) -> bool:
        self._file.seek(self._packed)
        self._pending = self._file.read(_STEP)
        self._packed += len(self._pending)
        return bool(self._pending)
