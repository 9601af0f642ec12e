"""`hls-pipeline worker`: takes runs out of the queues and executes them in processes that are warm.

The parent imports everything, then forks; a child opens its databases once. A message is acknowledged when its run is
over, so it comes back when a worker dies; a run that had begun is not begun again then: once its lease is over it is
failed as worker loss. The sensor starts an upload again, Dagster's run retries do so with all other runs. How one run
is executed is in `execution.py`.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import Reject
from celery.worker import state
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.consumer.tasks import Tasks

from hls_pipeline import metrics, settings
from hls_pipeline.errors import UsageError
from hls_pipeline.queue import broker, health
from hls_pipeline.queue.execution import DATABASE_IS_AWAY, Executor
from hls_pipeline.queue.shared import Budget, Flag

_log = logging.getLogger(__name__)


def run(queues: Sequence[str], concurrency: int, health_port: int | None) -> None:
    """Until SIGTERM: then runs under way get `worker_stop_seconds`, and what is left is handed back.

    `concurrency` is the number of runs at once of each queue. Raises UsageError for a queue or broker that is none.
    """
    if unknown := set(queues) - set(broker.QUEUES):
        raise UsageError(f"no such queue: {', '.join(sorted(unknown))}; there are {', '.join(broker.QUEUES)}")
    import hls_pipeline.queue.warm  # noqa: F401  # what children share

    config = settings.load()
    app = broker.celery_app(config)
    children = concurrency * len(queues)
    stopping, budget, pulse = Flag(), Budget(config.worker_bytes, children), health.Pulse()

    @functools.cache
    def executor() -> Executor:
        """Of this child; opened before its first run comes, or with it if the databases are away until then."""
        return Executor.open(config, stopping, budget)

    def open_databases(**_: Any) -> None:
        executor()

    def execute_run(task: Any, run_id: str, looked: bool) -> None:
        queue = task.request.delivery_info["routing_key"].removeprefix(config.queue_prefix)
        try:
            opened = executor()
        except DATABASE_IS_AWAY as error:
            time.sleep(1)
            raise Reject(requeue=True) from error
        opened.handle(run_id, queue, looked)

    def give_a_while(**_: Any) -> None:
        stopping.set_in(config.worker_stop_seconds)

    app.task(execute_run, bind=True, name=broker.EXECUTE_RUN)
    app.steps["consumer"].add(_beating(pulse))
    signals.worker_process_init.connect(open_databases, weak=False)
    signals.worker_shutting_down.connect(give_a_while, weak=False)
    worker = app.Worker(
        hostname=f"{os.getpid()}@{socket.gethostname()}",  # several on one machine are told apart by it
        queues=[broker.named(config, name) for name in queues],
        concurrency=children,
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    # No queue gets more than its share: large packages leave room for small ones, and nothing waits in a busy worker.
    worker.consumer.initial_prefetch_count = broker.connect(config).prefetch(concurrency, len(queues))
    worker.consumer.on_decode_error = _keep_for_a_person
    # Where there are quorum queues, Celery makes 28 more for tasks that wait; ours wait in a detour of their own.
    worker.consumer.steps = [step for step in worker.consumer.steps if not isinstance(step, DelayedDelivery)]
    if health_port is not None:
        health.serve("127.0.0.1", health_port, pulse, lambda: [request.id for request in state.active_requests])
    metrics.serve_worker(config)
    worker.start()


def _keep_for_a_person(message: Any, error: Exception) -> None:
    """Celery would drop what it cannot read."""
    _log.error("a message is not one of ours, it goes to the dead letters: %s", error)
    message.reject()


def _beating(pulse: health.Pulse) -> type:
    class Beating(bootsteps.StartStopStep):  # type: ignore[misc]
        """Celery clears all timers when it loses the broker, and starts its steps again when it is back."""

        requires = (Tasks,)

        def start(self, consumer: Any) -> None:
            pulse.beat()
            consumer.timer.call_repeatedly(health.PULSE_SECONDS, pulse.beat)

    return Beating
