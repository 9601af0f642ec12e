"""The task of the local stack that runs before the others: the metadata store gets the newest schema, and leases that a
killed stack still holds are ended, because nothing else can be running on its data folder now.

At the first start Dagster's own tables are made here too: its processes, started together on an empty database, would
all try to, and SQLite then ends up with two schema versions noted. On PostgreSQL the databases themselves are made
first, those of the metadata store and of Dagster.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import make_url

from hls_pipeline import metadata_store, settings
from hls_pipeline.local import dagster_home, postgres


def prepare(database_url: str, home: Path) -> None:
    metadata_store.migrate(database_url)
    metadata_store.connect(database_url).release_all()
    if not dagster_home.has_tables(home):
        dagster_home.make_tables(home)


if __name__ == "__main__":
    found = settings.load()
    url = make_url(found.database_url)
    if url.get_backend_name() == "postgresql":
        assert url.port and url.password and url.database
        postgres.Server(url.port, url.password).make_databases(url.database, os.environ["DAGSTER_PG_DB"])
    prepare(found.database_url, dagster_home.path(found.data))
