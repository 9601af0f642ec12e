"""What every phase of a look at all stores works with: the stores, what S3 was seen to have, and where findings go.

What is compared with what is in `reconciliation.py` and `key_bucket.py`, each finding's meaning in `drift.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.errors import PipelineError
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep.drift import Finding, Mark

_PAGE = 1000
"""Objects, rows or names that are held in memory."""

_T = TypeVar("_T")


class Seen:
    """What S3 was seen to have, in a temporary file. Whatever is not in it is asked for by itself before it counts as
    missing, so that losing it costs time and nothing else."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE seen (name TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, counts: Mapping[str, int]) -> None:
        statement = "INSERT INTO seen VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count"
        with self._db:
            self._db.executemany(statement, counts.items())

    def count(self, name: str) -> int:
        row = self._db.execute("SELECT count FROM seen WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0


@dataclass(frozen=True)
class Look:
    objects: ObjectStore
    nodes: Sequence[Kubo]
    store: MetadataStore
    settings: Settings
    apply: bool
    remove_unknown: bool
    settled: datetime
    """Only what was written before is judged."""
    mark: Mark
    seen: Seen

    def found(self, kind: str, subject: str, detail: str, **more: Any) -> None:
        self.mark.report.add(Finding(kind, subject, detail, **more))

    def doing(self, what: str, deed: Callable[[], object]) -> str | None:
        """`what`, if it was to be done and could be."""
        if not self.apply:
            return None
        try:
            deed()
        except PipelineError as error:
            self.found("not_looked_at", what, str(error))
            return None
        return what

    def revisions(self, video_ids: Iterable[str]) -> dict[str, dict[int, sa.Row[Any]]]:
        """Video → its revisions by number; videos that are not known are not in it."""
        wanted, upload = list(video_ids), tables.upload
        found: dict[str, dict[int, sa.Row[Any]]] = {}
        with self.store.reading() as db:
            for row in db.execute(sa.select(tables.video.c.video_id).where(tables.video.c.video_id.in_(wanted))):
                found[row.video_id] = {}
            columns = (upload.c[name] for name in ("video_id", "revision", "state", "upload_id", "root", "record"))
            for row in db.execute(
                sa.select(*columns).where(upload.c.video_id.in_(wanted), upload.c.revision.is_not(None))
            ):
                found.setdefault(row.video_id, {})[row.revision] = row  # the video may have come just now
        return found

    def page(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """The first rows that it finds."""
        with self.store.reading() as db:
            return db.execute(query.limit(_PAGE)).all()


def pages(items: Iterable[_T]) -> Iterator[list[_T]]:
    source = iter(items)
    while page := list(islice(source, _PAGE)):
        yield page
