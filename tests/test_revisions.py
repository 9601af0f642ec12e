"""A revision's blocks, read from S3 in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hls_pipeline.errors import Corruption, ObjectMissing
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision
from tests.services import MEDIA, World, media_playlist, ts

NAMES = [f"s{n}.ts" for n in range(12)]


class Reading(ObjectStore):
    """Notes what is being read, over the store that reads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.begun = store, list[str]()

    def read(self, bucket: str, key: str, **options: Any) -> Iterator[bytes]:
        self.begun.append(key)
        return self._store.read(bucket, key, **options)


@pytest.fixture
def revision(world: World, request: pytest.FixtureRequest) -> Revision:
    """Twelve segments of 188,000 bytes."""
    seed = request.node.name
    files = {name: ts(f"{seed} {name}", 1000) for name in NAMES}
    upload = world.drop("v", {"index.m3u8": media_playlist(*NAMES, comment=seed), **files})
    upload = world.walk(upload, "stage", "write_s3_manifest")
    files_on_record = world.store.inventory(upload.upload_id)
    return Revision(upload, files_on_record, world.objects, MEDIA, world.settings.policy())


@pytest.mark.parametrize("ahead", [0, 200_000, 600_000, 1 << 30])
def test_blocks_come_in_order_and_no_more_is_read_ahead_than_was_said(revision: Revision, ahead: int) -> None:
    plain = [cid for cid, _ in revision.blocks(revision.files)]
    assert [str(cid) for cid in plain] == [file.cid for file in revision.files]
    reading = Reading(revision.objects)
    watched = replace(revision, objects=reading)
    _ = watched.package  # the playlists are read anew
    reading.begun.clear()
    done = []
    for cid, _ in watched.blocks(watched.files, ahead):
        done.append(cid)
        assert len(reading.begun) - len(done) <= ahead / 188_000
    assert done == plain
    assert len(reading.begun) == len(NAMES)


def test_what_cannot_be_read_ahead_is_told_when_its_turn_comes(revision: Revision, world: World) -> None:
    lost = next(file for file in revision.files if file.path == "s3.ts")
    (item,) = (item for item in world.objects.listing(MEDIA) if item.key == lost.key)
    world.objects.delete(MEDIA, [(item.key, item.etag, None)])
    blocks = revision.blocks(revision.files, 1 << 30)
    assert [str(next(blocks)[0]) for _ in range(4)] == [file.cid for file in revision.files[:4]]
    with pytest.raises(ObjectMissing, match=r"s3|bafk"):
        next(blocks)


def test_originals_that_are_no_longer_the_accepted_package_stop_everything(revision: Revision, world: World) -> None:
    (playlist,) = (file for file in revision.files if file.is_playlist)
    for data in (b"<html>", media_playlist(*NAMES[1:])):
        world.objects.put(MEDIA, playlist.key or "", data, "text/plain")
        with pytest.raises(Corruption, match="not the package that was accepted"):
            _ = replace(revision).package
