"""SQS: the queues and a dead-letter queue, named with HLS_QUEUE_PREFIX because they share an account.

A message that is with a worker is hidden from others for a while. One whose run takes longer comes again, is seen to
be at work, and is put off; so that time need not be as long as the longest run. SQS has no remote control, and none is
needed: a run is terminated through Dagster's storage.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
from kombu import Exchange, Queue
from kombu.utils.url import parse_url

from hls_pipeline.errors import Outage
from hls_pipeline.queue import broker
from hls_pipeline.queue.broker import DEAD, QUEUES, DeadLetter, QueueState, named
from hls_pipeline.settings import Settings

_HIDDEN_SECONDS = 120
"""A message whose worker died comes again after so long; its upload goes on as soon as its lease is over."""

_DELIVERY_LIMIT = 20
_LONGEST_DELAY = 900  # seconds; SQS's limit
_BATCH = 10  # messages; SQS's limit


class Sqs:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = {name: named(settings, name) for name in (*QUEUES, DEAD)}
        direct = Exchange("", type="direct")
        self._queues = {name: Queue(self._names[name], direct, routing_key=self._names[name]) for name in QUEUES}

    def celery_settings(self) -> Mapping[str, Any]:
        return {
            "task_queues": list(self._queues.values()),
            "task_default_queue": self._names[broker.IPFS],
            "task_default_exchange": "",
            "worker_enable_remote_control": False,
            "broker_transport_options": {
                "region": self._settings.sqs_region,
                "visibility_timeout": _HIDDEN_SECONDS,
                "wait_time_seconds": 5,
                "polling_interval": 0.1,
                "queue_name_prefix": "",
            },
        }

    def prefetch(self, runs: int, queues: int) -> int:
        return runs * queues  # one count for all queues together

    def declare(self) -> None:
        with self._client() as sqs:
            dead = sqs.create_queue(QueueName=self._names[DEAD], Attributes={"MessageRetentionPeriod": "1209600"})
            arn = sqs.get_queue_attributes(QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])["Attributes"]
            redrive = {"deadLetterTargetArn": arn["QueueArn"], "maxReceiveCount": _DELIVERY_LIMIT}
            for name in QUEUES:
                made = sqs.create_queue(QueueName=self._names[name])
                sqs.set_queue_attributes(
                    QueueUrl=made["QueueUrl"],
                    Attributes={
                        "RedrivePolicy": json.dumps(redrive),
                        "VisibilityTimeout": str(_HIDDEN_SECONDS),
                        "MessageRetentionPeriod": "1209600",
                    },
                )

    def later(self, queue: str, seconds: float) -> Mapping[str, Any]:
        return {"queue": self._queues[queue], "delay_seconds": min(round(seconds), _LONGEST_DELAY)}

    def waiting(self) -> int:
        return sum(state.ready for state in self.states() if state.name != DEAD)

    def states(self) -> Sequence[QueueState]:
        """SQS's numbers are approximate, and it does not count consumers."""
        with self._client() as sqs:
            return [self._state(sqs, name) for name in (*QUEUES, DEAD)]

    def _state(self, sqs: Any, name: str) -> QueueState:
        try:
            url = sqs.get_queue_url(QueueName=self._names[name])["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist:  # nobody has used it yet
            return QueueState(name, 0, 0, None)
        said = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        ready = int(said["ApproximateNumberOfMessages"]) + int(said["ApproximateNumberOfMessagesDelayed"])
        return QueueState(name, ready, int(said["ApproximateNumberOfMessagesNotVisible"]), None)

    def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        with self._client() as sqs:
            found = []
            for message in self._take(sqs):
                found.append(self._letter(message))
                if len(found) == limit:
                    break
            return found

    def redrive(self, message_ids: Sequence[str] | None) -> int:
        sent = 0
        with self._client() as sqs:
            dead = sqs.get_queue_url(QueueName=self._names[DEAD])["QueueUrl"]
            for message in self._take(sqs):
                letter = self._letter(message)
                if message_ids is None or letter.message_id in message_ids:
                    url = sqs.get_queue_url(QueueName=self._names[letter.queue])["QueueUrl"]
                    sqs.send_message(QueueUrl=url, MessageBody=message["Body"])
                    sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])
                    sent += 1
        return sent

    def _take(self, sqs: Any) -> Iterator[Any]:
        """Every dead letter once; those that are not deleted are back at the end."""
        dead = sqs.get_queue_url(QueueName=self._names[DEAD])["QueueUrl"]
        taken: list[Any] = []
        try:
            while messages := sqs.receive_message(
                QueueUrl=dead, MaxNumberOfMessages=_BATCH, VisibilityTimeout=_HIDDEN_SECONDS
            ).get("Messages"):
                taken += messages
                yield from messages
        finally:
            for message in taken:
                self._show_again(sqs, dead, message["ReceiptHandle"])

    def _show_again(self, sqs: Any, url: str, handle: str) -> None:
        from botocore.exceptions import ClientError

        try:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
        except ClientError:  # it was sent back and deleted
            return

    def _letter(self, message: Any) -> DeadLetter:
        queue, body = broker.IPFS, message["Body"]
        try:
            envelope = json.loads(base64.b64decode(body))
            queue = envelope["properties"]["delivery_info"]["routing_key"].removeprefix(self._settings.queue_prefix)
            body = base64.b64decode(envelope["body"]).decode()
        except (ValueError, LookupError, TypeError):
            pass  # none of ours; shown as it is
        return DeadLetter(message["MessageId"], broker.run_id_in(body), queue, "delivery_limit", body)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        url = parse_url(broker.url(self._settings))
        try:
            yield boto3.client(
                "sqs",
                region_name=self._settings.sqs_region,
                endpoint_url=f"http://{url['hostname']}:{url['port']}" if url["hostname"] else None,
                aws_access_key_id=url["userid"],
                aws_secret_access_key=url["password"],
            )
        except (BotoCoreError, ClientError) as error:
            raise Outage(f"talking to SQS: {error}; is it reachable, and are the permissions there?") from error
