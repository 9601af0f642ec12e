"""Lifecycle rules: set once, corrected when they differ, and never at the cost of somebody else's."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from typer.testing import CliRunner

from hls_pipeline import lifecycle
from hls_pipeline.cli import app
from tests.services import World


@pytest.fixture
def own_buckets(world: World) -> World:
    """The world with new buckets that have no rules."""
    names = [f"{kind}-{secrets.token_hex(4)}" for kind in ("inbox", "media")]
    for name in names:
        world.objects._client.create_bucket(Bucket=name)
    return world.having(s3_inbox=names[0], s3_media=names[1])


def rules(world: World, bucket: str) -> dict[str, Any]:
    return {rule["ID"]: rule for rule in world.objects.lifecycle(bucket)}


def test_rules_are_set_once_and_then_left_alone(own_buckets: World) -> None:
    world, settings = own_buckets, own_buckets.settings
    assert world.objects.lifecycle(settings.s3_media) == []
    assert lifecycle.apply(world.objects, settings) == (settings.s3_inbox, settings.s3_media)
    assert lifecycle.apply(world.objects, settings) == ()
    inbox, media = rules(world, settings.s3_inbox), rules(world, settings.s3_media)
    assert inbox["hls-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert inbox["hls-forgotten-packages"]["Expiration"] == {"Days": 30}
    assert media["hls-cleared"]["Filter"] == {"Tag": {"Key": "hls", "Value": "cleared"}}
    assert media["hls-cleared"]["Expiration"] == {"Days": 1}


def test_no_rule_lets_what_a_revision_needs_expire(own_buckets: World) -> None:
    """In the media bucket, objects expire by tag or under the folders of presigned uploads and of inventories."""
    expiring = [rule for rule in lifecycle.media_rules(own_buckets.settings) if "Days" in rule.get("Expiration", {})]
    assert [rule["Filter"] for rule in expiring] == [
        {"Prefix": "_uploads/"},
        {"Prefix": "_inventory/"},
        {"Tag": {"Key": "hls", "Value": "cleared"}},
    ]


def test_a_changed_setting_is_corrected_and_rules_of_others_stay(own_buckets: World) -> None:
    world, settings = own_buckets, own_buckets.settings
    theirs = {"ID": "archive", "Status": "Disabled", "Filter": {"Prefix": "old/"}, "Expiration": {"Days": 9}}
    world.objects.set_lifecycle(settings.s3_inbox, [theirs])
    lifecycle.apply(world.objects, settings)
    changed = settings.model_copy(update={"inbox_keep_days": 3})
    assert lifecycle.apply(world.objects, changed) == (settings.s3_inbox, settings.s3_media)
    found = rules(world, settings.s3_inbox)
    assert found["hls-forgotten-packages"]["Expiration"] == {"Days": 3}
    assert found["archive"]["Expiration"] == {"Days": 9}
    assert len(found) == 1 + len(lifecycle.inbox_rules(changed))


def test_setup_says_what_it_did_and_can_be_repeated(own_buckets: World, as_environment: Any) -> None:
    as_environment(own_buckets.settings)
    first = CliRunner().invoke(app, ["setup"], catch_exceptions=False)
    assert first.stdout.count("lifecycle rules set") == 2
    assert "keeps versions from now on" in first.stdout
    assert own_buckets.objects.keeps_versions(own_buckets.settings.s3_inbox)
    again = CliRunner().invoke(app, ["setup"], catch_exceptions=False)
    assert again.stdout.count("are as they should be") == 2
    said = CliRunner().invoke(app, ["setup", "--json"], catch_exceptions=False).stdout
    assert json.loads(said) == {"made": [], "changed": [], "versioned": False, "dagster": False}


def test_setup_makes_a_bucket_that_is_missing(own_buckets: World, as_environment: Any) -> None:
    missing = own_buckets.settings.model_copy(update={"s3_inbox": "not-there-yet"})
    as_environment(missing)
    said = CliRunner().invoke(app, ["setup", "--json"], catch_exceptions=False).stdout
    assert json.loads(said)["made"] == ["not-there-yet"]
    assert list(own_buckets.objects.listing("not-there-yet")) == []
