"""Keeping every published directory pinned and whole on every node, and saying where it is not.

`check` compares the catalogue with each node's pins, mends what is missing, and has a share of all content given back
in full, so that everything is proven at least every HLS_PROOF_DAYS. A healthy pin is never touched. A node is mended
from its own blocks, another node, S3 where the copies are still there, or block by block from whoever has each.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain

from hls_pipeline import clock, pinning, rehydration, renderings, replicas, work
from hls_pipeline.errors import LeaseLost, ObjectMissing, Outage, PipelineError, ProofMissing, ServiceError, UsageError
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import IDENTITY, Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.pinning_service import PinningService
from hls_pipeline.ipfs.proof import Level, Receipt, confirm
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import alerts, catalogue
from hls_pipeline.upkeep.alerts import Problem
from hls_pipeline.upkeep.catalogue import Ledger, Wanted
from hls_pipeline.uploads import READY, Upload

_NAMED = 100
"""Problems that are told one by one; the rest are counted."""


@dataclass
class NodeHealth:
    """What was found on one node, and done about it."""

    node: str
    """`host:port` of its RPC."""
    peer_id: str | None = None
    unreachable: str | None = None
    """Why it could not be looked at, or not to the end."""
    pins: int = 0
    missing: int = 0
    """Roots that ought to be pinned and were not."""
    proven: int = 0
    """Roots that it gave back in full just now."""
    damaged: int = 0
    """Roots with a pin that it could not give back."""
    mended: int = 0
    oldest_proof: datetime | None = None

    @property
    def left(self) -> int:
        return self.missing + self.damaged - self.mended


@dataclass(frozen=True)
class Health:
    wanted: int
    quorum: int
    nodes: tuple[NodeHealth, ...]
    short: int
    """Roots that fewer nodes than the quorum are known to have."""
    lost: int
    """Roots that no node is known to have."""
    problems: tuple[str, ...] = ()
    more: int = 0
    """Problems beyond those that are named."""

    @property
    def answering(self) -> bool:
        return all(node.unreachable is None for node in self.nodes)

    @property
    def healthy(self) -> bool:
        return self.answering and self.short == 0 and all(node.left == 0 for node in self.nodes)


@dataclass
class _Problems:
    named: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, problem: str) -> None:
        if len(self.named) < _NAMED:
            self.named.append(problem)
        else:
            self.more += 1


def check(
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
    *,
    dry_run: bool = False,
    join: str | None = None,
    leave: str | None = None,
) -> Health:
    """Every node beside the catalogue. `dry_run` only looks. `join` fills up this node alone; `leave` makes sure that
    the others have all of it, each root proven within HLS_PROOF_DAYS, so that this one can go. What a look at all
    nodes could not mend is a problem that people are told of, until a later one finds it whole.

    Raises UsageError for a node that is not configured, or whose leaving would leave fewer than the quorum.
    """
    _check_names(nodes, settings, join, leave)
    problems = _Problems()
    with Ledger() as ledger:
        ledger.read_catalogue(store)
        looked = [_look(node, ledger, problems) for node in nodes]
        here = [(node, health) for node, health in zip(nodes, looked, strict=True) if health.peer_id]
        keep = _Keeper(ledger, [node for node, _ in here], objects, store, settings, problems)
        staying = [(node, health) for node, health in here if leave is None or node.name != leave]
        for node, health in staying:
            if not dry_run and join in (None, node.name):
                keep.whole(node, health, leaving=leave is not None)
            health.oldest_proof = ledger.oldest_proof(health.peer_id or "")
        if settings.pinning_services and not (dry_run or join or leave):
            ledger.read_requests(store)
            for service in pinning.connect(settings):
                keep.extra_copies(service)
        short = lost = 0
        for wanted, there in ledger.short([health.peer_id or "" for _, health in staying], settings.ipfs_quorum):
            short, lost = short + 1, lost + (there == 0)
            problems.add(f"video {wanted.video_id}: {wanted.root} is on {there} node(s), not {settings.ipfs_quorum}")
        total = ledger.wanted
    if not dry_run:
        catalogue.forget_old_proofs(store)
    shown = tuple(health for node, health in zip(nodes, looked, strict=True) if node.name != leave)
    found = Health(total, settings.ipfs_quorum, shown, short, lost, tuple(problems.named), problems.more)
    if found.answering and not (dry_run or join or leave):  # of a node that is away people are told anyway
        _tell(store, found)
    return found


def _tell(store: MetadataStore, found: Health) -> None:
    if found.healthy:
        alerts.close(store, alerts.PINS_SHORT, clock.now())
        return
    left = sum(node.left for node in found.nodes)
    problem = Problem(
        alerts.PINS_SHORT,
        alerts.PINS_SHORT,
        f"{found.short} of {found.wanted} published directories are on fewer than {found.quorum} nodes, "
        f"{found.lost} on none; {left} could not be mended",
        next(iter(found.problems), ""),
        "`hls-pipeline repin` names each. Add a node that has the content, or send the packages again under their ids.",
    )
    alerts.open_(store, problem, clock.now())


def _check_names(nodes: Sequence[Kubo], settings: Settings, join: str | None, leave: str | None) -> None:
    names = [node.name for node in nodes]
    if join and leave:
        raise UsageError("a node joins or another leaves; name one of them at a time")
    if (named := join or leave) and named not in names:
        raise UsageError(f"{named} is none of the nodes in HLS_IPFS_RPC_URLS: {', '.join(names)}")
    if leave and len(names) - 1 < settings.ipfs_quorum:
        raise UsageError(f"without {leave} there are fewer nodes than HLS_IPFS_QUORUM ({settings.ipfs_quorum})")


def _look(node: Kubo, ledger: Ledger, problems: _Problems) -> NodeHealth:
    """One question for who it is, one for all its pins."""
    health = NodeHealth(node.name)
    try:
        peer_id = node.peer_id()
        health.pins = ledger.read_pins(peer_id, node)
    except PipelineError as error:
        health.unreachable = str(error)
        problems.add(f"{node.name} cannot be looked at: {error}")
    else:
        health.peer_id, health.missing = peer_id, ledger.missing_count(peer_id)
    return health


@dataclass(frozen=True)
class _Keeper:
    """Makes one node after the other whole."""

    ledger: Ledger
    nodes: Sequence[Kubo]
    objects: ObjectStore
    store: MetadataStore
    settings: Settings
    problems: _Problems

    def whole(self, node: Kubo, health: NodeHealth, *, leaving: bool) -> None:
        """Missing roots are mended, due ones given back, damaged ones mended. Stops where the node stops."""
        peer_id, now = health.peer_id or "", clock.now()
        due = self.ledger.due(peer_id, now, self.settings.proof_days)
        if leaving:
            due = self.ledger.unproven(peer_id, now - timedelta(days=self.settings.proof_days))
        try:
            for wanted in self.ledger.missing(peer_id):
                self._mend(node, wanted, health)
            for wanted in due:
                self._prove(node, wanted, health)
        except Outage as error:
            health.unreachable = str(error)
            self.problems.add(f"{node.name} stopped answering: {error}")

    def _prove(self, node: Kubo, wanted: Wanted, health: NodeHealth) -> None:
        try:
            replicas.read_back(node, wanted.root)
        except ServiceError:
            node.version()  # an Outage if it is the node that is down
            health.damaged += 1
            self.ledger.is_damaged(health.peer_id or "", wanted.root)
            self._mend(node, wanted, health)
        else:
            health.proven += 1
            self._is_there(wanted, health)

    def _is_there(self, wanted: Wanted, health: NodeHealth) -> None:
        now = clock.now()
        self.ledger.is_there(health.peer_id or "", wanted.root, now)
        catalogue.note_proof(self.store, health.peer_id or "", wanted.root, now)

    def _mend(self, node: Kubo, wanted: Wanted, health: NodeHealth) -> None:
        """Under the video's lease, so that nobody withdraws it meanwhile unnoticed. Raises Outage when the node does
        not answer any more; what cannot be mended is a problem, and the next root gets its turn."""
        try:
            mended = self._mend_held(node, wanted)
        except PipelineError as error:
            node.version()
            self.problems.add(f"video {wanted.video_id}: {error}")
            return
        health.mended += 1
        if mended:
            self._is_there(wanted, health)

    def _mend_held(self, node: Kubo, wanted: Wanted) -> bool:
        """Whether it still had to be mended: it may have been withdrawn since."""
        upload = self.store.upload(wanted.upload_id)
        with work.holding(upload, f"hand:{uuid.uuid4()}", self.store, self.settings, last=True) as lease:
            upload = self.store.upload(wanted.upload_id)
            if upload.state not in READY:
                return False
            self.store.claim(lease, wanted.root)
            receipts = _refill(node, wanted, self._sources(node, wanted, upload), upload)
            self.store.add_receipts(lease, "proof", map(replicas.to_json, receipts), clock.now())
        return True

    def extra_copies(self, service: PinningService) -> None:
        """Asks a pinning service again for what it has not said to have pinned. Goes on tomorrow where it stops
        answering, and with the next video where somebody works on one."""
        for wanted, known in self.ledger.not_pinned_at(service.name):
            try:
                self._request_held(service, wanted, known)
            except LeaseLost:
                continue
            except Outage as error:
                self.problems.add(str(error))
                return

    def _request_held(self, service: PinningService, wanted: Wanted, known: str | None) -> None:
        """The upload itself has not failed when a service has: only an outage passes on."""
        upload, away = self.store.upload(wanted.upload_id), None
        with work.holding(upload, f"hand:{uuid.uuid4()}", self.store, self.settings, last=True) as lease:
            if self.store.upload(wanted.upload_id).state not in READY:
                return
            try:
                pinning.request_again(service, wanted.root, known, upload, lease, self.store)
            except Outage as error:
                away = error
            except ServiceError as error:
                self.problems.add(f"video {wanted.video_id}: {error}")
        if away:
            raise away

    def _sources(self, node: Kubo, wanted: Wanted, upload: Upload) -> Iterator[tuple[str, Callable[[], _Blocks]]]:
        """Where the blocks may come from, the cheapest first."""
        cid, others = Cid.parse(wanted.root), [other for other in self.nodes if other.name != node.name]
        yield "its own disk", tuple
        for other in others:
            yield other.name, partial(other.blocks, cid)
        if self.store.temp_objects(upload.upload_id):
            yield "S3", partial(self._from_s3, wanted, upload)
        if others:
            yield "all nodes together", partial(_from_anybody, cid, self.nodes)

    def _from_s3(self, wanted: Wanted, upload: Upload) -> _Blocks:
        files = self.store.inventory(upload.upload_id)
        revision = Revision(upload, files, self.objects, self.settings.s3_media, self.settings.policy())
        if wanted.root == upload.root:
            return chain(revision.blocks(revision.files), revision.directory.blocks)
        return replicas.SmallDirectory.of(renderings.record(revision), revision.profile).blocks


_Blocks = Iterable[Block]


def _refill(
    node: Kubo, wanted: Wanted, sources: Iterable[tuple[str, Callable[[], _Blocks]]], upload: Upload
) -> tuple[Receipt, ...]:
    """The node has it pinned and gave all of it back. What it has is not sent again unless it turned out damaged.

    Raises ProofMissing with what each source lacks.
    """
    cid, name = Cid.parse(wanted.root), f"{upload.video_id} r{upload.revision}"
    reasons: list[str] = []
    for source, blocks in sources:
        try:
            if source != "its own disk":
                node.import_blocks(blocks())
            expected = node.dag_stat(cid, wanted.bytes)  # offline: `pin` would ask the node's peers for what lacks
            node.pin(cid, name, expected.bytes)
            return confirm(node, cid, expected, clock.now(), Level.READ_BACK)
        except (ServiceError, ObjectMissing) as error:
            reasons.append(f"{source}: {error}")
    raise ProofMissing(
        f"{wanted.root} cannot be mended on {node.name}: {'; '.join(reasons)}. If another node has it all, a "
        "cache keeps this one from replacing damaged blocks: set Datastore.BlockKeyCacheSize to 0, restart it and run "
        "`hls-pipeline repin` again"
    )


def _from_anybody(root: Cid, nodes: Sequence[Kubo]) -> Iterator[Block]:
    """The blocks of a DAG, each from the first node that has it: two nodes may lack different ones."""
    waiting, seen = [root], set[bytes]()
    while waiting:
        cid = waiting.pop()
        if cid.hash == IDENTITY or bytes(cid) in seen:
            continue
        seen.add(bytes(cid))
        data = rehydration.first(nodes, partial(Kubo.block, cid=cid))
        yield cid, data
        waiting += dagpb.links(cid, data)
