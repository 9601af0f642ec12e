"""S3's event notifications, taken from a queue in SQS or RabbitMQ: to which folders of the inbox somebody wrote.

A hint and no more: what starts is decided by a look at the folder (`drops.py`), and the whole inbox is looked at every
`HLS_INBOX_LOOK_SECONDS`, so that a notification that is lost, doubled or forged changes nothing. AWS, MinIO and Ceph
send the same structure ("Event message structure", Amazon S3 User Guide); SNS wraps it. What cannot be read is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote_plus, urlsplit

from hls_pipeline.errors import UsageError
from hls_pipeline.queue.broker import border
from hls_pipeline.settings import Settings

_AT_ONCE = 500
"""Notifications that one look takes; a creator's package makes one for each file."""

_BATCH = 10  # messages; SQS's limit


@contextmanager
def folders_written(settings: Settings) -> Iterator[frozenset[str]]:
    """The inbox folders that are named by notifications; those are forgotten when the block has ended well. Raises
    Outage while the queue does not answer, UsageError for an address that is none."""
    address = settings.s3_events_url.get_secret_value() if settings.s3_events_url else ""
    kinds = {"http": _from_sqs, "https": _from_sqs, "amqp": _from_rabbitmq, "amqps": _from_rabbitmq}
    parts = urlsplit(address)
    take, queues = kinds.get(parts.scheme), parse_qs(parts.query).get("queue", ())
    if take is None or (take is _from_rabbitmq and len(queues) != 1):
        raise UsageError("HLS_S3_EVENTS_URL: give an SQS queue's address (https://…), or amqp://…/VHOST?queue=NAME")
    with border("taking S3's notifications"), take(settings, address) as bodies:
        yield frozenset(folder for body in bodies for folder in folders_in(body, settings.s3_inbox))


def folders_in(body: str, bucket: str) -> Iterator[str]:
    """Folders of `bucket` that a notification names."""
    try:
        content = json.loads(body)
        if "Records" not in content:
            content = json.loads(content["Message"])  # as SNS wraps it
        written = [record["s3"] for record in content["Records"]]
        names = [unquote_plus(at["object"]["key"]) for at in written if at["bucket"]["name"] == bucket]
        yield from (name.partition("/")[0] for name in names if "/" in name)
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # a test event, or none of S3's


@contextmanager
def _from_sqs(settings: Settings, address: str) -> Iterator[Iterable[str]]:
    """The queue must be in the region of the bucket (S3's rule), so it is asked with the same keys."""
    import boto3

    secret = settings.s3_secret_key
    sqs = boto3.client(
        "sqs",
        region_name=settings.s3_region,
        endpoint_url="{0.scheme}://{0.netloc}".format(urlsplit(address)),
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
    )
    taken: list[dict[str, str]] = []
    while len(taken) < _AT_ONCE and (
        messages := sqs.receive_message(QueueUrl=address, MaxNumberOfMessages=_BATCH).get("Messages")
    ):
        taken += messages
    yield [message["Body"] for message in taken]
    for start in range(0, len(taken), _BATCH):
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(taken[start : start + _BATCH])
        ]
        sqs.delete_message_batch(QueueUrl=address, Entries=entries)


@contextmanager
def _from_rabbitmq(_: Settings, address: str) -> Iterator[Iterable[str]]:
    """Those that are not acknowledged go back when the connection is closed."""
    from kombu import Connection, Message, Queue

    parts = urlsplit(address)
    (name,) = parse_qs(parts.query)["queue"]
    with Connection(parts._replace(query="").geturl()) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
        channel = connection.default_channel
        queue = Queue(name, no_declare=True)(channel)
        taken: list[Message] = []
        while len(taken) < _AT_ONCE and (message := queue.get(no_ack=False)) is not None:
            taken.append(message)
        bodies = [message.body for message in taken]
        yield [body if isinstance(body, str) else bytes(body).decode(errors="replace") for body in bodies]
        if taken:
            channel.basic_ack(taken[-1].delivery_tag, multiple=True)
