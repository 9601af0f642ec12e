"""What the launcher, the worker and `hls-pipeline queue` want of a message broker, and which one the settings mean.

A message holds the id of a run and nothing else; what there is to know of the run is in Dagster's storage. Queue `ipfs`
is for large packages, `light` for small ones and for clean-up, `upkeep` for what the clock starts, so that a small
package waits for no large one, and no package for a re-pin. RabbitMQ is in `rabbitmq.py`, SQS in `sqs.py`; a third
broker is a third module.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hls_pipeline.errors import Outage, UsageError
from hls_pipeline.settings import Settings

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Queue

IPFS, LIGHT, UPKEEP = "ipfs", "light", "upkeep"
QUEUES = (IPFS, LIGHT, UPKEEP)
DEAD = "dead"
QUEUE_TAG = "dagster-celery/queue"
"""Run tag naming the queue, as everywhere where Dagster meets Celery."""

BYTES_TAG = "hls/bytes"
"""Run tag with the size of the package."""

EXECUTE_RUN = "hls_pipeline.execute_run"

_PUBLISH_SECONDS = 5.0
_CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class QueueState:
    """`ready` messages wait, `unacknowledged` ones are with a worker; None: this broker does not say."""

    name: str
    ready: int
    unacknowledged: int | None
    consumers: int | None


@dataclass(frozen=True)
class DeadLetter:
    """A message that nobody could handle."""

    message_id: str
    run_id: str | None
    queue: str
    reason: str
    body: str


class Broker(Protocol):
    def celery_settings(self) -> Mapping[str, Any]: ...

    def prefetch(self, runs: int, queues: int) -> int:
        """What a worker asks for at once, so that it takes no more than `runs` of each queue."""

    def declare(self) -> None:
        """Makes the queues that are missing; messages in the others stay."""

    def later(self, queue: str, seconds: float) -> Mapping[str, Any]:
        """Options of a message that is to appear in `queue` after so many seconds."""

    def waiting(self) -> int:
        """Messages that no worker has yet. Raises Outage."""

    def states(self) -> Sequence[QueueState]:
        """Of the queues and the dead letters. Raises Outage."""

    def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        """The oldest ones; they stay where they are."""

    def redrive(self, message_ids: Sequence[str] | None) -> int:
        """Sends dead letters back to their queue, all without ids; says how many."""


def named(settings: Settings, queue: str) -> str:
    """What the broker calls a queue."""
    return settings.queue_prefix + queue


@functools.cache
def connect(settings: Settings) -> Broker:
    """The broker of HLS_BROKER_URL; nothing is opened yet. Raises UsageError when there is none."""
    scheme = url(settings).partition(":")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        from hls_pipeline.queue.rabbitmq import RabbitMq

        return RabbitMq(settings)
    if scheme == "sqs":
        from hls_pipeline.queue.sqs import Sqs

        return Sqs(settings)
    raise UsageError(f"HLS_BROKER_URL: a broker of kind {scheme!r} is not known; use amqp://, amqps:// or sqs://")


@functools.cache
def celery_app(settings: Settings) -> Celery:
    """Celery as the launcher and the worker use it. Raises UsageError without a broker."""
    from celery.app.base import Celery  # its lazy `celery.Celery` fails when several threads ask for it first

    app = Celery("hls_pipeline", broker=url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_create_missing_queues=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=False,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.2},
        broker_connection_timeout=_CONNECT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=10,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        # A run goes on while the broker is away: its lease says that it lives, its storage what it did.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_max_tasks_per_child=1000,
        **connect(settings).celery_settings(),
    )
    return app


def send(settings: Settings, run_id: str, queue: str | Queue, *, looked: bool = False, **options: Any) -> None:
    """The broker has the message, on disk. Raises Outage when it does not say so in time."""
    with border("sending a run to the queue"):
        celery_app(settings).send_task(
            EXECUTE_RUN,
            args=[run_id, looked],
            task_id=run_id,
            queue=named(settings, queue) if isinstance(queue, str) else queue,
            confirm_timeout=_PUBLISH_SECONDS,
            mandatory=True,  # a queue that somebody deleted is an error, not a hole
            **options,
        )


def run_id_in(body: str) -> str | None:
    """Of a message that is one of ours; foreign ones have none."""
    try:
        return str(json.loads(body)[0][0])
    except (ValueError, LookupError, TypeError):
        return None


@contextmanager
def border(doing: str) -> Iterator[None]:
    """The one place where the broker's exceptions become ours."""
    from amqp.exceptions import AMQPError
    from botocore.exceptions import BotoCoreError, ClientError
    from kombu.exceptions import KombuError

    try:
        yield
    except (KombuError, AMQPError, BotoCoreError, ClientError, OSError) as error:
        raise Outage(f"{doing}: {error or repr(error)}; is the broker running and reachable?") from error


def url(settings: Settings) -> str:
    """The address of HLS_BROKER_URL. Raises UsageError where there is none."""
    if settings.broker_url is None:
        raise UsageError("there is no queue: HLS_BROKER_URL is not set, e.g. to amqp://user:password@host:5672/vhost")
    return settings.broker_url.get_secret_value()
