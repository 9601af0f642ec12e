"""How long a package will take: told before anything was published, and with others in the queue."""

from __future__ import annotations

from datetime import timedelta

from hls_pipeline import clock, estimate
from tests.services import World, package


def test_what_is_queued_before_a_package_is_counted(world_on_each_database: World) -> None:
    """On PostgreSQL this failed as soon as there was a queue: its sum of bigints is no integer."""
    world, now = world_on_each_database, clock.now()
    first = world.walk(world.drop("first", package("first")), "stage", "write_s3_manifest")
    second = world.walk(world.drop("second", package("second")), "stage", "write_s3_manifest")
    alone, queued = (estimate.completion(upload, world.store, now) for upload in (first, second))
    assert first.size is not None
    assert timedelta(0) < queued - alone < timedelta(seconds=1)
    assert world.store.bytes_in_work(before=second) == first.size


def test_an_estimate_follows_how_long_the_last_packages_took(world: World) -> None:
    upload = world.publish_package("film", package("film"))
    ((size, seconds),) = world.store.recent_publications(20)
    assert size == upload.size
    now = clock.now()
    expected = estimate.completion(upload, world.store, now) - now
    assert abs(expected.total_seconds() - max(seconds, 2.05)) < 0.1
