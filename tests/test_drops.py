"""The inbox over real S3: what is taken up, what waits, what is refused, and what is deleted from it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from hls_pipeline import clock, drops, submission, work
from hls_pipeline.errors import DropChanged, Outage, PackageRefused
from hls_pipeline.hls.sources import FolderSource
from hls_pipeline.metadata_store import PATH
from hls_pipeline.uploads import State
from tests.services import INBOX, Files, World, free_ports, package, wait_until

FILES = {"master.m3u8": b"#EXTM3U\n", "v/s0.ts": b"0123456789", "empty.vtt": b""}


def test_each_folder_becomes_an_upload_of_its_own(world: World) -> None:
    for video_id in ("a", "a-b", "ab", "a_b", "A"):
        world.put(video_id, FILES)
        world.mark(video_id)
    arrived, waiting = world.receive()
    assert sorted(upload.video_id for upload in arrived) == ["A", "a", "a-b", "a_b", "ab"]
    assert waiting == []
    for upload in arrived:
        assert sorted(upload.drop.path(item) for item in upload.drop.objects) == sorted(FILES)


def test_an_empty_inbox_gives_nothing(world: World) -> None:
    assert world.receive() == ([], [])


def test_what_was_taken_up_waits_with_a_reason(world: World) -> None:
    upload = world.drop("v", FILES)
    assert world.receive() == ([], [f"v: upload {upload.upload_id} of this video is in work"])


def test_a_folder_that_is_still_written_to_waits(world: World) -> None:
    slow = world.having(inbox_quiet_seconds=30.0)
    slow.put("v", FILES)
    assert slow.receive() == ([], ["v: still being written"])
    arrived, _ = slow.receive(clock.now() + timedelta(seconds=32))
    assert [upload.drop.ready for upload in arrived] == [None]


@pytest.mark.parametrize("name", ["bad name", "_hidden", "ü", "x" * 65, "a.b"])
def test_a_folder_whose_name_is_no_video_id_is_refused_with_a_report(world: World, name: str) -> None:
    world.put(name, FILES)
    world.mark(name)
    assert world.receive()[0] == []
    report = json.loads(world.objects.read_all(INBOX, f"{name}/_REJECTED.json"))
    assert not report["accepted"]
    assert [error["code"] for error in report["errors"]] == ["PKG_PATH_UNSAFE"]
    before = list(world.objects.listing(INBOX))
    assert world.receive()[0] == []
    assert list(world.objects.listing(INBOX)) == before


@pytest.mark.parametrize("name", ["_READY", "_REJECTED.json"])
def test_a_folder_that_has_a_mark_of_its_own_is_not_sent(world: World, tmp_path: Path, name: str) -> None:
    """Its `_READY` would start the video before the last file is there, its `_REJECTED.json` would hide it."""
    for path, data in {"master.m3u8": b"#EXTM3U\n", name: b""}.items():
        (tmp_path / path).write_bytes(data)
    with pytest.raises(PackageRefused, match="mark of the inbox"):
        submission.send(FolderSource(tmp_path), "v", world.objects, INBOX)
    assert list(world.objects.listing(INBOX)) == []


def sent_beside(
    pipeline: Callable[..., None], operation: str, files: Files, world: World, folder: Path
) -> submission.Sent:
    """A package sent to `v` while `pipeline` does something just before each request of this kind."""
    for path, data in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    events, request = world.objects._client.meta.events, f"provide-client-params.s3.{operation}"
    events.register(request, pipeline)
    try:
        return submission.send(FolderSource(folder), "v", world.objects, INBOX)
    finally:
        events.unregister(request, pipeline)


def test_a_package_that_is_taken_out_at_once_counts_as_sent_and_is_followed(world: World, tmp_path: Path) -> None:
    """`submit` failed on a busy machine: the mark was gone before it could ask when it was made."""

    def pipeline(params: dict[str, str], **_: object) -> None:
        if params["Key"] == "v/_READY":
            world.walk(world.take_up(), "stage", "write_s3_manifest")

    sent = sent_beside(pipeline, "HeadObject", package("at once"), world, tmp_path)
    assert world.inbox() == set()
    assert next(submission.follow(sent, world.store)).state is State.STAGED


def test_a_folder_that_started_by_itself_just_before_its_mark_is_followed(world: World, tmp_path: Path) -> None:
    """`submit --wait` waited for ever for an upload of its own mark, which was taken out with the folder."""
    later = clock.now() + timedelta(hours=1)

    def quiet(params: dict[str, str], **_: object) -> None:
        if params["Key"] == "v/_READY":
            (upload,), _waiting = world.receive(later)
            assert upload.drop.ready is None
            world.walk(upload, "stage")

    sent = sent_beside(quiet, "PutObject", package("quiet"), world, tmp_path)
    (upload,) = world.store.uploads_of("v")
    assert upload.drop.ready is None
    assert upload.drop.ready != sent.ready
    assert next(submission.follow(sent, world.store)).upload_id == upload.upload_id
    again = replace(sent, began=later)
    assert not again.became(upload), "an earlier arrival of the same files is not this one"


def test_files_outside_any_folder_are_left_alone(world: World) -> None:
    world.objects.put(INBOX, "stray.ts", b"x", "video/mp2t")
    assert world.receive() == ([], [])
    assert world.inbox() == {"stray.ts"}


def test_a_frozen_drop_is_read_as_it_was(world: World) -> None:
    source = drops.DropSource(world.objects, world.drop("v", FILES).drop)
    assert source.sizes() == {path: len(data) for path, data in FILES.items()}
    assert {path: b"".join(source.read(path)) for path in FILES} == FILES
    assert b"".join(source.read("v/s0.ts", limit=3)) == b"012"


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_drop_that_was_written_to_is_not_read(world: World, change: str) -> None:
    source = drops.DropSource(world.objects, world.drop("v", FILES).drop)
    if change == "replaced":
        world.put("v", {"v/s0.ts": b"9876543210"})
    else:
        world.objects.delete(INBOX, [("v/v/s0.ts", source.by_path["v/s0.ts"].etag, None)])
    with pytest.raises(DropChanged, match="video v: its inbox folder was written to"):
        list(source.read("v/s0.ts"))
    assert b"".join(source.read("master.m3u8")) == FILES["master.m3u8"]


def test_taking_out_leaves_an_empty_folder(world: World) -> None:
    drop = world.drop("v", FILES).drop
    world.put("v", {"_REJECTED.json": b"{}"})
    world.put("w", FILES)
    drops.take_out(world.objects, drop)
    drops.take_out(world.objects, drop)
    assert world.inbox() == {f"w/{path}" for path in FILES}


def test_taking_out_leaves_what_came_later(world: World) -> None:
    """The mark too: S3 has whole seconds, and the new one belongs to the creator's next drop."""
    drop = world.drop("v", FILES).drop
    world.put("v", {"v/s0.ts": b"changed", "new.ts": b"new"})
    drops.take_out(world.objects, drop)
    assert world.inbox() == {"v/v/s0.ts", "v/new.ts"}


