"""Kubo's pseudo-random test content: the ChaCha20 key stream of a seed text.

Kubo's own tests derive their golden content ids from it (test/cli/cid_profiles_test.go). Source: RFC 8439.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCKS = 16384
"""64-byte blocks per piece: 1 MiB."""
_QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
_Words = NDArray[np.uint32]


def key_stream(seed: str, length: int) -> bytes:
    """`length` bytes: the key is SHA-256 of the seed, counter and nonce are zero."""
    return b"".join(key_stream_pieces(seed, length))


def key_stream_pieces(seed: str, length: int) -> Iterator[bytes]:
    """The same in pieces of 1 MiB."""
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest(), dtype="<u4")
    for first in range(0, -(-length // 64), _BLOCKS):
        start = np.zeros((16, _BLOCKS), dtype=np.uint32)
        start[:4] = np.frombuffer(b"expand 32-byte k", dtype="<u4")[:, None]
        start[4:12] = key[:, None]
        start[12] = np.arange(first, first + _BLOCKS)
        piece = _rounds(start).T.astype("<u4").tobytes()
        yield piece[: length - first * 64]


def _rounds(start: _Words) -> _Words:
    state = start.copy()
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            for target, other, turned, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[target] += state[other]
                mixed = state[turned] ^ state[target]
                state[turned] = mixed << np.uint32(by) | mixed >> np.uint32(32 - by)
    return state + start
