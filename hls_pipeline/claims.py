"""Who needs which root on IPFS, so that nothing is unpinned that somebody counts on.

A claim is made before looking for the pin. Whoever gives one up asks first whether another stands; if none does, the
claim is marked as being released and the root stays closed to new claims until it is unpinned, or until the mark is
`_UNPIN_SECONDS` old. Both happen under a lock per root. Functions over an open transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.errors import Outage

_UNPIN_SECONDS = 300
"""Longer than asking one node for its pin and having it removed can take (two calls of at most 60 s); the mark is made
anew before each."""


def add(db: sa.Connection, root: str, upload_id: str, now: datetime) -> None:
    """Raises Outage while the root is being unpinned for another upload."""
    table = tables.claim
    _lock(db, root)
    closed = sa.select(table).where(
        table.c.root == root, table.c.upload_id != upload_id, table.c.released_at > now - _UNPIN
    )
    if db.execute(closed).first():
        raise Outage(f"{root} is just being unpinned for another video; it is tried again")
    owe(db, root, upload_id)


def owe(db: sa.Connection, root: str, upload_id: str) -> None:
    """The upload has the root pinned or may have, and has to give it up some day."""
    own = {"root": root, "upload_id": upload_id}
    if not db.execute(sa.select(tables.claim).filter_by(**own)).first():
        db.execute(sa.insert(tables.claim).values(**own))


def release(db: sa.Connection, root: str, upload_id: str, now: datetime) -> bool:
    """Whether nobody else needs the root, so that it is to be unpinned and the claim removed. Otherwise the claim is
    gone already."""
    table = tables.claim
    _lock(db, root)
    others = sa.select(table).where(table.c.root == root, table.c.upload_id != upload_id, table.c.released_at.is_(None))
    if db.execute(others).first():
        remove(db, root, upload_id)
        return False
    db.execute(sa.update(table).filter_by(root=root, upload_id=upload_id).values(released_at=now))
    return True


def keep(db: sa.Connection, root: str, upload_id: str) -> None:
    """It could not be unpinned: the claim stands again."""
    db.execute(sa.update(tables.claim).filter_by(root=root, upload_id=upload_id).values(released_at=None))


def remove(db: sa.Connection, root: str, upload_id: str) -> None:
    db.execute(sa.delete(tables.claim).filter_by(root=root, upload_id=upload_id))


def of(db: sa.Connection, upload_id: str) -> tuple[str, ...]:
    """The roots that an upload claims."""
    query = sa.select(tables.claim.c.root).filter_by(upload_id=upload_id).order_by(tables.claim.c.root)
    return tuple(db.execute(query).scalars())


_UNPIN = timedelta(seconds=_UNPIN_SECONDS)


def _lock(db: sa.Connection, root: str) -> None:
    """SQLite has one writer at a time anyway."""
    if db.dialect.name == "postgresql":
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(root, 0))))
