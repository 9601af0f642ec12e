"""Extra copies at pinning services: asked for once a video is published and, where that failed or is not done yet, each
night again; shown as the services report them.

A service's word is a receipt of kind `pinning`, beside the proofs and never among them: nothing is deleted on it, and a
service that fails fails nothing else. How a service is talked to is in `ipfs.pinning_service`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hls_pipeline import clock
from hls_pipeline.errors import Outage, ServiceError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.pinning_service import PinningService, PinRequest
from hls_pipeline.metadata_store import Lease, MetadataStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload


def connect(settings: Settings) -> tuple[PinningService, ...]:
    """The configured services. UsageError for a bad endpoint."""
    return tuple(
        PinningService(service.name, service.endpoint, service.token.get_secret_value())
        for service in settings.pinning_services
    )


def request(upload: Upload, lease: Lease, store: MetadataStore, settings: Settings) -> None:
    """Asks every service for both directories, and notes what each answered, or why it did not."""
    states = list(_each(upload, settings, lambda service, cid: service.request(cid, _name(upload))))
    store.add_receipts(lease, "pinning", states, clock.now())


def request_again(
    service: PinningService, root: str, known: str | None, upload: Upload, lease: Lease, store: MetadataStore
) -> None:
    """Asks one service for one directory. Its answer is noted unless it is the one that is `known`. ServiceError."""
    said = _said(service, root, service.request(Cid.parse(root), _name(upload)))
    if said["status"] != known:
        store.add_receipts(lease, "pinning", [said], clock.now())


def states(upload: Upload, settings: Settings) -> list[dict[str, Any]]:
    """How far each service is with each directory, asked now."""
    return list(_each(upload, settings, lambda service, cid: service.find(cid)))


def _each(
    upload: Upload, settings: Settings, ask: Callable[[PinningService, Cid], PinRequest | None]
) -> Iterator[dict[str, Any]]:
    for service in connect(settings):
        away: Outage | None = None
        for root in filter(None, (upload.root, upload.record)):
            try:
                if away:  # one that is silent would take its minute for each
                    raise away
                yield _said(service, root, ask(service, Cid.parse(root)))
            except ServiceError as error:
                away = error if isinstance(error, Outage) else None
                yield {**_about(service, root), "status": "unknown", "reason": str(error)}


def _said(service: PinningService, root: str, pin: PinRequest | None) -> dict[str, Any]:
    state = str(pin.state) if pin else "absent"
    return {**_about(service, root), "status": state, "requestid": pin and pin.request_id}


def _about(service: PinningService, root: str) -> dict[str, Any]:
    return {"service": service.name, "root": root, "at": clock.text(clock.now())}


def _name(upload: Upload) -> str:
    return f"{upload.video_id} r{upload.revision}"
