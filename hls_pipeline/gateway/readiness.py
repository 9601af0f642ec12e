"""Whether the services behind a gateway answer, also when one of them neither answers nor refuses.

Everybody who asks shares one look at each service; one that hangs holds up its own look and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import anyio

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore

_PATIENCE_SECONDS = 5.0
NO_ANSWER = "no_answer"


class Readiness:
    def __init__(self, checks: Mapping[str, Callable[[], object]]) -> None:
        self._checks = checks
        self._looks: dict[str, asyncio.Task[str]] = {}
        self._threads = anyio.CapacityLimiter(len(checks))

    async def states(self) -> dict[str, str]:
        """Service → `ok`, the code of its error, or `no_answer`."""
        for name, check in self._checks.items():
            if name not in self._looks or self._looks[name].done():
                self._looks[name] = asyncio.create_task(self._look(check))
        looks = dict(self._looks)
        await asyncio.wait(looks.values(), timeout=_PATIENCE_SECONDS)
        return {name: look.result() if look.done() else NO_ANSWER for name, look in looks.items()}

    async def _look(self, check: Callable[[], object]) -> str:
        return await anyio.to_thread.run_sync(_state, check, abandon_on_cancel=True, limiter=self._threads)


def checks(
    settings: GatewaySettings, store: MetadataStore, objects: ObjectStore, nodes: tuple[Kubo, ...]
) -> dict[str, Callable[[], object]]:
    return {
        "database": store.ping,
        **{f"s3 {name}": partial(_list, objects, name) for name in (settings.s3_media, settings.s3_inbox)},
        **{f"ipfs {n}": node.version for n, node in enumerate(nodes)},
    }


def _list(objects: ObjectStore, bucket: str) -> None:
    """One small listing; the name is one that no video can have."""
    for _ in objects.listing(bucket, "_readyz/"):
        break


def _state(check: Callable[[], object]) -> str:
    """No detail: anybody may ask, and errors name internal addresses."""
    try:
        check()
    except PipelineError as error:
        return error.code
    return "ok"
