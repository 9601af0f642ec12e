"""S3 as SeaweedFS speaks it: what is read, copied and deleted is what was seen, or nothing is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from hls_pipeline import object_store
from hls_pipeline.errors import ObjectChanged, ObjectMissing, Outage, ServiceRefused
from hls_pipeline.lifecycle import CLEARED_TAG
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from tests.services import INBOX, MEDIA, cutting_proxy, free_ports


@pytest.fixture
def objects(s3: Settings) -> ObjectStore:
    store = object_store.connect(s3)
    for bucket in (INBOX, MEDIA):
        store.delete(bucket, [(item.key, item.etag, None) for item in store.listing(bucket)])
    return store


def put(objects: ObjectStore, key: str, data: bytes = b"data") -> str:
    """The ETag of the new object."""
    return objects.put(INBOX, key, data, "video/mp2t").etag


def names(objects: ObjectStore, prefix: str = "", bucket: str = INBOX) -> list[str]:
    return [item.key for item in objects.listing(bucket, prefix)]


# ---- looking ------------------------------------------------------------------------------------------------------


def test_a_listing_is_complete_and_in_order_beyond_a_thousand_keys(objects: ObjectStore) -> None:
    keys = [f"long/{n:04}" for n in range(1101)]
    objects.each(lambda key: put(objects, key, b""), keys)
    put(objects, "longer/0")
    assert names(objects, "long/") == keys
    assert objects.delete(INBOX, [(item.key, item.etag, None) for item in objects.listing(INBOX, "long/")]) == []
    assert names(objects) == ["longer/0"]


def test_an_empty_listing_is_empty(objects: ObjectStore) -> None:
    assert names(objects, "nothing/") == []


def test_a_listing_says_what_head_says(objects: ObjectStore) -> None:
    etag = put(objects, "a/ü b+c%20?#&=.ts", b"12345")
    (item,) = objects.listing(INBOX)
    stored = objects.head(INBOX, "a/ü b+c%20?#&=.ts")
    assert (item.key, item.etag, item.size) == ("a/ü b+c%20?#&=.ts", etag, 5)
    assert (stored.etag, stored.size) == (etag, 5)
    assert objects.modified(INBOX, item.key) == item.modified
    assert abs(datetime.now(UTC) - item.modified) < timedelta(minutes=1)


def test_what_is_not_there_is_missing(objects: ObjectStore) -> None:
    for question in (objects.head, objects.modified, objects.read_all):
        with pytest.raises(ObjectMissing, match="s3://inbox/nothing: there is no such object"):
            question(INBOX, "nothing")
    with pytest.raises(ObjectMissing):
        objects.copy((INBOX, "nothing"), (MEDIA, "x"), etag='"0"', size=1, kind="video/mp2t")


# ---- reading ------------------------------------------------------------------------------------------------------


def test_reading_gives_the_bytes_in_pieces(objects: ObjectStore) -> None:
    data = os.urandom(object_store.CHUNK * 2 + 7)
    etag = put(objects, "a", data)
    pieces = list(objects.read(INBOX, "a", etag=etag))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= object_store.CHUNK


def test_reading_stops_at_the_limit(objects: ObjectStore) -> None:
    put(objects, "a", b"0123456789")
    assert b"".join(objects.read(INBOX, "a", limit=4)) == b"0123"
    assert b"".join(objects.read(INBOX, "a", limit=99)) == b"0123456789"


def test_an_empty_object_is_read_as_nothing(objects: ObjectStore) -> None:
    put(objects, "a", b"")
    assert objects.read_all(INBOX, "a") == b""


def test_reading_an_object_that_was_replaced_gives_not_one_byte(objects: ObjectStore) -> None:
    seen = put(objects, "a", b"old")
    put(objects, "a", b"new")
    with pytest.raises(ObjectChanged, match="somebody replaced it"):
        next(objects.read(INBOX, "a", etag=seen))


def test_a_body_that_breaks_off_is_an_outage(objects: ObjectStore, s3: Settings) -> None:
    put(objects, "a", os.urandom(3 << 20))
    assert s3.s3_endpoint
    with cutting_proxy(s3.s3_endpoint, answer_bytes=1 << 20) as address:
        behind = object_store.connect(s3.model_copy(update={"s3_endpoint": address}))
        with pytest.raises(Outage, match="reading s3://inbox/a"):
            list(behind.read(INBOX, "a"))


# ---- writing ------------------------------------------------------------------------------------------------------


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [0, 1, 100_000, (20 << 20) + 3], ids=["empty", "1 B", "100 kB", "20 MiB, in parts"])
def test_a_stream_of_any_length_arrives_byte_for_byte(objects: ObjectStore, size: int) -> None:
    data, key = os.urandom(size), f"stream-{size}"  # SeaweedFS takes no parts for a key that was a folder a moment ago
    objects.upload(INBOX, key, pieces(data, 300_001), "video/mp2t")
    assert objects.head(INBOX, key).size == size
    assert objects.read_all(INBOX, key) == data


def test_a_stream_that_fails_leaves_no_object(objects: ObjectStore) -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise ObjectMissing("the source is gone")

    with pytest.raises(ObjectMissing, match="the source is gone"):
        objects.upload(INBOX, "a", failing(), "video/mp2t")
    assert names(objects) == []


def test_the_content_type_is_what_was_said(objects: ObjectStore, s3: Settings) -> None:
    etag = put(objects, "a")
    objects.upload(INBOX, "b", iter([b"x"]), "text/vtt")
    objects.copy((INBOX, "a"), (MEDIA, "c"), etag=etag, size=4, kind="audio/aac")
    head = object_store.client(s3).head_object
    assert head(Bucket=INBOX, Key="a")["ContentType"] == "video/mp2t"
    assert head(Bucket=INBOX, Key="b")["ContentType"] == "text/vtt"
    assert head(Bucket=MEDIA, Key="c")["ContentType"] == "audio/aac"


# ---- copying ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a/b.ts", "a/ü b+c%20?#&=.ts"])
def test_a_copy_has_the_same_bytes_and_says_its_etag_as_listings_do(objects: ObjectStore, key: str) -> None:
    etag = put(objects, key, b"12345")
    stored = objects.copy((INBOX, key), (MEDIA, key), etag=etag, size=5, kind="video/mp2t")
    (item,) = objects.listing(MEDIA)
    assert (item.key, item.etag, item.size) == (key, stored.etag, stored.size)
    assert objects.read_all(MEDIA, key) == b"12345"
    assert b"".join(objects.read(MEDIA, key, etag=stored.etag)) == b"12345"


def test_a_copy_has_no_tags_whatever_the_creator_gave_the_source(objects: ObjectStore) -> None:
    """With the tag of what was cleared, S3 itself would remove the copy after a day."""
    etag = put(objects, "a", b"12345")
    objects.tag(INBOX, "a", None, *CLEARED_TAG)
    objects.copy((INBOX, "a"), (MEDIA, "a"), etag=etag, size=5, kind="video/mp2t")
    assert objects._client.get_object_tagging(Bucket=MEDIA, Key="a")["TagSet"] == []


def test_an_object_uploaded_in_parts_is_copied_by_its_etag(objects: ObjectStore) -> None:
    data = os.urandom(17 << 20)
    objects.upload(INBOX, "big", pieces(data, 1 << 20), "video/mp2t")
    seen = objects.head(INBOX, "big")
    stored = objects.copy((INBOX, "big"), (MEDIA, "big"), etag=seen.etag, size=seen.size, kind="video/mp2t")
    assert next(objects.listing(MEDIA)).etag == stored.etag
    assert objects.read_all(MEDIA, "big") == data


def test_a_source_that_was_replaced_is_not_copied(objects: ObjectStore) -> None:
    seen = put(objects, "a", b"old")
    put(objects, "a", b"new")
    with pytest.raises(ObjectChanged):
        objects.copy((INBOX, "a"), (MEDIA, "a"), etag=seen, size=3, kind="video/mp2t")
    assert names(objects, bucket=MEDIA) == []


# ---- renaming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a/b.ts", "a/ü b+c%20?#&=.ts"])
def test_a_renamed_object_is_the_same_under_its_new_key_alone(objects: ObjectStore, key: str) -> None:
    etag = objects.put(MEDIA, key, b"12345", "audio/aac").etag
    stored = objects.rename(MEDIA, key, f"new/{key}", etag=etag, size=5)
    assert stored == objects.head(MEDIA, f"new/{key}")
    assert [(item.key, item.etag, item.size) for item in objects.listing(MEDIA)] == [(f"new/{key}", etag, 5)]
    assert objects.read_all(MEDIA, f"new/{key}") == b"12345"
    assert objects._client.head_object(Bucket=MEDIA, Key=f"new/{key}")["ContentType"] == "audio/aac"


def test_a_source_that_was_replaced_or_is_gone_is_not_renamed(objects: ObjectStore) -> None:
    seen = objects.put(MEDIA, "a", b"old", "audio/aac").etag
    objects.put(MEDIA, "a", b"new", "audio/aac")
    with pytest.raises(ObjectChanged):
        objects.rename(MEDIA, "a", "b", etag=seen, size=3)
    with pytest.raises(ObjectMissing):
        objects.rename(MEDIA, "c", "b", etag=seen, size=3)
    assert names(objects, bucket=MEDIA) == ["a"]


def test_renaming_is_found_out_once_and_leaves_nothing(s3: Settings, objects: ObjectStore) -> None:
    store, asked = ObjectStore(object_store.client(s3)), []
    events = store._client.meta.events
    events.register("before-send.s3", record := lambda request, **_: asked.append(request.method))
    try:
        assert (store.renames(MEDIA, "scratch/"), store.renames(MEDIA, "scratch/")) == (True, True)
        assert asked.count("DELETE") + asked.count("POST") == 1
    finally:
        events.unregister("before-send.s3", record)
    assert names(objects, bucket=MEDIA) == []


def test_a_bucket_with_versions_does_not_rename(objects: ObjectStore) -> None:
    assert objects.keeps_versions(INBOX)
    assert not objects.renames(INBOX, "scratch/")
    assert list(objects.versions(INBOX, "scratch/")) == []


def test_a_server_that_takes_renaming_for_an_empty_object_does_not_rename(s3: Settings, objects: ObjectStore) -> None:
    def unknown(request: Any, **_: Any) -> None:
        request.url = request.url.replace("?renameObject", "")

    store = ObjectStore(object_store.client(s3))
    store._client.meta.events.register("before-sign.s3.RenameObject", unknown)
    try:
        assert not store.renames(MEDIA, "scratch/")
    finally:
        store._client.meta.events.unregister("before-sign.s3.RenameObject", unknown)
    assert names(objects, bucket=MEDIA) == []


def test_an_outage_says_nothing_about_renaming(s3: Settings) -> None:
    store = nowhere()
    with pytest.raises(Outage):
        store.renames(MEDIA, "scratch/")
    store._client = object_store.client(s3)
    assert store.renames(MEDIA, "scratch/")


def test_what_comes_into_doubt_while_it_is_found_out_has_an_answer(
    s3: Settings, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = ObjectStore.delete_versions

    def doubted(store: ObjectStore, bucket: str, prefix: str) -> Any:
        """Another package fails just then."""
        store.doubt_renames(bucket)
        return delete(store, bucket, prefix)

    monkeypatch.setattr(ObjectStore, "delete_versions", doubted)
    assert ObjectStore(object_store.client(s3)).renames(MEDIA, "scratch/")


# ---- deleting -----------------------------------------------------------------------------------------------------


def test_exactly_what_was_seen_is_deleted_and_the_rest_is_named(objects: ObjectStore) -> None:
    seen = {key: put(objects, key, key.encode()) for key in ("same", "replaced", "gone")}
    put(objects, "replaced", b"new")
    objects.delete(INBOX, [("gone", seen["gone"], None)])
    put(objects, "not asked for")
    assert objects.delete(INBOX, [(key, etag, None) for key, etag in seen.items()]) == ["replaced"]
    assert names(objects) == ["not asked for", "replaced"]
    assert objects.read_all(INBOX, "replaced") == b"new"


def test_deleting_nothing_asks_nobody() -> None:
    assert nowhere().delete(INBOX, []) == []


# ---- when it does not work ----------------------------------------------------------------------------------------


def nowhere() -> ObjectStore:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    return object_store.connect(Settings(s3_endpoint=address, s3_access_key="a", s3_secret_key=SecretStr("b")))


def test_an_s3_that_does_not_answer_is_an_outage() -> None:
    store = nowhere()
    with pytest.raises(Outage, match="is S3 running and reachable"):
        list(store.listing(INBOX))
    with pytest.raises(Outage, match="writing s3://inbox/a"):
        store.put(INBOX, "a", b"", "text/plain")
    with pytest.raises(Outage, match="deleting from s3://inbox"):
        store.delete(INBOX, [("a", '"0"', None)])


def test_wrong_credentials_are_refused_and_not_worth_another_try(s3: Settings) -> None:
    store = object_store.connect(s3.model_copy(update={"s3_secret_key": SecretStr("wrong")}))
    for question in (lambda: list(store.listing(INBOX)), lambda: store.put(INBOX, "a", b"", "text/plain")):
        with pytest.raises(ServiceRefused, match="check bucket, keys and permissions") as caught:
            question()
        assert not caught.value.retryable
    with pytest.raises(ServiceRefused):
        store.upload(INBOX, "a", iter([b"x"]), "text/plain")


def test_a_bucket_that_does_not_exist_is_refused(objects: ObjectStore) -> None:
    with pytest.raises(ServiceRefused, match="NoSuchBucket"):
        list(objects.listing("no-such-bucket"))


def test_one_of_many_pieces_of_work_failing_fails_the_whole(objects: ObjectStore) -> None:
    put(objects, "a")
    assert objects.each(lambda key: objects.head(INBOX, key).size, ["a"] * 20) == [4] * 20
    with pytest.raises(ObjectMissing):
        objects.each(lambda key: objects.head(INBOX, key), ["a"] * 10 + ["gone"] + ["a"] * 10)
