"""The metadata store as a Dagster resource."""

from __future__ import annotations

import dagster as dg

from hls_pipeline import metadata_store, settings


class MetadataResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`store()` is the one of HLS_DATABASE_URL."""

    def store(self) -> metadata_store.MetadataStore:
        return metadata_store.connect(settings.load().database_url)
