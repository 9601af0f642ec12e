"""What ought to be on IPFS beside what the nodes have, compared on disk: memory stays flat however much there is.

A `Ledger` is a private database in a temporary file that is gone with it. It is filled once with the roots of all
published revisions, and for each node with its pins, from one streamed call; the questions to it are one query each.
What is done about the answers belongs in `repinning.py` and `reconciliation.py`.
"""

# ruff: noqa: S608  # queries are put together from our own words alone; values are bound

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore, rows
from hls_pipeline.uploads import READY, State

_PAGE = 1000  # rows at a time
_DAY, _NIGHT = timedelta(days=1), timedelta(hours=12)


@dataclass(frozen=True)
class Wanted:
    """A root that ought to be pinned."""

    root: str
    upload_id: str
    video_id: str
    bytes: int
    """Of its blocks, 0 where that is not on record."""


class Ledger:
    """Use as a context manager. Nodes are named by their peer ids."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")  # a temporary file, which SQLite removes when it is closed
        self._db.executescript(
            """
            CREATE TABLE wanted (root TEXT PRIMARY KEY, upload_id, video_id, bytes, since) WITHOUT ROWID;
            CREATE TABLE claim (root TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE pin (node TEXT, root TEXT, name, PRIMARY KEY (node, root)) WITHOUT ROWID;
            CREATE TABLE proven (node TEXT, root TEXT, at, PRIMARY KEY (node, root)) WITHOUT ROWID;
            CREATE TABLE request (service TEXT, root TEXT, status, PRIMARY KEY (service, root)) WITHOUT ROWID;
            CREATE TABLE due (root TEXT PRIMARY KEY, upload_id, video_id, bytes) WITHOUT ROWID;
            """
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    # ---- filled from the metadata store and the nodes ---------------------------------------------------------------

    def read_catalogue(self, store: MetadataStore) -> None:
        """The roots of all published revisions, what is claimed, and when each node last gave each root back."""
        proof = tables.replica_proof
        self._fill("wanted", _ready(store))
        self._fill("claim", _rows(store, sa.select(tables.claim.c.root).distinct()))
        self._fill("proven", _rows(store, sa.select(proof.c.peer_id, proof.c.root, proof.c.proven_at)))

    def read_requests(self, store: MetadataStore) -> None:
        """What each pinning service said last about each root."""
        receipt = tables.receipt
        query = sa.select(receipt.c.content).where(receipt.c.kind == "pinning").order_by(receipt.c.id.desc())
        said = (content for (content,) in _rows(store, query))
        self._fill("request", ((each["service"], each["root"], each["status"]) for each in said))

    def read_pins(self, peer_id: str, node: Kubo) -> int:
        """Every pin of a node, how many. Raises what the node raises; nothing of a list that broke off stays."""
        self._fill("pin", ((peer_id, str(pin.cid), pin.name) for pin in node.pins()))
        return int(self._one("SELECT count(*) FROM pin WHERE node = :node", node=peer_id))

    def _fill(self, table: str, rows: Iterator[Sequence[Any]]) -> None:
        first = next(rows, None)
        if first is None:
            return
        places = ", ".join("?" * len(first))
        with self._db:
            self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", first)
            self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", rows)

    # ---- changed as nodes are mended ----------------------------------------------------------------------------

    def is_there(self, peer_id: str, root: str, proven_at: datetime) -> None:
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO pin VALUES (?, ?, '')", (peer_id, root))
            self._db.execute("INSERT OR REPLACE INTO proven VALUES (?, ?, ?)", (peer_id, root, clock.text(proven_at)))

    def is_damaged(self, peer_id: str, root: str) -> None:
        with self._db:
            self._db.execute("DELETE FROM pin WHERE node = ? AND root = ?", (peer_id, root))

    # ---- asked --------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        return int(self._one("SELECT count(*) FROM wanted"))

    def missing(self, peer_id: str) -> Iterator[Wanted]:
        """Roots that a node ought to have pinned and has not, in the order of their text."""
        yield from self._pages(
            f"""SELECT {_ABOUT} FROM wanted
            WHERE NOT EXISTS (SELECT 1 FROM pin WHERE pin.node = :node AND pin.root = wanted.root)
            AND wanted.root > :after""",
            node=peer_id,
        )

    def missing_count(self, peer_id: str) -> int:
        return self.wanted - self._pinned(peer_id)

    def due(self, peer_id: str, now: datetime, days: float) -> Iterator[Wanted]:
        """What a node is to give back now, so that each root comes about every `days` days and no day is busier than
        the others: the share of a day, oldest proof first, less what it gave back since last evening, and in any case
        what would be too old tomorrow. A root that was just published was proven then."""
        given = self._one(
            "SELECT count(*) FROM proven WHERE node = :node AND at > :since",
            node=peer_id,
            since=clock.text(now - _NIGHT),
        )
        share = max(0, math.ceil(self._pinned(peer_id) / days) - given)
        overdue = clock.text(now - max(timedelta(days=days) - _DAY, timedelta()))
        with self._db:
            self._db.execute("DELETE FROM due")
            self._db.execute(
                f"""INSERT INTO due SELECT root, upload_id, video_id, bytes FROM
                (SELECT *, row_number() OVER (ORDER BY proven_at) AS place FROM
                (SELECT {_ABOUT}, {_PROVEN} AS proven_at {_PINNED})) WHERE place <= :share OR proven_at <= :overdue""",
                {"node": peer_id, "share": share, "overdue": overdue},
            )
        yield from self._pages("SELECT root, upload_id, video_id, bytes FROM due WHERE root > :after")

    def unproven(self, peer_id: str, since: datetime) -> Iterator[Wanted]:
        """What a node has pinned and did not give back in full since then."""
        yield from self._pages(
            f"SELECT {_ABOUT} {_PINNED} AND coalesce(proven.at, '') < :since AND wanted.root > :after",
            node=peer_id,
            since=clock.text(since),
        )

    def not_pinned_at(self, service: str) -> Iterator[tuple[Wanted, str | None]]:
        """Roots of which a pinning service has not said yet that it has them, and what it said last."""
        query = f"""SELECT {_ABOUT}, status FROM wanted
            LEFT JOIN request ON request.root = wanted.root AND service = :service
            WHERE coalesce(status, '') != 'pinned'"""
        for *about, status in self._db.execute(query, {"service": service}):
            yield Wanted(*about), status

    def oldest_proof(self, peer_id: str) -> datetime | None:
        """When the root was given back, or published, that has waited longest on this node."""
        found = self._one(f"SELECT min({_PROVEN}) {_PINNED}", node=peer_id)
        return clock.parse(found) if found else None

    def short(self, peer_ids: Sequence[str], copies: int) -> Iterator[tuple[Wanted, int]]:
        """Roots that fewer than `copies` of these nodes have pinned, and how many do."""
        places = ", ".join("?" * len(peer_ids))
        query = f"""SELECT {_ABOUT}, count(pin.node) AS there FROM wanted
            LEFT JOIN pin ON pin.root = wanted.root AND pin.node IN ({places})
            GROUP BY wanted.root HAVING there < ?"""
        for *about, there in self._db.execute(query, (*peer_ids, copies)):
            yield Wanted(*about), there

    def unclaimed(self) -> Iterator[tuple[str, str, int]]:
        """(root, name, on how many nodes) of pins that nobody here claims, nor wants."""
        query = """SELECT root, max(name), count(*) FROM pin
            WHERE NOT EXISTS (SELECT 1 FROM claim WHERE claim.root = pin.root)
            AND NOT EXISTS (SELECT 1 FROM wanted WHERE wanted.root = pin.root) GROUP BY root"""
        yield from self._db.execute(query)

    def not_claimed(self) -> Iterator[Wanted]:
        """Roots of published revisions that lack a claim."""
        query = f"""SELECT {_ABOUT} FROM wanted
            WHERE NOT EXISTS (SELECT 1 FROM claim WHERE claim.root = wanted.root)"""
        for row in self._db.execute(query):
            yield Wanted(*row)

    def _pinned(self, peer_id: str) -> int:
        return int(self._one(f"SELECT count(*) {_PINNED}", node=peer_id))

    def _one(self, query: str, **values: Any) -> Any:
        return self._db.execute(query, values).fetchone()[0]

    def _pages(self, query: str, **values: Any) -> Iterator[Wanted]:
        """A page at a time, because the tables change between two of them."""
        query, after = f"{query} ORDER BY root LIMIT {_PAGE}", ""
        while rows := self._db.execute(query, {**values, "after": after}).fetchall():
            for row in rows:
                yield Wanted(*row)
            after = rows[-1][0]


_ABOUT = "wanted.root AS root, upload_id, video_id, bytes"
_PINNED = """FROM wanted JOIN pin ON pin.root = wanted.root AND pin.node = :node
    LEFT JOIN proven ON proven.root = wanted.root AND proven.node = pin.node WHERE true"""
_PROVEN = "max(coalesce(proven.at, ''), wanted.since)"


def note_proof(store: MetadataStore, peer_id: str, root: str, now: datetime) -> None:
    """The node gave back every block of the root just now."""
    key, proven = {"root": root, "peer_id": peer_id}, {"proven_at": now}
    with store.writing() as db:
        rows.insert_or_update(db, tables.replica_proof, key, proven, proven)


def forget_old_proofs(store: MetadataStore) -> None:
    """Proofs of roots that nobody claims any more."""
    proof, claim = tables.replica_proof, tables.claim
    with store.writing() as db:
        db.execute(sa.delete(proof).where(~sa.exists().where(claim.c.root == proof.c.root)))


def _ready(store: MetadataStore) -> Iterator[Sequence[Any]]:
    """(root, upload, video, bytes, since when) of every published directory and record, and of what else a published
    revision claims: the record it had before it was revised."""
    upload, change = tables.upload, tables.state_change
    since = (
        sa.select(sa.func.min(change.c.time))
        .where(change.c.upload_id == upload.c.upload_id, change.c.state == State.PUBLISHED)
        .scalar_subquery()
    )
    for root, size in ((upload.c.root, upload.c.dag_bytes), (upload.c.record, sa.literal(0))):
        query = sa.select(root, upload.c.upload_id, upload.c.video_id, sa.func.coalesce(size, 0), since)
        yield from _rows(store, query.where(upload.c.state.in_(READY), root.is_not(None)))
    claim = tables.claim
    older = sa.select(claim.c.root, upload.c.upload_id, upload.c.video_id, sa.literal(0), since)
    older = older.join(upload, upload.c.upload_id == claim.c.upload_id)
    yield from _rows(store, older.where(upload.c.state.in_(READY), claim.c.released_at.is_(None)))


def _rows(store: MetadataStore, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
    """As they are stored: times are texts that sort like the instants they name."""
    with store.reading() as db:
        for row in db.execute(query.execution_options(yield_per=_PAGE)):
            yield tuple(clock.text(value) if isinstance(value, datetime) else value for value in row)
