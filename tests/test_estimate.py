"""How long a package will take: told before anything was published, and with others in the queue."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hls_pipeline import clock, estimate
from hls_pipeline.estimate import Pace
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


def test_an_estimate_follows_how_long_the_last_packages_took_in_each_stage(world: World) -> None:
    upload = world.publish_package("film", package("film"))
    (took,) = world.store.recent_publications(20)
    now = clock.now()
    expected = estimate.completion(upload, world.store, now) - now
    assert expected.total_seconds() == pytest.approx(took.to_pinned + took.to_published, abs=0.1)


def test_tiny_packages_say_nothing_about_the_throughput() -> None:
    """After twenty of three kilobytes, a package of a gigabyte was said to take five hours."""
    guess = Pace(fixed=2.0, per_byte=1 / 40e6)
    found = estimate.pace([(3000, 1.0)] * 20, guess)
    assert found.seconds(3000) == pytest.approx(1.0, rel=0.01)
    assert found.seconds(10**9) == pytest.approx(1 + 25, rel=0.01)


def test_packages_of_different_sizes_tell_the_throughput_from_the_rest() -> None:
    guess, truth = Pace(fixed=2.0, per_byte=1 / 40e6), Pace(fixed=8.0, per_byte=1 / 200e6)
    past = [(size * 10**8, truth.seconds(size * 10**8)) for size in range(1, 20)]
    for size in (10**7, 10**9, 10**10):
        assert estimate.pace(past, guess).seconds(size) == pytest.approx(truth.seconds(size), rel=0.1)


def test_an_estimate_is_never_before_now_however_odd_the_past() -> None:
    found = estimate.pace([(10**9, 0.5), (10, 90.0)], Pace(fixed=2.0, per_byte=1 / 40e6))
    assert min(found.seconds(size) for size in (0, 10**6, 10**12)) >= 0
