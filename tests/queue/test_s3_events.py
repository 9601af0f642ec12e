"""Notifications wake the inbox sensor for the folders they name, and nothing depends on them. moto's server sends them
as S3 does, from its buckets to its queues."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import dagster as dg
import pytest
from kombu import Connection
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from hls_pipeline.definitions import defs
from hls_pipeline.errors import UsageError
from hls_pipeline.queue.s3_events import folders_in, folders_written
from hls_pipeline.sensors.inbox import inbox
from hls_pipeline.settings import Settings
from tests.queue.conftest import RabbitServer, as_variables
from tests.services import INBOX, MEDIA, World, free_ports, package


@dataclass
class Sensor:
    """The inbox sensor over a world, with the cursor that Dagster would keep for it."""

    instance: dg.DagsterInstance
    cursor: str | None = None
    said: str | None = None
    """Why it did not look."""

    def starts(self) -> list[str]:
        """Videos of which a look asks for a run."""
        resources = {name: (defs().resources or {})[name] for name in inbox.required_resource_keys}
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=defs()) as context:
            found = inbox(context, **resources)
        if isinstance(found, dg.SkipReason):
            self.said = found.skip_message
            return []
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        return [str(run.partition_key) for run in found.run_requests or ()]


@pytest.fixture
def sensor_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sensor]]:
    with dg.DagsterInstance.ephemeral() as instance:

        def made(world: World) -> Sensor:
            for name in [name for name in os.environ if name.startswith("HLS_")]:
                monkeypatch.delenv(name)
            for name, value in as_variables(world.settings).items():
                monkeypatch.setenv(name, value)
            return Sensor(instance)

        yield made


@pytest.fixture
def aws() -> Iterator[dict[str, Any]]:
    """Clients of an S3 and an SQS that know each other."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    about = {
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
    }
    try:
        yield {"s3": boto3.client("s3", **about), "sqs": boto3.client("sqs", **about), "url": about["endpoint_url"]}
    finally:
        server.stop()


def test_only_folders_that_s3_tells_of_are_looked_at_until_the_whole_inbox_is(
    world: World, aws: dict[str, Any], sensor_of: Callable[..., Sensor]
) -> None:
    queue = aws["sqs"].create_queue(QueueName="events")["QueueUrl"]
    arn = aws["sqs"].get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    for bucket in (INBOX, MEDIA):
        aws["s3"].create_bucket(Bucket=bucket)
    world = world.having(
        s3_endpoint=aws["url"], s3_access_key="key", s3_secret_key=SecretStr("secret"), s3_events_url=SecretStr(queue)
    )
    sensor = sensor_of(world)
    assert sensor.starts() == []
    world.put("unheard", package("unheard"))
    world.mark("unheard")
    notifications = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    aws["s3"].put_bucket_notification_configuration(Bucket=INBOX, NotificationConfiguration=notifications)
    world.put("heard", package("heard"))
    world.mark("heard")
    assert sensor.starts() == ["heard"]
    assert "Messages" not in aws["sqs"].receive_message(QueueUrl=queue)
    assert sensor.starts() == []
    sensor.cursor = "2026-01-01T00:00:00.000Z"  # the last look at everything is long ago
    assert sensor.starts() == ["unheard"]
    assert sensor.cursor
    assert sensor.cursor > "2026-01-01T00:00:00.000Z"


def test_rabbitmq_brings_them_too_and_what_is_none_is_dropped(
    world: World, rabbit: RabbitServer, sensor_of: Callable[..., Sensor]
) -> None:
    sensor = sensor_of(world.having(s3_events_url=SecretStr(f"{rabbit.url}?queue=events")))
    assert sensor.starts() == []
    world.put("v", package("v"))
    world.mark("v")
    assert sensor.starts() == []
    assert "S3's notifications" in (sensor.said or ""), "nobody has made the queue"
    with Connection(rabbit.url) as connection:
        connection.default_channel.queue_declare("events", durable=True, auto_delete=False)
        for body in ("none of S3's", '{"Event": "s3:TestEvent"}', written("v/_READY"), written("gone/master.m3u8")):
            connection.Producer().publish(body.encode(), routing_key="events")
        assert sensor.starts() == ["v"]
        assert connection.default_channel.queue_declare("events", passive=True).message_count == 0


def test_a_queue_that_is_away_delays_nothing_beyond_the_look_at_everything(
    world: World, sensor_of: Callable[..., Sensor]
) -> None:
    away = f"http://127.0.0.1:{free_ports(1)[0]}/1/events"
    sensor = sensor_of(world.having(s3_events_url=SecretStr(away)))
    assert sensor.starts() == []
    world.put("v", package("v"))
    world.mark("v")
    sensor.cursor = "2026-01-01T00:00:00.000Z"
    assert sensor.starts() == ["v"]


def written(key: str) -> str:
    """As MinIO and Ceph send it to RabbitMQ."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": INBOX}, "object": {"key": key}}}
    return json.dumps({"Records": [record]})


def test_names_are_read_as_s3_writes_them_and_other_buckets_are_not_ours() -> None:
    assert list(folders_in(written("a+film%2F2%C3%BC/v/s0.ts"), INBOX)) == ["a film"]
    assert list(folders_in(json.dumps({"Type": "Notification", "Message": written("v/_READY")}), INBOX)) == ["v"]
    assert list(folders_in(written("v/_READY"), MEDIA)) == []
    assert list(folders_in(written("outside.txt"), INBOX)) == []


@pytest.mark.parametrize("address", ["", "queue", "amqp://host/vhost", "amqp://host/vhost?queue=a&queue=b"])
def test_an_address_that_names_no_queue_or_two_is_said_to_be_none(address: str) -> None:
    with (
        pytest.raises(UsageError, match="HLS_S3_EVENTS_URL"),
        folders_written(Settings(s3_events_url=SecretStr(address))),
    ):
        pass
