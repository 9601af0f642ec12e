"""The task of the local stack that runs before Dagster: the metadata store gets the newest schema, and leases that a
killed stack still holds are ended, because nothing else can be running on its data folder now."""

from __future__ import annotations

from hls_pipeline import metadata_store, settings


def prepare(database_url: str) -> None:
    metadata_store.migrate(database_url)
    metadata_store.connect(database_url).release_all()


if __name__ == "__main__":
    prepare(settings.load().database_url)
