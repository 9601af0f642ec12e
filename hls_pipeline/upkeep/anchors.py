"""The heads of all chains, of versions and of receipts, written down where whoever rewrites the database cannot reach.

An anchor is one canonical JSON document that names the last version of every video and its hash, and the hash of each
upload's last receipt. It goes to IPFS, where a quorum of nodes pins it under an address that is its content, and to S3;
the database keeps only that address. A new one is made only if the history still contains what the one before it says.
How a chain is checked is in `audit.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import rfc8785
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from hls_pipeline import audit, clock, keys, replicas, tables
from hls_pipeline.errors import Corruption, ObjectMissing, Outage, PipelineError, ProofMissing, ServiceError
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import document_copies

FILE = "anchor.json"
"""Its name in its directory on IPFS."""


class Document(BaseModel):
    """What is anchored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["hls-pipeline-anchor/1"] = "hls-pipeline-anchor/1"
    profile: Literal["unixfs-v1-2025", "unixfs-v0-2015"]
    time: str
    previous: str | None
    """Root of the anchor before it: with one of them, all before it can be found and believed."""
    heads: dict[str, tuple[int, str]]
    """Video → number and hash of its last version."""
    receipts: dict[str, list[str]] = {}
    """Video → hashes of the last receipts of its uploads; the first anchors had none."""

    def bytes(self) -> bytes:
        content = self.model_dump(mode="json")
        if not self.receipts:  # an anchor without them keeps its address
            del content["receipts"]
        return rfc8785.dumps(content)

    def directory(self) -> replicas.SmallDirectory:
        return replicas.SmallDirectory.of({FILE: self.bytes()}, PROFILES[self.profile])


@dataclass(frozen=True)
class Anchor:
    root: str
    document: Document

    @property
    def key(self) -> str:
        return keys.anchor(self.document.time, self.root)

    @property
    def heads(self) -> audit.Heads:
        return self.document.heads

    @property
    def receipts(self) -> audit.ReceiptHeads:
        return self.document.receipts


# ---- making ------------------------------------------------------------------------------------------------------


def make(
    store: MetadataStore,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    settings: Settings,
    now: datetime,
    *,
    restored: bool = False,
) -> Anchor:
    """The heads as they are now are anchored; the newest anchor, if nothing was added since. Raises Corruption, and
    anchors nothing, when the history does not go on from the newest anchor, unless the database was `restored` and
    somebody accepts what it lost."""
    if settings.documents_on_ipfs:
        document_copies.put(store, nodes, settings, now)
    before = newest(store, objects, nodes, settings)
    heads, lost = _heads(store, before.heads if before else {})
    receipts, lost_receipts = _receipt_heads(store, before.receipts if before else {})
    if before and not restored:
        _refuse(before, lost, lost_receipts, "nothing is anchored")
    if before and (before.heads, before.receipts) == (heads, receipts):
        _keep(before, store, now)
        return before
    document = Document(
        profile=settings.ipfs_profile,
        time=clock.text(now),
        previous=before.root if before else None,
        heads=heads,
        receipts=receipts,
    )
    small = document.directory()
    made = Anchor(str(small.directory.root.cid), document)
    replicas.on_quorum(
        nodes,
        settings.ipfs_quorum,
        lambda node: replicas.publish_small(node, small, f"anchor {document.time}"),
        settings.ipfs_grace_seconds,
    )
    objects.put(settings.s3_media, made.key, document.bytes(), "application/json")
    _keep(made, store, now)
    return made


def goes_on(store: MetadataStore, objects: ObjectStore, nodes: Sequence[Kubo], settings: Settings) -> None:
    """Raises Corruption when the history lost something that the newest anchor knows."""
    if known := newest(store, objects, nodes, settings):
        _, lost = _heads(store, known.heads)
        _, lost_receipts = _receipt_heads(store, known.receipts)
        _refuse(known, lost, lost_receipts, "nothing is removed")


def _refuse(known: Anchor, lost: audit.Heads, lost_receipts: set[tuple[str, str]], consequence: str) -> None:
    """Raises Corruption, naming the first thing that is not on record any more, if there is one."""
    if lost:
        video_id, (n, _) = min(lost.items())
        what = f"video {video_id}: version {n} is not what it was"
    elif lost_receipts:
        what = f"video {min(lost_receipts)[0]}: a receipt is gone that was there"
    else:
        return
    raise Corruption(
        f"{what} at {known.document.time}, when {known.root} was anchored; "
        f"{consequence}. `hls-pipeline audit verify` says more. If the database was restored from a backup: "
        "docs/how-to/restore-from-disaster.md"
    )


