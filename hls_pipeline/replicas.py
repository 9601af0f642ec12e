"""Getting a directory onto the IPFS nodes, and how many of them hold it.

Each node is served by itself, so a slow or dead one holds up nobody while the quorum stands: it is given up after a
grace, noted as behind, and filled up later. What a node has already is not sent again, an existing pin is never
touched, and a node counts only for what `proof.confirm` got out of it.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any, TypeVar

from hls_pipeline import clock
from hls_pipeline.errors import Outage, ProofMissing, ServiceError, ServiceRefused, UsageError
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt, accepted, confirm
from hls_pipeline.ipfs.unixfs import Directory, Extent, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile
from hls_pipeline.revisions import Revision, hash_bytes, node
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload

ReceiptJson = dict[str, Any]
_T = TypeVar("_T")

GRACE_SECONDS = 5.0
"""What the other nodes get when the quorum is reached, unless the settings say otherwise."""
_PROBES = 8
"""Files of a package that are asked for first: one call each (measured: 100 of them take a tenth of a second)."""


@functools.cache
def connect(settings: Settings) -> tuple[Kubo, ...]:
    """The configured nodes, in order. UsageError when they cannot make the quorum."""
    rpc, gateways = settings.ipfs_rpc_urls, settings.ipfs_gateway_urls
    if len(rpc) != len(gateways):
        raise UsageError("HLS_IPFS_GATEWAY_URLS must name one gateway for each of HLS_IPFS_RPC_URLS")
    for name, urls in (("HLS_IPFS_RPC_URLS", rpc), ("HLS_IPFS_GATEWAY_URLS", gateways)):
        if len({url.rstrip("/").lower() for url in urls}) < len(urls):
            raise UsageError(f"{name} names an address twice; every node has an RPC and a gateway of its own")
    if len(rpc) < settings.ipfs_quorum:
        raise UsageError(f"HLS_IPFS_QUORUM is {settings.ipfs_quorum}, but only {len(rpc)} node(s) are configured")
    secret = settings.ipfs_auth.get_secret_value() if settings.ipfs_auth else ""
    return tuple(
        Kubo(url, gateway, auth=auth, stall_seconds=settings.ipfs_stall_seconds)
        for url, gateway, auth in zip(rpc, gateways, _auths(secret, len(rpc)), strict=True)
    )


def _auths(secret: str, nodes: int) -> list[str]:
    """One for all nodes, or a JSON list with one for each."""
    if not secret.startswith("["):
        return [secret] * nodes
    try:
        auths = json.loads(secret)
    except ValueError:
        auths = []
    if len(auths) != nodes or not all(isinstance(auth, str) for auth in auths):
        raise UsageError("HLS_IPFS_AUTH must be one for all nodes, or a JSON list with one for each RPC address")
    return list(auths)


@dataclass(frozen=True)
class Outcome:
    """What came of asking all nodes for the same thing, when enough of them did it."""

    receipts: tuple[ReceiptJson, ...]
    behind: Mapping[str, str] = field(default_factory=dict)
    """Node (`host:port`) → why it is not among those that did it."""

    def findings(self, root: str) -> list[ReceiptJson]:
        """One receipt of kind `finding` for each node that lacks `root` for all we know."""
        return [
            {"finding": "node_behind", "root": root, "node": node, "reason": reason}
            for node, reason in self.behind.items()
        ]


def on_quorum(
    nodes: Sequence[Kubo], quorum: int, work: Callable[[Kubo], Iterable[Receipt]], grace: float = GRACE_SECONDS
) -> list[ReceiptJson]:
    """The receipts of `attempt`, where it does not matter which nodes are behind."""
    return list(attempt(nodes, quorum, work, grace).receipts)


def attempt(
    nodes: Sequence[Kubo], quorum: int, work: Callable[[Kubo], Iterable[Receipt]], grace: float = GRACE_SECONDS
) -> Outcome:
    """`work` on every node at once. Once `quorum` different nodes (by peer id) have done it, the others get `grace`
    more seconds and are then given up: whatever they still do for us ends with its next call or block.

    A node that was given up gets no grace for a minute: one that is silent would cost it at every step.

    When fewer than `quorum` did it, raises Outage if all that failed were down; else, naming each node's reason,
    ServiceRefused if so many refuse that trying again cannot help, or ProofMissing. Anything but a ServiceError passes
    at once, since it concerns us and not the node.
    """
    over = threading.Event()
    tries = {_start(partial(_receipts, work, kubo.until(over))): kubo for kubo in nodes}
    receipts: list[ReceiptJson] = []
    failed: dict[str, ServiceError] = {}
    waiting, end = set(tries), None
    try:
        while waiting and (end is None or monotonic() < end):
            done, waiting = wait(waiting, end and end - monotonic(), FIRST_COMPLETED)
            for each in done:
                try:
                    receipts += each.result()
                except ServiceError as error:
                    failed[tries[each].name] = error
            if end is None and _peers(receipts) >= quorum:
                end = monotonic() + (0 if all(tries[each].is_late for each in waiting) else grace)
    finally:
        over.set()
    if _peers(receipts) < quorum:
        raise _no_quorum(quorum, len(nodes), list(failed.values()))
    for each in waiting:
        tries[each].note_late()
    slow = {tries[each].name: f"not done {grace:g} s after the quorum was" for each in waiting}
    return Outcome(tuple(receipts), {name: str(error) for name, error in failed.items()} | slow)


def _receipts(work: Callable[[Kubo], Iterable[Receipt]], kubo: Kubo) -> list[ReceiptJson]:
    return [to_json(receipt) for receipt in work(kubo)]


def _peers(receipts: Iterable[ReceiptJson]) -> int:
    return len({receipt["peer_id"] for receipt in receipts})


def _no_quorum(quorum: int, nodes: int, failed: list[ServiceError]) -> ServiceError:
    if failed and all(not error.uses_attempt for error in failed):
        return failed[0]
    reasons = "; ".join(map(str, failed)) or "some addresses lead to the same node"
    willing = nodes - sum(isinstance(error, ServiceRefused) for error in failed)
    kind = ServiceRefused if willing < quorum else ProofMissing
    return kind(f"fewer than {quorum} node(s) did it: {reasons}")


def _start(work: Callable[[], _T]) -> Future[_T]:
    """`work` in a thread that, unlike an executor's, does not keep the process from ending when a node stalls."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="node", daemon=True).start()
    return future


