"""What every route may call on: the stores, the nodes, the limits, made once from the settings.

Routes find them in `request.app.state.services`; `ServicesDep` is the short way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from hls_pipeline import metadata_store, object_store, replicas
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.limits import Limits
from hls_pipeline.gateway.metrics import Metrics
from hls_pipeline.gateway.records import Records
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Services:
    settings: GatewaySettings
    store: MetadataStore
    records: Records
    objects: ObjectStore
    s3: S3Client
    """For what only a gateway does with S3: ranges, parts, presigned addresses."""
    nodes: tuple[Kubo, ...]
    limits: Limits
    metrics: Metrics


def connect(settings: GatewaySettings) -> Services:
    """Opens no connection yet. Raises UsageError for settings that do not fit together."""
    store = metadata_store.connect(settings.database_url)
    return Services(
        settings,
        store,
        Records(store),
        object_store.connect(settings),
        object_store.client(settings),
        replicas.connect(settings),
        Limits(settings),
        Metrics(),
    )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