def test_what_is_sent_again_while_it_is_taken_out_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same bytes: only the versions that were frozen go, and those the creator had written over before."""
    world.put("v", {"master.m3u8": b"first try"})
    drop = world.drop("v", FILES).drop
    delete = world.objects.delete

    def late(bucket: str, objects: list[tuple[str, str, str | None]]) -> list[str]:
        if objects and not again:
            world.put("v", FILES)
            world.mark("v")
            again.append(True)
        return delete(bucket, objects)

    again: list[bool] = []
    monkeypatch.setattr(world.objects, "delete", late)
    drops.take_out(world.objects, drop)
    assert again
    assert world.inbox() == {f"v/{path}" for path in (*FILES, "_READY")}
    assert {path: world.objects.read_all(INBOX, f"v/{path}") for path in FILES} == FILES
    assert len(list(world.objects.versions(INBOX, "v/"))) == len(FILES) + 1


def test_taking_out_of_a_bucket_without_versions_leaves_what_came_later(world: World) -> None:
    name = f"inbox-{secrets.token_hex(4)}"
    world.objects._client.create_bucket(Bucket=name)
    plain = world.having(s3_inbox=name)
    for path, data in {**FILES, "_READY": b""}.items():
        world.objects.put(name, f"v/{path}", data, "video/mp2t")
    ((upload,), _) = plain.receive()
    world.objects.put(name, "v/v/s0.ts", b"changed", "video/mp2t")
    drops.take_out(world.objects, upload.drop)
    assert {item.key for item in world.objects.listing(name)} == {"v/v/s0.ts"}


def test_a_refusal_keeps_the_creators_files(world: World) -> None:
    world.drop("v", FILES)
    drops.refuse(world.objects, INBOX, "v", {"accepted": False, "errors": [{"message": "ü 🌌"}]})
    assert world.inbox() == {f"v/{path}" for path in FILES} | {"v/_READY", "v/_REJECTED.json"}
    assert json.loads(world.objects.read_all(INBOX, "v/_REJECTED.json"))["errors"] == [{"message": "ü 🌌"}]


def test_a_corrected_package_is_taken_up_once_it_is_marked_again(world: World) -> None:
    broken = {**package("corrected"), "v/index.m3u8": b"no playlist"}
    refused = world.step("stage", world.drop("v", broken))
    assert refused.state is State.REJECTED
    assert world.receive()[0] == []
    later = clock.now() + timedelta(minutes=1)
    time.sleep(1.1)  # S3 says whole seconds: a correction within one still counts as marked
    world.put("v", {"v/index.m3u8": package("corrected")["v/index.m3u8"]})
    assert "v: refused; write _READY again once it is corrected" in world.receive(later)[1]
    world.mark("v")
    assert world.walk(world.take_up()).state is State.PUBLISHED
    assert world.inbox() == set()


def test_an_inbox_that_cannot_be_looked_at_is_an_outage_and_not_an_empty_inbox(world: World) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Outage):
        world.having(s3_endpoint=f"http://127.0.0.1:{port}").receive()


def test_a_mark_that_comes_after_a_quiet_start_is_taken_away_and_starts_nothing(world: World) -> None:
    world.put("late", package("late"))
    upload = world.walk(world.take_up())
    assert upload.state is State.PUBLISHED
    world.mark("late")
    assert world.receive() == ([], [])
    assert world.inbox() == set()
    assert world.store.uploads_of("late") == (world.store.upload(upload.upload_id),)


def test_a_file_that_no_playlist_reaches_is_kept_also_when_nothing_else_changed(world: World) -> None:
    files = package("extras") | {"notes.txt": b"first"}
    first = world.publish_package("extras", files)
    wait_until(lambda: (clock.now() - first.created_at).total_seconds() > 1.1, "another second, as S3 tells time")
    second = world.walk(world.drop("extras", files | {"notes.txt": b"second"}))
    assert second.state is State.UNCHANGED
    assert world.read("extras/r1/unreferenced/notes.txt") == b"second"
    assert world.inbox() == set()


def test_what_a_run_is_taking_out_is_left_to_it(world: World) -> None:
    """The creator sends the same bytes again as soon as the folder is empty: a second delete that is on its way by
    then cannot tell them apart."""
    files = package("left to its run")
    world.publish_package("v", files)
    upload = world.drop("v", files)
    with work.holding(upload, PATH + "run", world.store, world.settings) as lease:
        world.store.unchanged(lease, clock.now())
        assert world.receive() == ([], ["v: a run takes out what was taken in"])
        assert "v/_READY" in world.inbox()
    assert world.receive() == ([], [])
    assert not world.inbox()
