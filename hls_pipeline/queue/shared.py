"""What a worker's parent and its children tell each other: bytes in memory that all of them see.

Make these before the children are forked. A child that dies leaves its bytes as they were; the one that takes its place
starts by clearing them.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SLOT = struct.Struct("=QQ")  # ticket (0: none), bytes
_MOMENT = struct.Struct("=d")  # of the clock that all processes share (0: none)


class Flag:
    """Set by the parent, seen by every child."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MOMENT.size)

    def set_in(self, seconds: float) -> None:
        """The first call counts. Without a lock or a thread: a signal handler does it, whatever it interrupts."""
        if not self._moment:
            _MOMENT.pack_into(self._memory, 0, time.monotonic() + seconds)

    def is_set(self) -> bool:
        return 0 < self._moment <= time.monotonic()

    @property
    def _moment(self) -> float:
        (moment,) = _MOMENT.unpack_from(self._memory)
        return float(moment)


class Budget:
    """Bytes of packages that children have at work: first come, first served, and a package over the limit alone."""

    def __init__(self, limit: int, children: int) -> None:
        self._limit = limit
        self._children = children
        self._memory = mmap.mmap(-1, _SLOT.size * children)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # its lock is free again when the process that held it dies

    def ask(self, child: int, size: int) -> None:
        with self._locked():
            ticket = 1 + max(ticket for ticket, _ in self._slots())
            _SLOT.pack_into(self._memory, child * _SLOT.size, ticket, size)

    def granted(self, child: int) -> bool:
        with self._locked():
            slots = list(self._slots())
        mine, size = slots[child]
        ahead = sum(other for ticket, other in slots if 0 < ticket < mine)
        return ahead == 0 or ahead + size <= self._limit

    def give_back(self, child: int) -> None:
        with self._locked():
            _SLOT.pack_into(self._memory, child * _SLOT.size, 0, 0)

    def _slots(self) -> Iterator[tuple[int, int]]:
        return _SLOT.iter_unpack(self._memory[:])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
