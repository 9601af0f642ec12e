"""Playback under one address: the same bytes before, during and after the move from S3 to IPFS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest
import requests

from hls_pipeline.gateway import play
from hls_pipeline.gateway.playlists import PlaylistCache
from hls_pipeline.gateway.services import connect
from hls_pipeline.hls.content_types import PLAYLIST_TYPE
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import as_files, open_socket, post
from tests.services import package, published, ts, wait_until

FILES = package("film")
SEGMENT = FILES["v/s1.ts"]


@pytest.fixture
def staged(gateway: Gateway) -> Gateway:
    gateway.world.walk(gateway.world.drop("film", FILES), "stage", "write_s3_manifest")
    return gateway


@pytest.fixture
def on_ipfs(staged: Gateway) -> Gateway:
    """Published, and its S3 copies gone."""
    upload = staged.world.store.latest_upload("film")
    assert upload is not None
    staged.world.walk(upload)
    staged.world.step("clear_temp_storage", upload, "clear:test")
    assert not any("/media/" in key for key in staged.world.media())
    return staged


def test_every_file_plays_from_s3_and_then_the_same_from_ipfs(staged: Gateway) -> None:
    before = {path: staged.play("film", path) for path in published(FILES)}
    assert {path: answer.content for path, answer in before.items()} == published(FILES)
    upload = staged.world.store.latest_upload("film")
    assert upload is not None
    staged.world.walk(upload)
    staged.world.step("clear_temp_storage", upload, "clear:test")
    after = {path: staged.play("film", path) for path in published(FILES)}
    assert {path: answer.content for path, answer in after.items()} == published(FILES)
    for path in published(FILES):
        assert before[path].headers["ETag"] == after[path].headers["ETag"], "viewers and caches notice nothing"


def test_a_playlist_that_needs_repair_is_the_same_in_both_places(gateway: Gateway) -> None:
    """Players resolve `s 0.ts` differently: what is published says `s%200.ts`, and S3 must not show another form."""
    files = {name.replace("s0", "s 0"): data.replace(b"s0.ts", b"s 0.ts") for name, data in FILES.items()}
    upload = gateway.world.drop("film", files)
    gateway.world.walk(upload, "stage", "write_s3_manifest")
    before = gateway.play("film", "v/index.m3u8")
    assert b"s%200.ts" in before.content
    assert gateway.play("film", "v/s%200.ts").content == files["v/s 0.ts"]
    gateway.world.walk(upload)
    assert gateway.play("film", "v/index.m3u8").content == before.content


@pytest.mark.parametrize("where", ["staged", "on_ipfs"])
def test_ranges(where: str, request: pytest.FixtureRequest) -> None:
    gateway: Gateway = request.getfixturevalue(where)
    size = len(SEGMENT)
    for header, start, end in [
        ("bytes=0-0", 0, 1),
        ("bytes=188-375", 188, 376),
        ("bytes=900-", 900, size),
        ("bytes=-10", size - 10, size),
        ("Bytes=0-99999", 0, size),
        ("bytes=-99999", 0, size),
    ]:
        answer = gateway.play("film", "v/s1.ts", Range=header)
        assert (answer.status_code, answer.content) == (206, SEGMENT[start:end]), header
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for header in ("bytes=0-1,4-5", "bytes=x-y", "items=0-1", "bytes=5-4", "bytes=-"):
        answer = gateway.play("film", "v/s1.ts", Range=header)
        assert (answer.status_code, answer.content) == (200, SEGMENT), header
    for header in (f"bytes={size}-", "bytes=-0", "bytes=99999-100000"):
        answer = gateway.play("film", "v/s1.ts", Range=header)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}"), header


@pytest.mark.parametrize("where", ["staged", "on_ipfs"])
def test_conditions_and_head(where: str, request: pytest.FixtureRequest) -> None:
    gateway: Gateway = request.getfixturevalue(where)
    head = gateway.ask("HEAD", "/v1/videos/film/play/v/s1.ts")
    etag = head.headers["ETag"]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(SEGMENT))
    assert head.headers["Content-Type"] == "video/mp2t"
    part = gateway.ask("HEAD", "/v1/videos/film/play/v/s1.ts", headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.headers["Content-Length"]) == (200, str(len(SEGMENT))), "a range is asked for by GET"
    assert gateway.play("film", "v/s1.ts", If_None_Match=etag).status_code == 304
    assert gateway.play("film", "v/s1.ts", If_Match=f'"other", {etag}').content == SEGMENT
    gone = gateway.play("film", "v/s1.ts", Range="bytes=0-1", If_Match='"other"')
    assert (gone.status_code, gone.json()["code"]) == (412, "precondition_failed")
    assert gateway.play("film", "v/s1.ts", Range="bytes=0-1", If_Range=etag).status_code == 206
    assert gateway.play("film", "v/s1.ts", Range="bytes=0-1", If_Range='"other"').status_code == 200


def test_players_on_other_sites_may_read(staged: Gateway) -> None:
    answer = staged.play("film", "master.m3u8", Origin="https://player.example")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Content-Range" in answer.headers["Access-Control-Expose-Headers"]
    assert answer.headers["Content-Type"] == PLAYLIST_TYPE
    preflight = staged.ask(
        "OPTIONS",
        "/v1/videos/film/play/master.m3u8",
        headers={
            "Origin": "https://player.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "range, if-range, cmcd-session",
        },
    )
    assert preflight.status_code == 200
    assert "cmcd-session" in preflight.headers["Access-Control-Allow-Headers"], "hls.js reports in such headers"
    assert "Access-Control-Allow-Credentials" not in preflight.headers


def test_who_asks_with_the_wrong_method_is_told_the_right_ones(staged: Gateway) -> None:
    """It was told those of one route alone, which was HEAD."""
    for method, path, right in [("POST", "/play/master.m3u8", "GET, HEAD"), ("PUT", "", "GET, HEAD, DELETE")]:
        answer = staged.ask(method, f"/v1/videos/film{path}")
        assert (answer.status_code, answer.headers["Allow"]) == (405, right)


def test_what_is_named_by_content_may_be_kept_and_playlists_only_for_moments(staged: Gateway) -> None:
    segment = staged.play("film", "v/s1.ts")
    assert "no-cache" in segment.headers["Cache-Control"], "the next revision may have other bytes under this name"
    cid = segment.headers["ETag"].strip('"')
    assert "immutable" in staged.play("film", f"v/s1.ts?cid={cid}").headers["Cache-Control"]
    assert staged.play("film", "v/s1.ts?cid=bafyother").status_code == 404
    assert staged.play("film", "v/index.m3u8").headers["Cache-Control"] == "public, max-age=2"


def test_what_needs_a_key_is_kept_by_no_cache_that_others_use(gateway_with: Callable[..., Gateway]) -> None:
    """ "public" would let a cache in front of us give it to people without a key."""
    gateway = gateway_with(public_read=False)
    gateway.world.walk(gateway.world.drop("film", FILES), "stage", "write_s3_manifest")
    for path in ("master.m3u8", "v/s1.ts"):
        assert gateway.play("film", path).status_code == 401
        answer = gateway.play("film", path, **gateway.bearer)
        assert (answer.status_code, answer.headers["Cache-Control"].split(",")[0]) == (200, "private")


def test_a_repaired_playlist_plays_also_when_it_is_larger_than_what_is_kept_in_memory(gateway: Gateway) -> None:
    """It was rendered, forgotten at once, and then called an outage."""
    files = {name.replace("s0", "s 0"): data.replace(b"s0.ts", b"s 0.ts") for name, data in FILES.items()}
    gateway.world.walk(gateway.world.drop("film", files), "stage", "write_s3_manifest")
    services = replace(connect(gateway.settings), playlists=PlaylistCache(10))
    found = services.records.playable("film", "v/index.m3u8", "media")
    assert b"s%200.ts" in b"".join(play._pieces(services, "film", found, 0, found.file.size))


def test_what_is_still_in_s3_plays_from_there_while_ipfs_does_not_answer(
    gateway_with: Callable[..., Gateway],
) -> None:
    gateway = gateway_with(ipfs_gateway_urls=("http://127.0.0.1:1",))
    gateway.world.publish_package("film", FILES)
    for path in ("master.m3u8", "v/s1.ts"):
        assert gateway.play("film", path).content == FILES[path]


def test_path_tricks_find_nothing(staged: Gateway) -> None:
    tricks = (
        "../../../etc/passwd",
        "..%2f..%2fmaster.m3u8",
        "%2e%2e/%2e%2e/r1/original/master.m3u8",
        "v/../master.m3u8",
        "v//index.m3u8",
        "/master.m3u8",
        "..%5c..%5cmaster.m3u8",
        "metadata.json",
        "s3/master.m3u8",
        "%ff%fe",
        "",
    )
    for path in tricks:
        prepared = requests.Request("GET", staged.url).prepare()
        prepared.url = f"{staged.url}/v1/videos/film/play/{path}"  # as it is: requests would tidy it up
        with requests.Session() as session:
            answer = session.send(prepared, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


def test_a_new_revision_takes_over_when_it_is_published_and_not_before(on_ipfs: Gateway) -> None:
    other = package("film two")
    upload = on_ipfs.world.drop("film", other)
    on_ipfs.world.walk(upload, "stage", "write_s3_manifest")
    assert on_ipfs.play("film", "v/s1.ts").content == SEGMENT
    assert on_ipfs.play("film", "v/s1.ts?revision=2").status_code == 404
    on_ipfs.world.walk(upload)
    assert on_ipfs.play("film", "v/s1.ts").content == other["v/s1.ts"]
    assert on_ipfs.play("film", "v/s1.ts?revision=1").content == SEGMENT, "somebody is in the middle of it"
    on_ipfs.ask("DELETE", "/v1/videos/film", params={"reason": "over"}, headers=on_ipfs.bearer).raise_for_status()
    for revision in (1, 2):
        assert on_ipfs.play("film", f"v/s1.ts?revision={revision}").status_code == 410


def test_a_revision_that_was_overtaken_plays_on_as_long_as_s3_has_it(staged: Gateway) -> None:
    first = staged.world.store.latest_upload("film")
    assert first is not None
    assert post(staged, as_files(package("film two")), "?video_id=film").status_code == 202
    second = staged.world.store.latest_upload("film")
    assert second is not None
    staged.world.walk(second)
    assert staged.play("film", "v/s1.ts?revision=1").content == SEGMENT
    staged.world.step("clear_temp_storage", first, "clear:test")
    assert staged.play("film", "v/s1.ts?revision=1").status_code == 404


def test_a_viewer_who_takes_nothing_is_cut_off(gateway_with: Callable[..., Gateway]) -> None:
    """Each kept a connection here and one to S3 for as long as it liked."""
    gateway = gateway_with(answer_silence_seconds=0.5)
    files = {**FILES, "v/s1.ts": ts("large", (20 << 20) // 188)}  # more than the kernel buffers
    gateway.world.walk(gateway.world.drop("film", files), "stage", "write_s3_manifest")
    with open_socket(gateway) as viewer:
        viewer.sendall(b"GET /v1/videos/film/play/v/s1.ts HTTP/1.1\r\nHost: x\r\n\r\n")
        number = viewer.getsockname()[1]

        def served() -> bool:
            return any(other.raddr and other.raddr.port == number for other in psutil.Process().net_connections())

        wait_until(served, "the connection")
        wait_until(lambda: not served(), "its end")


def test_a_node_that_falls_silent_is_not_waited_for_while_s3_has_the_file(
    gateway_with: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Players give up after ten seconds; a node counts as down after sixty."""
    monkeypatch.setattr(play, "_PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        gateway = gateway_with(ipfs_rpc_urls=(address,), ipfs_gateway_urls=(address,), ipfs_stall_seconds=3600)
        gateway.world.walk(gateway.world.drop("film", FILES))
        for _ in range(3):
            assert gateway.play("film", "v/s1.ts").content == SEGMENT
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # asked once, it comes last for a while
            silent.accept()


def test_in_redirect_mode_media_comes_from_s3_and_later_from_an_ipfs_gateway(
    gateway_with: Callable[..., Gateway],
) -> None:
    gateway = gateway_with(play="redirect", s3_grace_seconds=3600, presign_seconds=600)
    upload = gateway.world.drop("film", FILES)
    gateway.world.walk(upload, "stage", "write_s3_manifest")
    assert gateway.play("film", "master.m3u8").content == FILES["master.m3u8"], "names in it must lead back to us"
    signed = gateway.play("film", "v/s1.ts")
    assert (signed.status_code, "X-Amz-Signature" in signed.headers["Location"]) == (307, True)
    fetched = requests.get(signed.headers["Location"], timeout=60)
    assert (fetched.content, fetched.headers["Content-Type"]) == (SEGMENT, "video/mp2t")
    assert signed.headers["Cache-Control"] == "private, no-cache", "the next revision may have the name"
    lasting = gateway.play("film", "v/s1.ts?revision=1")
    assert (lasting.status_code, lasting.headers["Cache-Control"]) == (307, "private, max-age=300")
    ours = gateway.ask("HEAD", "/v1/videos/film/play/v/s1.ts")
    assert (ours.status_code, ours.headers["Content-Length"]) == (200, str(len(SEGMENT))), "what is signed is a GET"
    for name in ("If_Match", "If_Range"):
        answer = gateway.play("film", "v/s1.ts", Range="bytes=0-9", **{name: ours.headers["ETag"]})
        assert (answer.status_code, answer.content) == (206, SEGMENT[:10]), "S3 has another ETag"
    gateway.world.walk(upload)
    later = gateway.play("film", "v/s1.ts").headers["Location"]
    assert later.startswith(gateway.settings.ipfs_gateway_urls[0] + "/ipfs/")
    assert later.endswith("?filename=s1.ts.m2ts"), "Debian's table, which Kubo reads, has .ts for something else"
    fetched = requests.get(later, timeout=60)
    assert (fetched.content, fetched.headers["Content-Type"]) == (SEGMENT, "video/mp2t")


def test_a_file_that_lost_its_s3_copy_while_it_is_sent_goes_on_from_ipfs(staged: Gateway) -> None:
    """The clean-up may fall between finding out where a file is and reading it."""
    services = connect(staged.settings)
    found = services.records.playable("film", "v/s1.ts", "media")
    upload = staged.world.store.latest_upload("film")
    assert upload is not None
    staged.world.walk(upload)
    staged.world.step("clear_temp_storage", upload, "clear:test")
    assert b"".join(play._pieces(services, "film", found, 100, len(SEGMENT))) == SEGMENT[100:]
