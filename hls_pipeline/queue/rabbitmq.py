"""RabbitMQ: quorum queues that survive its restart, a dead-letter queue, and a detour for messages that come too early.

Everything is declared here, by whoever comes first, always with the same arguments; an argument that is changed later
needs the queue deleted. Messages are confirmed by the broker before anybody counts on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import NotFound
from kombu import Connection, Exchange, Message, Queue

from hls_pipeline.queue import broker
from hls_pipeline.queue.broker import DEAD, QUEUES, DeadLetter, QueueState, border, celery_app, named
from hls_pipeline.settings import Settings

_DELIVERY_LIMIT = 20
"""Deliveries of one message; a run that began is never begun again, so this counts workers that died before."""

_SILENCE_SECONDS = 5
"""After a question without an answer for so long, RabbitMQ counts as away."""

_DIRECT = Exchange("", type="direct")


class RabbitMq:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues = {name: self._queue(name) for name in QUEUES}
        self._later = {name: self._detour(name) for name in QUEUES}
        self._dead = self._declared(DEAD)

    def celery_settings(self) -> Mapping[str, Any]:
        return {
            "task_queues": list(self._queues.values()),
            "task_default_queue": self._queues[broker.IPFS].name,
            "task_default_exchange": "",
            "task_default_exchange_type": "direct",
            "broker_transport_options": {
                "confirm_publish": True,
                # One that is frozen, or short of disk, keeps its connections and answers nothing.
                "read_timeout": _SILENCE_SECONDS,
                "write_timeout": _SILENCE_SECONDS,
            },
        }

    def prefetch(self, runs: int, queues: int) -> int:
        return runs  # each queue has a consumer of its own

    def declare(self) -> None:
        with self._connection() as connection:
            for queue in (self._dead, *self._queues.values(), *self._later.values()):
                queue(connection.default_channel).declare()

    def later(self, queue: str, seconds: float) -> Mapping[str, Any]:
        return {"queue": self._later[queue], "expiration": seconds}

    def waiting(self) -> int:
        with self._connection() as connection:
            return sum(_ready(queue, connection)[0] for queue in (*self._queues.values(), *self._later.values()))

    def states(self) -> Sequence[QueueState]:
        working = self._at_work()
        with self._connection() as connection:
            return [
                QueueState(name, ready, working.get(queue.name, 0), consumers)
                for name, queue in {**self._queues, DEAD: self._dead}.items()
                for ready, consumers in [_ready(queue, connection)]
            ]

    def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        with self._connection() as connection:
            return [self._letter(message) for message, _ in zip(self._take(connection), range(limit), strict=False)]

    def redrive(self, message_ids: Sequence[str] | None) -> int:
        sent = 0
        with self._connection() as connection:
            producer = connection.Producer()
            for message in self._take(connection):
                letter = self._letter(message)
                if message_ids is not None and letter.message_id not in message_ids:
                    continue
                headers = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
                producer.publish(
                    message.body,
                    routing_key=named(self._settings, letter.queue),
                    content_type=message.content_type,
                    content_encoding=message.content_encoding,
                    headers=headers,
                    mandatory=True,
                    **{name: message.properties[name] for name in ("correlation_id",) if name in message.properties},
                )
                message.ack()
                sent += 1
        return sent

    def _take(self, connection: Connection) -> Iterator[Message]:
        """Every dead letter once; those that are not acknowledged go back when the connection is closed."""
        queue = self._dead(connection.default_channel)
        waiting, _ = _ready(self._dead, connection)  # one that is sent back may be here again at once
        for _ in range(waiting):
            if (message := queue.get(no_ack=False)) is not None:
                yield message

    def _letter(self, message: Message) -> DeadLetter:
        death = (message.headers.get("x-death") or [{}])[0]
        queue = str(death.get("queue", "")).removeprefix(self._settings.queue_prefix)
        body = message.body if isinstance(message.body, str) else bytes(message.body).decode(errors="replace")
        message_id = str(message.properties.get("correlation_id") or message.delivery_tag)
        return DeadLetter(message_id, broker.run_id_in(body), queue or broker.IPFS, str(death.get("reason", "")), body)

    def _at_work(self) -> Mapping[str, int]:
        """Messages with a worker, by queue: RabbitMQ itself only tells its management plug-in."""
        with border("asking the workers"):
            answers = celery_app(self._settings).control.inspect(timeout=1.0).active() or {}
        counts: dict[str, int] = {}
        for task in (task for tasks in answers.values() for task in tasks):
            name = task["delivery_info"]["routing_key"]
            counts[name] = counts.get(name, 0) + 1
        return counts

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with border("talking to RabbitMQ"), celery_app(self._settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
            yield connection

    def _queue(self, name: str) -> Queue:
        return self._declared(
            name,
            **{
                "x-delivery-limit": _DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": named(self._settings, DEAD),
                # RabbitMQ keeps a dead letter until the other queue has it; that needs an overflow that refuses.
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )

    def _detour(self, name: str) -> Queue:
        """Nobody consumes it: a message goes to its queue when its own time is over."""
        return self._declared(
            f"{name}.later",
            **{
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": named(self._settings, name),
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )

    def _declared(self, name: str, **arguments: Any) -> Queue:
        full = named(self._settings, name)
        return Queue(
            full, _DIRECT, routing_key=full, durable=True, queue_arguments={"x-queue-type": "quorum", **arguments}
        )


def _ready(queue: Queue, connection: Connection) -> tuple[int, int]:
    """Messages that wait, and who would take them; a queue that nobody has declared yet is empty."""
    with connection.channel() as channel:  # a question about a missing queue closes it
        try:
            said = queue(channel).queue_declare(passive=True)
        except NotFound:
            return 0, 0
    return said.message_count, said.consumer_count
