"""What every route may call on: the stores, the nodes, the limits, made once from the settings.

Routes find them in `request.app.state.services`; `ServicesDep` is the short way.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Request

from hls_pipeline import metadata_store, replicas
from hls_pipeline.errors import UsageError
from hls_pipeline.gateway import readiness
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.followers import Followers
from hls_pipeline.gateway.last_use import LastUse
from hls_pipeline.gateway.limits import Limits
from hls_pipeline.gateway.metrics import Metrics
from hls_pipeline.gateway.playlists import PlaylistCache
from hls_pipeline.gateway.readiness import Readiness
from hls_pipeline.gateway.records import Records
from hls_pipeline.gateway.s3 import GatewayStore
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore

_BUFFERS = 4
_STAGED_AT_ONCE = 2


@dataclass(frozen=True)
class Services:
    settings: GatewaySettings
    store: MetadataStore
    records: Records
    objects: GatewayStore
    nodes: tuple[Kubo, ...]
    limits: Limits
    last_use: LastUse
    metrics: Metrics
    playlists: PlaylistCache
    followers: Followers
    readiness: Readiness
    buffers: asyncio.Semaphore
    """One for each buffer that may be on its way to S3; together they bound the memory of all uploads."""
    staging: anyio.CapacityLimiter
    """Packages that may be unpacked and staged at once, each by threads of its own."""


def connect(settings: GatewaySettings) -> Services:
    """Opens no connection yet. Raises UsageError for settings that do not fit together."""
    if settings.play == "redirect" and settings.s3_grace_seconds < settings.presign_seconds:
        raise UsageError(
            "HLS_PLAY=redirect sends viewers to S3 for HLS_PRESIGN_SECONDS; "
            "set HLS_S3_GRACE_SECONDS to at least as much, or their addresses end too early"
        )
    store, objects = metadata_store.connect(settings.database_url), GatewayStore.of(settings)
    nodes, records = replicas.connect(settings), Records(store)
    return Services(
        settings,
        store,
        records,
        objects,
        nodes,
        Limits(settings),
        LastUse(records),
        Metrics(),
        PlaylistCache(),
        Followers(),
        Readiness(readiness.checks(settings, store, objects, nodes)),
        asyncio.Semaphore(_BUFFERS),
        anyio.CapacityLimiter(_STAGED_AT_ONCE),
    )


async def _services(request: Request) -> Services:  # async, as every small dependency: others cost a thread each
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
