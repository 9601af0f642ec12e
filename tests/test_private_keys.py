"""AES keys in a package: where they may be, and above all where not."""

from __future__ import annotations

import hashlib
import json

import pytest

from hls_pipeline.errors import UsageError
from hls_pipeline.settings import load
from hls_pipeline.uploads import State
from tests.services import MEDIA, World, ts

KEY = hashlib.sha256(b"a key that is never published").digest()[:16]
SERVICE = "https://keys.example/{path}"


def encrypted_package(key: bytes = KEY) -> dict[str, bytes]:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6", '#EXT-X-KEY:METHOD=AES-128,URI="secret/one.key"']
    lines += ["#EXTINF:6.0,", "s0.ts", "#EXT-X-ENDLIST", ""]
    return {"index.m3u8": "\n".join(lines).encode(), "secret/one.key": key, "s0.ts": ts("hidden", 4)}


def everything_in(world: World, bucket: str) -> bytes:
    return b"\0".join(world.objects.read_all(bucket, item.key) for item in world.objects.listing(bucket))


def with_key_service(world: World, bucket: str) -> World:
    world.objects._client.create_bucket(Bucket=bucket)
    return world.having(keys="external", s3_keys=bucket, key_service_url=SERVICE)


def test_a_package_with_a_clear_key_is_refused_by_default_and_its_key_stays_in_the_inbox(world: World) -> None:
    upload = world.walk(world.drop("plain", encrypted_package()))
    assert upload.state is State.REJECTED
    assert [error["code"] for error in (upload.report or {})["errors"]] == ["KEY_IN_PACKAGE"]
    assert not world.media()
    assert not world.on_ipfs(KEY)
    assert KEY.hex() not in json.dumps(upload.report)


def test_in_mode_external_the_key_goes_to_its_own_bucket_and_playlists_name_the_service(world: World) -> None:
    external = with_key_service(world, "keys")
    upload = external.publish_package("guarded", encrypted_package())
    assert upload.state is State.PUBLISHED
    assert external.objects.read_all("keys", "guarded/r1/secret/one.key") == KEY
    assert KEY not in everything_in(external, MEDIA)
    assert not external.on_ipfs(KEY)
    named = b'URI="https://keys.example/guarded/secret/one.key"'
    assert not (upload.facts or {})["unprotected"]
    assert named in external.from_gateway(f"{upload.root}/index.m3u8")
    assert named in external.from_gateway(f"{upload.record}/ipfs/index.m3u8")
    assert named in external.read("guarded/r1/s3/index.m3u8")
    assert not external.inbox()


def test_another_key_for_the_same_segments_is_another_revision(world: World) -> None:
    """The root is the same, so the corrected key was taken for nothing new, and removed with the drop."""
    external = with_key_service(world, "other-keys")
    external.publish_package("corrected", encrypted_package(bytes(16)))
    assert external.walk(external.drop("corrected", encrypted_package(bytes(16)))).state is State.UNCHANGED
    upload = external.publish_package("corrected", encrypted_package())
    assert (upload.state, upload.revision) == (State.PUBLISHED, 2)
    assert external.objects.read_all("other-keys", "corrected/r2/secret/one.key") == KEY


def test_mode_external_without_a_bucket_or_a_service_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="HLS_S3_KEYS"):
        load(keys="external", key_service_url=SERVICE).policy()


def test_in_mode_publish_the_key_is_published_and_the_report_says_that_nothing_is_protected(world: World) -> None:
    upload = world.having(keys="publish").publish_package("open", encrypted_package(bytes(range(16))))
    assert upload.state is State.PUBLISHED
    assert world.from_gateway(f"{upload.root}/secret/one.key") == bytes(range(16))
    assert "KEY_IN_PACKAGE" in [warning["code"] for warning in (upload.report or {})["warnings"]]
    assert (upload.facts or {})["unprotected"]
