"""The version table: every metadata document a video ever had, each tied to the one before it by its hash.

Functions over an open transaction. Rows are only ever added, and the database itself refuses anything else. What else
becomes true together with a new version belongs in `metadata_store/`, checking a whole chain in `audit.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, documents, tables


@dataclass(frozen=True)
class Version:
    video_id: str
    n: int
    revision: int  # 0 where a video was withdrawn before anything of it was accepted
    document: str  # canonical JSON
    document_sha256: str
    previous_hash: str | None
    hash: str
    actor: str
    reason: str
    run_id: str | None
    time: datetime
    shown: bool = True
    """Whether this is what readers got from `time` on; a temporary document does not hide a ready revision."""


def add(
    db: sa.Connection,
    video_id: str,
    revision: int,
    document: Mapping[str, Any],
    *,
    actor: str,
    reason: str,
    run_id: str | None,
    now: datetime,
    shown: bool,
) -> Version:
    """The next version; the current one if `shown`. The caller holds the video's row."""
    last = _first(db, _newest_first(video_id))
    now = clock.parse(clock.text(now))  # what the hash covers is what is stored: milliseconds
    text = documents.canonical(document)
    link: dict[str, Any] = {
        "n": (last.n if last else 0) + 1,
        "video_id": video_id,
        "document_sha256": documents.sha256(text),
        "previous_hash": last.hash if last else None,
        "actor": actor,
        "reason": reason,
        "run_id": run_id,
    }
    version = Version(
        **link,
        revision=revision,
        document=text,
        hash=documents.chain_hash(**link, time=clock.text(now)),
        time=now,
        shown=shown,
    )
    db.execute(sa.insert(tables.version).values(**{field.name: getattr(version, field.name) for field in _FIELDS}))
    pointers = {"versions": version.n} | ({"current_version": version.n} if shown else {})
    db.execute(sa.update(tables.video).filter_by(video_id=video_id).values(**pointers))
    return version


def of(db: sa.Connection, video_id: str) -> tuple[Version, ...]:
    """All versions of a video, oldest first."""
    query = sa.select(tables.version).filter_by(video_id=video_id).order_by(tables.version.c.n)
    return tuple(_version(row) for row in db.execute(query))


def get(db: sa.Connection, video_id: str, n: int | None) -> Version | None:
    return _first(db, sa.select(tables.version).filter_by(video_id=video_id, n=n))


def as_of(db: sa.Connection, video_id: str, moment: datetime) -> Version | None:
    """What readers got at `moment`; None before the first document."""
    shown = tables.version.c.shown & (tables.version.c.time <= moment)
    return _first(db, _newest_first(video_id).where(shown))


def newest_of_revision(db: sa.Connection, video_id: str, revision: int | None) -> Version | None:
    return _first(db, _newest_first(video_id).filter_by(revision=revision))


_FIELDS = fields(Version)


def _newest_first(video_id: str) -> sa.Select[Any]:
    return sa.select(tables.version).filter_by(video_id=video_id).order_by(tables.version.c.n.desc()).limit(1)


def _first(db: sa.Connection, query: sa.Select[Any]) -> Version | None:
    row = db.execute(query).first()
    return _version(row) if row else None


def _version(row: sa.Row[Any]) -> Version:
    return Version(**{field.name: getattr(row, field.name) for field in _FIELDS})
