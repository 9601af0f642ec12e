"""What a node's answers prove about a root, as receipts that can be stored and shown.

Five levels, each including those before: *accepted* (the node counted the blocks that were sent), *pinned* (it has a
recursive pin of the root), *complete* (it read every block of the DAG from its disk), *sampled* (we got blocks drawn at
random from its gateway, with all above them, and hashed them), *read back* (the same with every block). A receipt says
who was asked what and what it answered; it is written only after the answer held. What a level is needed for is decided
in `steps`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from hls_pipeline.errors import ProofMissing
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.cid import IDENTITY, RAW, Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import Extent


class Level(IntEnum):
    ACCEPTED = 1
    PINNED = 2
    COMPLETE = 3
    SAMPLED = 4
    READ_BACK = 5


@dataclass(frozen=True, slots=True)
class Receipt:
    """One level of one root at one node."""

    level: Level
    root: str
    node: str
    """Address of the node's RPC, `host:port`."""
    peer_id: str
    node_version: str
    asked: str
    answered: str
    at: datetime


def accepted(node: Kubo, root: Cid, sent: Extent, now: datetime) -> Receipt:
    """The receipt for an import whose statistics agreed (`Kubo.import_blocks` answered `sent`)."""
    return _receipts(node, root, now, [(Level.ACCEPTED, "dag/import stats=true", _count(sent))])[0]


def confirm(
    node: Kubo,
    root: Cid,
    expected: Extent,
    now: datetime,
    level: Level = Level.COMPLETE,
    sample: int = 0,
    counted: Callable[[], Extent] | None = None,
) -> tuple[Receipt, ...]:
    """Ask the node for all levels from *pinned* up to `level`. ProofMissing if one does not hold.
    `sample` is how many blocks *sampled* draws; `counted` waits for a `dag_stat` that was asked already.

    `expected` counts whole files (`Directory.extent`). Where chunks repeat, a complete node has fewer blocks than
    that; then the read-back decides, whose count is exact because it follows the hashes from the root.
    """
    pin = node.pinned(root)
    if pin is None:
        raise ProofMissing(f"{root} is not pinned on {node.name}; publish or repin it again")
    found = [(Level.PINNED, "pin/ls type=recursive", f"recursive, named {pin.name!r}")]
    if level >= Level.COMPLETE:
        stat = counted() if counted else node.dag_stat(root, expected.bytes)
        found.append((Level.COMPLETE, "dag/stat offline=true", _count(stat)))
        from_gateway = f"gateway {node.gateway}"
        if level >= Level.SAMPLED or stat != expected:
            require_own_gateway(node)
        if level == Level.SAMPLED and stat == expected:
            drawn = _sample(node, root, sample)
            asked = f"{from_gateway} format=raw, {sample} leaves at random and all above them, each hashed"
            found.append((Level.SAMPLED, asked, f"{_count(drawn)}, of {_count(stat)}"))
        elif level >= Level.READ_BACK or stat != expected:
            read = node.read_back(root)
            asked = f"{from_gateway} format=car dag-scope=all, every block hashed"
            found.append((Level.READ_BACK, asked, _count(read)))
            if read != stat:
                raise ProofMissing(
                    f"{node.name} says that {root} has {_count(stat)}, but gave back {_count(read)}; try again"
                )
    return _receipts(node, root, now, found)


def require_own_gateway(node: Kubo) -> None:
    """ProofMissing unless the node's gateway serves what that node has: a block that names the node, and that no other
    one has a reason to hold. Otherwise one node could be read back twice, and count for two.

    The block stays behind, unpinned; where garbage collection took it, or the disk damaged it, it is sent again.
    """
    text = f"By this block the gateway of the IPFS node {node.peer_id()} is told from others.\n".encode()
    mark = Cid.of(text)
    for there in (node.has(mark), False):
        if not there:
            node.import_blocks([(mark, text)])
        try:
            node.block(mark)
        except ProofMissing as error:
            lost = error
        else:
            return
    raise ProofMissing(
        f"{node.gateway} is not the gateway of {node.name}: it lacks what that node has just taken. "
        "HLS_IPFS_GATEWAY_URLS must be in the order of HLS_IPFS_RPC_URLS"
    ) from lost


def _sample(node: Kubo, root: Cid, draws: int) -> Extent:
    """Random ways from the root down to leaves, each byte as likely as any other to be met; the blocks seen. A node
    that lacks or falsifies a share p of the bytes passes with a chance of (1 - p) ** draws."""
    inner: dict[Cid, tuple[list[Cid], list[int]]] = {}
    sizes: dict[Cid, int] = {}
    chance = random.SystemRandom()
    for _ in range(draws):
        at = root
        while True:
            if at not in sizes:
                block = node.block(at)
                sizes[at] = len(block)
                inner[at] = _children(at, block)
            children, weights = inner[at]
            if not children:
                break
            (at,) = chance.choices(children, weights)
    return Extent(len(sizes), sum(sizes.values()))


def _children(cid: Cid, block: bytes) -> tuple[list[Cid], list[int]]:
    """The blocks below, and the bytes below each as its parent says (Tsize)."""
    if cid.codec == RAW:
        return [], []
    below = [link for link in dagpb.decode(block).links if link.cid.hash != IDENTITY]
    return [link.cid for link in below], [max(link.tsize, 1) for link in below]


def _receipts(node: Kubo, root: Cid, now: datetime, found: Iterable[tuple[Level, str, str]]) -> tuple[Receipt, ...]:
    version, peer_id = node.version(), node.peer_id()
    return tuple(
        Receipt(level, str(root), node.name, peer_id, version, asked, answered, now) for level, asked, answered in found
    )


def _count(extent: Extent) -> str:
    return f"{extent.blocks} blocks of {extent.bytes} bytes"