def _all(works: Iterable[Callable[[], _T]]) -> list[_T]:
    """What each answers, all at once. The first error, once all have ended."""
    started = [_start(work) for work in works]
    wait(started)
    return [each.result() for each in started]


def publish(
    kubo: Kubo, revision: Revision, expected: Extent, settings: Settings, *, again: bool = False
) -> tuple[Receipt, ...]:
    """All of a revision's directory on one node, pinned and complete. `again` sends every block, whatever the node
    says that it has: it does not look whether their bytes are still the right ones (Kubo's `block/stat`, `dag/stat`).
    """
    root, sent, stat = revision.directory.root.cid, list[Receipt](), None
    try:
        if again or kubo.pinned(root) is None:
            sent.append(accepted(kubo, root, _send(kubo, revision, settings, again=again), clock.now()))
            # Both walks read every block, so they go side by side: the pin's would miss what was collected since.
            stat = _start(partial(kubo.dag_stat, root, expected.bytes)).result
            kubo.pin(root, f"{revision.upload.video_id} r{revision.upload.revision}", expected.bytes)
        return (*sent, *confirm(kubo, root, expected, clock.now(), counted=stat))
    except ProofMissing:
        if again:
            raise
        # Something is gone that seemed to be there: refill under the pin, which stays as it is.
        return publish(kubo, revision, expected, settings, again=True)


