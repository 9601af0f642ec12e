"""What a look at all stores found, and how far it came: values, and the row that keeps them while it goes on.

A new kind of finding is a line in `KINDS`. How things are looked at, and what is done about them, is in
`reconciliation.py`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.metadata_store import MetadataStore, rows

KINDS = {
    "orphan_objects": "S3 has objects of a video or revision that the database does not know",
    "changed_objects": "objects in S3 are not those on record: somebody replaced them",
    "missing_objects": "objects on record are not in S3",
    "missing_document": "the current document is not beside the media in S3",
    "orphan_keys": "the bucket of keys has keys that no revision has",
    "missing_keys": "keys of a revision are not in the bucket of keys: nobody can decrypt it",
    "dangling_parts": "uploads in parts that nobody completed",
    "stuck_upload": "nobody works on an upload that should go on",
    "failed_upload": "its tries are used up",
    "unclaimed_pins": "a node has a video pinned that the database does not know, or gave up",
    "missing_claim": "a published root that nobody claims: it could be unpinned",
    "missing_pins": "a node lacks roots that it ought to have pinned",
    "unknown_partitions": "Dagster has partitions of videos that the database does not know",
    "not_looked_at": "a service could not be asked",
}
"""What a finding may be; shown by name in reports."""


_NAMED = 100
"""Findings of one kind that are told one by one; the rest are counted."""
_FORGET = timedelta(days=1)
"""A look that was cut off longer ago is begun anew."""


@dataclass(frozen=True)
class Finding:
    kind: str
    subject: str
    detail: str
    count: int = 1
    bytes: int = 0
    done: str | None = None
    """What was done about it, None for nothing."""


@dataclass
class Report:
    began: str
    resumed: bool = False
    objects: int = 0
    """Objects in the media bucket that were looked at."""
    foreign_objects: int = 0
    """Keys, there and in the bucket of private keys, that are none of ours; they are left alone."""
    foreign_pins: int = 0
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind → findings, things found, their bytes, and findings about which something was done."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    """The first of each kind."""

    @property
    def clean(self) -> bool:
        return all(about["done"] == about["findings"] for about in self.kinds.values())

    def add(self, found: Finding) -> None:
        about = self.kinds.setdefault(found.kind, {"findings": 0, "count": 0, "bytes": 0, "done": 0})
        if about["findings"] < _NAMED:
            self.findings.append(asdict(found))
        about["findings"] += 1
        about["count"] += found.count
        about["bytes"] += found.bytes
        about["done"] += found.done is not None


# ---- how far it came ------------------------------------------------------------------------------------------------


@dataclass
class Mark:
    report: Report
    phase: str = ""
    after: str = ""
    done: list[str] = field(default_factory=list)


def resumed(store: MetadataStore, name: str) -> Mark:
    """Where the last look was cut off; the beginning when that is long ago, or was noted by another release."""
    now, table = clock.now(), tables.checkpoint
    with store.reading() as db:
        row = db.execute(sa.select(table).filter_by(name=name)).first()
    if row is not None and row.time >= now - _FORGET:
        with suppress(KeyError, TypeError):
            return Mark(Report(**{**row.content.pop("report"), "resumed": True}), **row.content)
    return Mark(Report(clock.text(now)))


def note(store: MetadataStore, name: str, mark: Mark) -> None:
    values = {"time": clock.now(), "content": asdict(mark)}
    with store.writing() as db:
        rows.insert_or_update(db, tables.checkpoint, {"name": name}, values, values)


def forget(store: MetadataStore, name: str) -> None:
    with store.writing() as db:
        db.execute(sa.delete(tables.checkpoint).filter_by(name=name))
