"""What a node's answers prove about a root, as receipts that can be stored and shown.

Four levels, each including those before: *accepted* (the node counted the blocks that were sent), *pinned* (it has a
recursive pin of the root), *complete* (it read every block of the DAG from its disk), *read back* (we got every block
from its gateway and hashed it). A receipt says who was asked what and what it answered; it is written only after the
answer held. What a level is needed for is decided in `steps`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from hls_pipeline.errors import ProofMissing
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import Extent


class Level(IntEnum):
    ACCEPTED = 1
    PINNED = 2
    COMPLETE = 3
    READ_BACK = 4


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
    node: Kubo, root: Cid, expected: Extent, now: datetime, level: Level = Level.COMPLETE
) -> tuple[Receipt, ...]:
    """Ask the node for all levels from *pinned* up to `level`. ProofMissing if one does not hold.

    `expected` counts whole files (`Directory.extent`). Where chunks repeat, a complete node has fewer blocks than
    that; then the read-back decides, whose count is exact because it follows the hashes from the root.
    """
    pin = node.pinned(root)
    if pin is None:
        raise ProofMissing(f"{root} is not pinned on {node.name}; publish or repin it again")
    found = [(Level.PINNED, "pin/ls type=recursive", f"recursive, named {pin.name!r}")]
    if level >= Level.COMPLETE:
        stat = node.dag_stat(root, expected.bytes)
        found.append((Level.COMPLETE, "dag/stat offline=true", _count(stat)))
        if level >= Level.READ_BACK or stat != expected:
            read = node.read_back(root)
            found.append((Level.READ_BACK, "gateway format=car dag-scope=all, every block hashed", _count(read)))
            if read != stat:
                raise ProofMissing(
                    f"{node.name} says that {root} has {_count(stat)}, but gave back {_count(read)}; try again"
                )
    return _receipts(node, root, now, found)


def holders(receipts: Iterable[Receipt], root: Cid, level: Level) -> frozenset[str]:
    """Peer ids of the nodes that proved at least `level` of `root`: one node under two addresses counts once."""
    return frozenset(receipt.peer_id for receipt in receipts if receipt.root == str(root) and receipt.level >= level)


def has_quorum(receipts: Iterable[Receipt], root: Cid, level: Level, quorum: int) -> bool:
    return len(holders(receipts, root, level)) >= quorum


def _receipts(node: Kubo, root: Cid, now: datetime, found: Iterable[tuple[Level, str, str]]) -> tuple[Receipt, ...]:
    version, peer_id = node.version(), node.peer_id()
    return tuple(
        Receipt(level, str(root), node.name, peer_id, version, asked, answered, now) for level, asked, answered in found
    )


def _count(extent: Extent) -> str:
    return f"{extent.blocks} blocks of {extent.bytes} bytes"