def _heads(store: MetadataStore, before: audit.Heads) -> tuple[dict[str, tuple[int, str]], audit.Heads]:
    """The heads now, and those of before that are no longer in the history; from numbers and hashes alone."""
    table, lost, heads = tables.version, dict(before), {}
    query = sa.select(table.c.video_id, table.c.n, table.c.hash).order_by(table.c.video_id, table.c.n)
    for video_id, n, found in _streamed(store, query):
        heads[video_id] = (n, found)
        if lost.get(video_id) == (n, found):
            del lost[video_id]
    return heads, lost


def _receipt_heads(
    store: MetadataStore, before: audit.ReceiptHeads
) -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """The same of receipts. Uploads whose last one is from before there were hashes are not in it."""
    receipt, upload = tables.receipt, tables.upload
    query = (
        sa.select(upload.c.video_id, receipt.c.upload_id, receipt.c.hash)
        .join(upload, receipt.c.upload_id == upload.c.upload_id)
        .order_by(receipt.c.upload_id, receipt.c.id)
    )
    lost = {(video_id, link) for video_id, links in before.items() for link in links}
    heads: dict[str, list[str]] = {}
    for (video_id, _), chain in groupby(_streamed(store, query), key=itemgetter(0, 1)):
        link = None
        for *_, link in chain:
            lost.discard((video_id, link))
        if link:
            heads.setdefault(video_id, []).append(link)
    return heads, lost


def _streamed(store: MetadataStore, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
    with store.reading() as db:
        for part in db.execute(query, execution_options={"yield_per": 10_000}).partitions():
            yield from part


def _keep(anchor: Anchor, store: MetadataStore, now: datetime) -> None:
    """Its address is in the database, once."""
    table, newest = tables.anchor, _newest_row()
    with store.writing() as db:
        last = db.execute(newest).first()
        if last is None or last.root != anchor.root:
            about = {"root": anchor.root, "key": anchor.key, "videos": len(anchor.heads), "time": now}
            db.execute(sa.insert(table).values(n=last.n + 1 if last else 1, **about))


# ---- finding -----------------------------------------------------------------------------------------------------


def newest(store: MetadataStore, objects: ObjectStore, nodes: Sequence[Kubo], settings: Settings) -> Anchor | None:
    """The newest anchor that the database or S3 knows: a database that was set back does not know the newest. Raises
    Outage when S3 cannot be asked, Corruption when no place has the anchor as it was."""
    row = recorded(store)
    known = [row.key] if row else []
    known += [item.key for item in objects.listing(settings.s3_media, keys.ANCHORS)]
    key = max(known, default=None)  # they begin with their time
    return None if key is None else read(keys.anchor_root(key), objects, nodes, settings, key)


@dataclass(frozen=True)
class Recorded:
    root: str
    key: str
    time: datetime
    videos: int


def recorded(store: MetadataStore) -> Recorded | None:
    """The newest anchor that the database knows."""
    with store.reading() as db:
        row = db.execute(_newest_row()).first()
    return Recorded(row.root, row.key, row.time, row.videos) if row else None


def _newest_row() -> sa.Select[tuple[object, ...]]:
    return sa.select(tables.anchor).order_by(tables.anchor.c.n.desc()).limit(1)


def read(root: str, objects: ObjectStore, nodes: Sequence[Kubo], settings: Settings, key: str | None = None) -> Anchor:
    """An anchor by its root, from the first place that has it; its content makes its address, so no place is trusted.
    Raises Outage when a place could not be asked and no other has it, else Corruption."""
    outage: PipelineError | None = None
    for place in _places(root, objects, nodes, settings, key):
        try:
            document = Document.model_validate_json(b"".join(place))
        except (ObjectMissing, ProofMissing, ValidationError):
            continue
        except ServiceError as error:
            outage = error
            continue
        if str(document.directory().directory.root.cid) == root:
            return Anchor(root, document)
    if outage:
        raise Outage(f"the anchor {root} could not be read: {outage}") from outage
    raise Corruption(
        f"the anchor {root} is neither in S3 nor on the IPFS nodes as it was; give another one to "
        "`hls-pipeline audit verify --anchor`: Dagster's asset `version_anchor` lists them all"
    )


def _places(
    root: str, objects: ObjectStore, nodes: Sequence[Kubo], settings: Settings, key: str | None
) -> Iterator[Iterator[bytes]]:
    if key:
        yield objects.read(settings.s3_media, key)
    for node in nodes:
        yield node.read(f"{root}/{FILE}")