def _send(kubo: Kubo, revision: Revision, settings: Settings, *, again: bool) -> Extent:
    """Files first, in several streams, then the directories that name them. Answers what the node counted of it."""
    files, streams = list({file.cid: file for file in revision.files}.values()), settings.ipfs_streams
    if not again and _holds_some(kubo, files):
        parts = [files[start::streams] for start in range(streams)]
        files = [*chain(*_all(partial(_lacking, kubo, part) for part in parts))]
    shares = [share for share in _shares(files, streams) if share]
    taken = _all(partial(_import, kubo, revision, share, settings.ipfs_ahead_bytes // streams) for share in shares)
    taken.append(kubo.import_blocks(revision.directory.blocks))
    return Extent(sum(each.blocks for each in taken), sum(each.bytes for each in taken))


def _import(kubo: Kubo, revision: Revision, files: Iterable[InventoryFile], ahead: int) -> Extent:
    return kubo.import_blocks(revision.blocks(files, ahead))


def _holds_some(kubo: Kubo, files: Sequence[InventoryFile]) -> bool:
    """Whether asking for every file pays. Of a new package the node has none, and a few answers tell; of one that was
    cut off it has those that are sent first."""
    few = sorted(files, key=_size, reverse=True)[:: -(-len(files) // _PROBES)]
    return any(_holds(kubo, file) for file in few)


def _lacking(kubo: Kubo, files: Iterable[InventoryFile]) -> list[InventoryFile]:
    return [file for file in files if not _holds(kubo, file)]


def _holds(kubo: Kubo, file: InventoryFile) -> bool:
    """Whether the node has all of a file already: from an earlier try, or from another revision. What it cannot tell
    us, because it cannot read it, it does not have."""
    cid = node(file).cid
    try:
        return kubo.has(cid) and (file.dag_blocks == 1 or kubo.dag_stat(cid, file.dag_size).blocks > 0)
    except Outage:
        raise
    except ServiceError:
        return False


def _size(file: InventoryFile) -> int:
    return file.size


def _shares(files: Iterable[InventoryFile], streams: int) -> list[list[InventoryFile]]:
    """Files dealt out so that each stream has about as many bytes as the others."""
    shares: list[list[InventoryFile]] = [[] for _ in range(streams)]
    sizes = [0] * streams
    for file in sorted(files, key=_size, reverse=True):
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
    sent = accepted(kubo, root, kubo.import_blocks(small.blocks), clock.now())
    kubo.pin(root, name, small.extent.bytes)
    return (sent, *confirm(kubo, root, small.extent, clock.now()))


def read_back(kubo: Kubo, root: str, expected: Extent | None = None, sample: int = 0) -> tuple[Receipt, ...]:
    """Every block of `root` given back by the node and hashed, beside the claims of pin and completeness. Where we know
    what to expect, of roots with more than `sample` blocks only that many drawn at random, unless it is 0."""
    cid = Cid.parse(root)
    if expected is None:  # the node's own count will do: what follows from the hashes must equal it
        return confirm(kubo, cid, kubo.dag_stat(cid), clock.now(), Level.READ_BACK)
    level = Level.SAMPLED if 0 < sample < expected.blocks else Level.READ_BACK
    return confirm(kubo, cid, expected, clock.now(), level, sample)


def read_back_both(kubo: Kubo, upload: Upload, sample: int) -> list[Receipt]:
    """The published directory and the record, given back by one node. Raises ProofMissing."""
    package = read_back(kubo, upload.root or "", extent(upload), sample)
    return [*package, *read_back(kubo, upload.record or "")]


def extent(upload: Upload) -> Extent:
    """What staging counted of the published directory."""
    return Extent(upload.blocks or 0, upload.dag_bytes or 0)


def to_json(receipt: Receipt) -> ReceiptJson:
    return {**asdict(receipt), "level": receipt.level.name.lower(), "at": clock.text(receipt.at)}


def proven(receipts: Iterable[Mapping[str, Any]], root: str, level: Level = Level.COMPLETE) -> frozenset[str]:
    """Peer ids of the nodes that proved at least `level` of `root`."""
    return frozenset(
        str(receipt["peer_id"])
        for receipt in receipts
        if receipt["root"] == root and Level[str(receipt["level"]).upper()] >= level
    )
