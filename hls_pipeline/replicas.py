"""Getting a directory onto the IPFS nodes, and how many of them hold it.

Each node is served by itself, so a slow or dead one holds up nobody while the quorum stands. What a node has already
is not sent again, an existing pin is never touched, and a node counts only for what `proof.confirm` got out of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from hls_pipeline import clock
from hls_pipeline.errors import ProofMissing, ServiceError, UsageError
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt, confirm
from hls_pipeline.ipfs.unixfs import Directory, Extent, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile
from hls_pipeline.revisions import Revision, hash_bytes, node
from hls_pipeline.settings import Settings

ReceiptJson = dict[str, Any]


@functools.cache
def connect(settings: Settings) -> tuple[Kubo, ...]:
    """The configured nodes, in order. UsageError when they cannot make the quorum."""
    rpc, gateways = settings.ipfs_rpc_urls, settings.ipfs_gateway_urls
    if len(rpc) != len(gateways):
        raise UsageError("HLS_IPFS_GATEWAY_URLS must name one gateway for each of HLS_IPFS_RPC_URLS")
    if len(rpc) < settings.ipfs_quorum:
        raise UsageError(f"HLS_IPFS_QUORUM is {settings.ipfs_quorum}, but only {len(rpc)} node(s) are configured")
    auth = settings.ipfs_auth.get_secret_value() if settings.ipfs_auth else None
    return tuple(
        Kubo(url, gateway, auth=auth, stall_seconds=settings.ipfs_stall_seconds)
        for url, gateway in zip(rpc, gateways, strict=True)
    )


def on_quorum(nodes: Sequence[Kubo], quorum: int, work: Callable[[Kubo], Iterable[Receipt]]) -> list[ReceiptJson]:
    """Receipts of every node where `work` succeeded. Raises ProofMissing, naming each node's reason, when fewer than
    `quorum` did; Corruption passes at once, since it concerns us and not the node."""
    with ThreadPoolExecutor(max_workers=len(nodes), thread_name_prefix="node") as pool:
        tries = [pool.submit(lambda node: list(work(node)), node) for node in nodes]
    receipts: list[ReceiptJson] = []
    failed: list[ServiceError] = []
    for attempt in tries:
        try:
            receipts += [to_json(receipt) for receipt in attempt.result()]
        except ServiceError as error:
            failed.append(error)
    if len(tries) - len(failed) < quorum:
        if all(not error.uses_attempt for error in failed):
            raise failed[0]
        raise ProofMissing("; ".join(str(error) for error in failed))
    return receipts


def publish(kubo: Kubo, revision: Revision, expected: Extent, *, streams: int) -> tuple[Receipt, ...]:
    """All of a revision's directory on one node, pinned and complete."""
    root = revision.directory.root.cid
    name = f"{revision.upload.video_id} r{revision.upload.revision}"
    if kubo.pinned(root) is None:
        _send(kubo, revision, streams)
        kubo.pin(root, name, expected.bytes)
    try:
        return confirm(kubo, root, expected, clock.now())
    except ProofMissing:
        # Pinned, but something is gone or damaged: refill under the pin, which stays as it is.
        _send(kubo, revision, streams, reading=True)
        return confirm(kubo, root, expected, clock.now())


def _send(kubo: Kubo, revision: Revision, streams: int, *, reading: bool = False) -> None:
    """Files first, in several streams, then the directories that name them. `reading`: a file counts as being there
    only if the node can read it from its disk."""
    distinct = {file.cid: file for file in revision.files}.values()
    with ThreadPoolExecutor(max_workers=streams, thread_name_prefix="import") as pool:
        held = pool.map(lambda file: _holds(kubo, file, reading), distinct)
        missing = [file for file, there in zip(distinct, held, strict=True) if not there]
        shares = [share for share in _shares(missing, streams) if share]
        for done in [pool.submit(kubo.import_blocks, revision.blocks(share)) for share in shares]:
            done.result()
    kubo.import_blocks(revision.directory.blocks)


def _holds(kubo: Kubo, file: InventoryFile, reading: bool) -> bool:
    """Whether the node has all of a file already: from an earlier try, or from another revision."""
    cid = node(file).cid
    if not kubo.has(cid):
        return False
    try:
        return (file.dag_blocks == 1 and not reading) or kubo.dag_stat(cid, file.dag_size).blocks > 0
    except ProofMissing:
        return False


def _shares(files: Iterable[InventoryFile], streams: int) -> list[list[InventoryFile]]:
    """Files dealt out so that each stream has about as many bytes as the others."""
    shares: list[list[InventoryFile]] = [[] for _ in range(streams)]
    sizes = [0] * streams
    for file in sorted(files, key=lambda file: file.size, reverse=True):
        lightest = sizes.index(min(sizes))
        shares[lightest].append(file)
        sizes[lightest] += file.size
    return shares


@dataclass(frozen=True)
class SmallDirectory:
    """A directory whose files fit in memory: playlists and inventories."""

    directory: Directory
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, files: Mapping[str, bytes], profile: Profile) -> SmallDirectory:
        hashed = {path: hash_bytes(data, profile) for path, data in files.items()}
        directory = build_directory({path: node for path, (node, _) in hashed.items()}, profile)
        blocks = dict(chain(*(blocks for _, blocks in hashed.values()), directory.blocks))
        return cls(directory, tuple(blocks.items()))

    @property
    def extent(self) -> Extent:
        return Extent(len(self.blocks), sum(len(data) for _, data in self.blocks))


def publish_small(kubo: Kubo, small: SmallDirectory, name: str) -> tuple[Receipt, ...]:
    """A small directory on one node, pinned and complete."""
    root = small.directory.root.cid
    kubo.import_blocks(small.blocks)
    kubo.pin(root, name, small.extent.bytes)
    return confirm(kubo, root, small.extent, clock.now())


def read_back(kubo: Kubo, root: str) -> tuple[Receipt, ...]:
    """Every block of `root` given back by the node and hashed, beside the claims of pin and completeness."""
    cid = Cid.parse(root)
    return confirm(kubo, cid, kubo.dag_stat(cid), clock.now(), Level.READ_BACK)


def to_json(receipt: Receipt) -> ReceiptJson:
    return {**asdict(receipt), "level": receipt.level.name.lower(), "at": clock.text(receipt.at)}


def proven(receipts: Iterable[Mapping[str, Any]], root: str, level: Level = Level.COMPLETE) -> frozenset[str]:
    """Peer ids of the nodes that proved at least `level` of `root`."""
    return frozenset(
        str(receipt["peer_id"])
        for receipt in receipts
        if receipt["root"] == root and Level[str(receipt["level"]).upper()] >= level
    )
