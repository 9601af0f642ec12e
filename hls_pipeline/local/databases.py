"""The task of the local stack that runs before Dagster: both databases get the newest schema, and leases that a killed
stack still holds are ended, because nothing else can be running on its data folder now.

Dagster's own tables are made here too: its processes, started together on an empty folder, would all try to, and SQLite
then ends up with two schema versions noted.
"""

from __future__ import annotations

from hls_pipeline import metadata_store, settings


def prepare(database_url: str) -> None:
    metadata_store.migrate(database_url)
    metadata_store.connect(database_url).release_all()


def prepare_dagster() -> None:
    """Opens the instance of DAGSTER_HOME once, which makes its tables."""
    from dagster import DagsterInstance

    with DagsterInstance.get():
        pass


if __name__ == "__main__":
    prepare(settings.load().database_url)
    prepare_dagster()
