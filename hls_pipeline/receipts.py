"""The receipt table: what was proven, removed or found, each receipt tied to the one of its upload before it by a hash.

Functions over an open transaction. Rows are only ever added; `audit` recomputes their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables


def add(
    db: sa.Connection, upload_id: str, kind: str, content: Mapping[str, Any], *, run_id: str | None, now: datetime
) -> None:
    """The next receipt of an upload, whose video the caller holds."""
    table = tables.receipt
    newest = sa.select(table.c.hash).filter_by(upload_id=upload_id).order_by(table.c.id.desc()).limit(1)
    values: dict[str, Any] = {"upload_id": upload_id, "kind": kind, "content": dict(content), "run_id": run_id}
    link = chain_hash(**values, time=clock.text(now), previous=db.execute(newest).scalar())
    db.execute(sa.insert(table).values(**values, time=now, hash=link))


def chain_hash(
    *, upload_id: str, kind: str, content: Mapping[str, Any], run_id: str | None, time: str, previous: str | None
) -> str:
    """SHA-256 over one receipt and its predecessor's hash. As ASCII: receipts quote what servers said, whatever that
    was."""
    link = [upload_id, kind, content, run_id, time, previous]
    return hashlib.sha256(json.dumps(link, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
