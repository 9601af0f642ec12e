"""The task of the local stack that runs before the others: the metadata store gets the newest schema, and leases that a
killed stack still holds are ended, because nothing else can be running on its data folder now.

At the first start Dagster's own tables are made here too: its processes, started together on an empty folder, would
all try to, and SQLite then ends up with two schema versions noted.
"""

from __future__ import annotations

from pathlib import Path

from hls_pipeline import metadata_store, settings
from hls_pipeline.local import dagster_home


def prepare(database_url: str, home: Path) -> None:
    metadata_store.migrate(database_url)
    metadata_store.connect(database_url).release_all()
    if not dagster_home.has_tables(home):
        dagster_home.make_tables(home)


if __name__ == "__main__":
    found = settings.load()
    prepare(found.database_url, dagster_home.path(found.data))
