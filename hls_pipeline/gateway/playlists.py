"""Published playlists kept in memory: small, asked for by every viewer, and never changing under their content id."""

from __future__ import annotations

import threading
from collections import OrderedDict

_CACHED_BYTES = 32 << 20


class PlaylistCache:
    """Published playlists by content id, the least recently used forgotten first."""

    def __init__(self, limit: int = _CACHED_BYTES) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, cid: str) -> bytes | None:
        with self._lock:
            if cid in self._kept:
                self._kept.move_to_end(cid)
            return self._kept.get(cid)

    def put(self, cid: str, data: bytes) -> None:
        with self._lock:
            if cid not in self._kept:
                self._kept[cid] = data
                self._size += len(data)
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])
