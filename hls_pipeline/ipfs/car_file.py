"""A CAR on a disk, opened for reading blocks in any order once all of it was found to be whole and its own.

Opening reads it once: every block is hashed, every link followed from the one root, and nothing foreign accepted. What
is in the blocks is still hostile in its meaning; that is judged by whoever reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from hls_pipeline.errors import Corruption
from hls_pipeline.ipfs.car import Block, read_blocks, read_roots
from hls_pipeline.ipfs.cid import IDENTITY, Cid
from hls_pipeline.ipfs.unixfs import Extent, links, walk

_MAX_BLOCKS = 4_000_000
"""About 4 TB in blocks of a megabyte; the index takes some 200 bytes for each."""


class CarFile:
    """Safe to use from several threads."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises Corruption unless it is a whole CAR of exactly what its one root names, parents first."""
        self._file = file
        roots = read_roots(file)
        if len(roots) != 1:
            raise Corruption(f"a CAR with {len(roots)} roots; it must have one")
        self.root = roots[0]
        self._places: dict[bytes, tuple[int, int]] = {}
        for cid, data in walk(roots, read_blocks(file)):
            self._places[bytes(cid)] = file.tell() - len(data), len(data)
            if len(self._places) > _MAX_BLOCKS:
                raise Corruption(f"more than {_MAX_BLOCKS:,} blocks")

    def fetch(self, cid: Cid) -> bytes:
        """A block. Corruption if it is not there, or was changed since this was opened."""
        if cid.hash == IDENTITY:
            return cid.digest
        offset, length = self._places.get(bytes(cid), (0, -1))
        data = os.pread(self._file.fileno(), length, offset) if length >= 0 else b""
        if length < 0 or not cid.verifies(data):
            raise Corruption(f"block {cid} is not in the CAR")
        return data

    def below(self, root: Cid) -> Iterator[Block]:
        """The blocks that `root` names, parents first, each once."""
        waiting, seen = [root], set[bytes]()
        while waiting:
            cid = waiting.pop()
            if bytes(cid) in seen or cid.hash == IDENTITY:
                continue
            seen.add(bytes(cid))
            data = self.fetch(cid)
            yield cid, data
            waiting += reversed(links(cid, data))

    def extent(self, root: Cid) -> Extent:
        count = size = 0
        for _, data in self.below(root):
            count, size = count + 1, size + len(data)
        return Extent(count, size)
