"""The IPFS nodes as a Dagster resource."""

from __future__ import annotations

import dagster as dg

from hls_pipeline import replicas, settings
from hls_pipeline.ipfs.kubo import Kubo


class IpfsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`nodes()` are those of HLS_IPFS_RPC_URLS, in that order."""

    def nodes(self) -> tuple[Kubo, ...]:
        return replicas.connect(settings.load())
