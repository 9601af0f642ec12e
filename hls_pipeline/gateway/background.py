"""What a gateway does besides answering: one loop for each task, which no failure ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi.concurrency import run_in_threadpool

from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import deliveries, sweep
from hls_pipeline.gateway.services import Services

log = logging.getLogger(__name__)


@asynccontextmanager
async def at_work(services: Services) -> AsyncIterator[None]:
    deliver, observe = deliveries.Deliverer(services), deliveries.Observer(services)
    every: dict[Callable[[], bool | None], float] = {
        deliver.look: 0.5,
        observe.look: 2.0,
        services.last_use.write: 30.0,
        lambda: sweep.sweep(services): 600.0,
    }
    tasks = [asyncio.create_task(_keep(work, seconds)) for work, seconds in every.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(PipelineError):
            await run_in_threadpool(services.last_use.write)


async def _keep(work: Callable[[], bool | None], seconds: float) -> None:
    """`work` says whether it should go on at once. An outage is logged when it begins, not in every round."""
    said = ""
    while True:
        more = False
        try:
            more, said = bool(await run_in_threadpool(work)), ""
        except PipelineError as error:
            if said != (said := str(error)):
                log.warning("in the background: %s", error)
        except Exception:  # a mistake in one round must not silence all that follow
            log.exception("in the background")
        await asyncio.sleep(0 if more else seconds)
