"""The metadata store: what is known of every video, in SQLite or PostgreSQL.

Each method is one transaction and says what is true after it. Whatever changes an upload takes a `Lease`, and the
transaction checks its fence first, so a worker that wakes up late changes nothing. Versions are only ever added; the
database itself refuses to change them. Add a method to the module that names its business, for each new thing
that must become true at once; decisions belong in `uploads.py` and `steps.py`.
"""

from __future__ import annotations

import functools

from hls_pipeline.metadata_store.arrivals import Arrivals
from hls_pipeline.metadata_store.database import MIGRATIONS, migrate
from hls_pipeline.metadata_store.documents import Documents
from hls_pipeline.metadata_store.leases import Leases
from hls_pipeline.metadata_store.publication import Publication
from hls_pipeline.metadata_store.rows import PATH, InventoryFile, Lease, TempObject
from hls_pipeline.metadata_store.temp_objects import TempObjects
from hls_pipeline.metadata_store.withdrawals import Withdrawals
from hls_pipeline.versions import Version

__all__ = [
    "MIGRATIONS",
    "PATH",
    "InventoryFile",
    "Lease",
    "MetadataStore",
    "TempObject",
    "Version",
    "connect",
    "migrate",
]


class MetadataStore(Arrivals, Leases, Publication, TempObjects, Withdrawals, Documents):
    """All of it over one database."""


@functools.cache
def connect(database_url: str) -> MetadataStore:
    """One store, with its connection pool, per process and database."""
    return MetadataStore(database_url)
