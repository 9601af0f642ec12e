"""Version documents on IPFS, for whoever wants to read the history without the database: only where a setting says so.

Documents go in directories of many (`VIDEO/N.json`), each pinned on a quorum of nodes; the content id of each document
is on record beside its version. They stay when a video is withdrawn, as its versions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import clock, replicas, tables
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.settings import Settings

_AT_ONCE = 500  # documents
_BYTES = 16 << 20  # of documents held in memory, beyond the first

_Key = tuple[str, int]


def put(store: MetadataStore, nodes: Sequence[Kubo], settings: Settings, now: datetime) -> int:
    """Afterwards every version's document is on IPFS and its content id on record; answers how many were added. Raises
    ProofMissing without a quorum; what was added until then stays, and the next time goes on from there."""
    count, after = 0, ("", 0)
    while page := _missing(store, after):
        cids = _publish(page, nodes, settings, f"documents {clock.text(now)}")
        with store.writing() as db:
            rows = [{"video_id": video_id, "n": n, "cid": cid} for (video_id, n), cid in cids.items()]
            db.execute(sa.insert(tables.document_copy), rows)
        count, after = count + len(page), max(page)
    return count


def _missing(store: MetadataStore, after: _Key) -> dict[_Key, str]:
    """The next documents without a copy, in the order of their keys."""
    version, copy = tables.version, tables.document_copy
    key, last = sa.tuple_(version.c.video_id, version.c.n), sa.tuple_(*map(sa.literal, after))
    query = (
        sa.select(version.c.video_id, version.c.n, version.c.document)
        .outerjoin(copy, (copy.c.video_id == version.c.video_id) & (copy.c.n == version.c.n))
        .where(key > last, copy.c.cid.is_(None))
        .order_by(version.c.video_id, version.c.n)
        .limit(_AT_ONCE)
    )
    found: dict[_Key, str] = {}
    size = 0
    with store.reading() as db:
        for row in db.execute(query, execution_options={"yield_per": 10}):
            if found and size + len(row.document) > _BYTES:
                break
            found[row.video_id, row.n] = row.document
            size += len(row.document)
    return found


def _publish(page: dict[_Key, str], nodes: Sequence[Kubo], settings: Settings, name: str) -> dict[_Key, str]:
    files = {key: (f"{key[0]}/{key[1]}.json", document.encode()) for key, document in page.items()}
    small = replicas.SmallDirectory.of(dict(files.values()), PROFILES[settings.ipfs_profile])
    replicas.on_quorum(
        nodes,
        settings.ipfs_quorum,
        lambda node: replicas.publish_small(node, small, name),
        settings.ipfs_grace_seconds,
    )
    return {key: str(small.directory.nodes[path].cid) for key, (path, _) in files.items()}
