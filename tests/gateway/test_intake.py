"""Packages sent in one request: what is answered, what is in S3 then, and that a refused one leaves nothing."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import sqlalchemy as sa

from hls_pipeline import clock, keys, lifecycle, object_store, tables
from hls_pipeline.drops import DropSource
from hls_pipeline.gateway import idempotency
from hls_pipeline.gateway.access import Scope
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.revisions import hash_bytes
from hls_pipeline.uploads import State
from tests.gateway.conftest import Gateway
from tests.services import Files, package, published, ts, wait_until

FILES = package("film")
PROFILE = PROFILES["unixfs-v1-2025"]


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return buffer.getvalue()


def tarred(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def as_files(files: Files) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path, data)) for path, data in files.items()]


def post(gateway: Gateway, parts: Iterable[Any], query: str = "", **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.ask("POST", f"/v1/videos{query}", files=list(parts), headers={**gateway.bearer, **named})


def leftovers(gateway: Gateway) -> set[str]:
    """What packages that came or were to come left where they wait, finished or in parts."""
    store = gateway.world.objects
    parts = store._client.list_multipart_uploads(Bucket="media").get("Uploads", ())
    waiting = (keys.ARRIVALS, keys.PRESIGNED)
    return {key for key in gateway.world.media() if key.startswith(waiting)} | {item["Key"] for item in parts}


@pytest.mark.parametrize(
    "parts",
    [
        as_files(FILES),
        [("package", ("p.zip", zipped(FILES)))],
        [("package", ("p.tar", tarred(FILES)))],
        [("package", ("p.tar.gz", tarred(FILES, "w:gz")))],
    ],
    ids=["files", "zip", "tar", "tar.gz"],
)
def test_a_package_is_answered_with_its_temporary_document_and_plays_at_once(
    gateway: Gateway, parts: list[Any]
) -> None:
    answer = post(gateway, parts, "?video_id=film")
    assert answer.status_code == 202
    document = answer.json()
    assert document == gateway.world.document("film")
    assert (document["status"], document["title"], document["revision"]) == ("processing", "film", 1)
    for path, data in published(FILES).items():
        assert gateway.play("film", path).content == data
    assert leftovers(gateway) == set()
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    assert upload in gateway.world.store.ready_to_run(upload.updated_at), "the pipeline goes on by itself"
    assert gateway.world.walk(upload).state is State.PUBLISHED


def test_metadata_beside_the_package_replaces_its_own_and_may_name_the_video(gateway: Gateway) -> None:
    metadata = json.dumps({"video_id": "named", "title": "Übung", "mine": [1, 2]})
    answer = post(gateway, [("metadata", (None, metadata)), *as_files(FILES)])
    document = answer.json()
    assert (answer.status_code, document["video_id"], document["title"]) == (202, "named", "Übung")
    assert document["mine"] == [1, 2]


def test_the_packages_own_metadata_may_name_the_video_and_the_order_of_parts_is_free(gateway: Gateway) -> None:
    files = {**FILES, "metadata.json": b'{"video_id": "inside"}'}
    assert post(gateway, as_files(files)).json()["video_id"] == "inside"
    nested = {f"my_video/{path}": data for path, data in package("nested").items()}
    nested["my_video/metadata.json"] = b'{"video_id": "nested"}'
    assert post(gateway, as_files(nested)).json()["video_id"] == "nested"
    parts = [*as_files(package("two")), ("video_id", (None, "later"))]
    assert post(gateway, parts).json()["video_id"] == "later"


def test_two_video_ids_must_agree(gateway: Gateway) -> None:
    answer = post(gateway, [("metadata", (None, '{"video_id": "a"}')), *as_files(FILES)], "?video_id=b")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert leftovers(gateway) == set()


def test_large_files_go_up_in_parts(gateway: Gateway) -> None:
    large = {**FILES, "v/s1.ts": ts("large", 9 * (1 << 20) // 188)}
    answer = post(gateway, as_files(large), "?video_id=film")
    assert answer.status_code == 202
    assert gateway.play("film", "v/s1.ts").content == large["v/s1.ts"]
    zipped_answer = post(gateway, [("package", ("p.zip", zipped(large)))], "?video_id=zipped")
    assert zipped_answer.status_code == 202
    assert gateway.play("zipped", "v/s1.ts").content == large["v/s1.ts"]


@pytest.mark.parametrize(
    "form", [as_files, lambda files: [("package", ("p.zip", zipped(files)))]], ids=["files", "zip"]
)
def test_the_content_ids_are_those_of_the_bytes_that_came_in_and_nothing_is_read_back(
    gateway: Gateway, form: Callable[[Files], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    unwatched = DropSource.read

    def watched(self: DropSource, path: str, limit: int | None = None) -> Iterator[bytes]:
        read.append(path)
        return unwatched(self, path, limit)

    monkeypatch.setattr(DropSource, "read", watched)
    files = {**FILES, "v/s1.ts": ts("large", 9 * (1 << 20) // 188)}
    assert post(gateway, form(files), "?video_id=film").status_code == 202
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    cids = {file.path: file.cid for file in gateway.world.store.inventory(upload.upload_id)}
    assert cids == {path: str(hash_bytes(data, PROFILE)[0].cid) for path, data in published(files).items()}
    assert not [path for path in read if path.endswith(".ts")], "no segment"


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
def test_bytes_damaged_on_the_way_to_s3_are_not_taken(gateway: Gateway, operation: str) -> None:
    def damage(request: Any, **_: Any) -> None:
        request.body = b"\x48" + bytes(request.body)[1:]

    events = object_store.client(gateway.settings).meta.events
    events.register(f"before-send.s3.{operation}", damage)
    try:
        files = {**FILES, "v/s1.ts": ts("large", 9 * (1 << 20) // 188)}
        answer = post(gateway, as_files(files), "?video_id=film")
    finally:
        events.unregister(f"before-send.s3.{operation}", damage)
    assert answer.status_code == 503
    assert leftovers(gateway) == set()


def test_no_lifecycle_rule_looks_where_files_are_put_that_will_be_renamed(gateway: Gateway) -> None:
    """SeaweedFS can note at the put that an object ends in 30 days, and the renamed object would end then."""
    post(gateway, as_files(FILES), "?video_id=film")
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    rules = lifecycle.media_rules(gateway.settings)
    prefixes = [
        rule["Filter"]["Prefix"]
        for rule in rules
        if "Days" in rule.get("Expiration", {}) and "Tag" not in rule["Filter"]
    ]
    assert prefixes
    assert not upload.drop.prefix.startswith(tuple(prefixes))


def test_a_server_that_no_longer_knows_how_to_rename_has_the_files_copied(gateway: Gateway) -> None:
    """It says that all is well, and has empty objects: the gateway believed it, and removed what it had put."""

    def unknown(request: Any, **_: Any) -> None:
        request.url = request.url.replace("?renameObject", "")

    assert post(gateway, as_files(FILES), "?video_id=first").status_code == 202
    events = object_store.client(gateway.settings).meta.events
    events.register("before-sign.s3.RenameObject", unknown)
    try:
        answer = post(gateway, as_files(FILES), "?video_id=film")
        later = post(gateway, as_files(FILES), "?video_id=later")
    finally:
        events.unregister("before-sign.s3.RenameObject", unknown)
    assert (answer.status_code, answer.json()["status"]) == (202, "received")
    assert (later.status_code, later.json()["status"]) == (202, "processing"), "it was found out again"
    upload = gateway.world.walk(gateway.world.store.upload(answer.headers["Upload-Id"]))
    assert {path: gateway.world.from_gateway(f"{upload.root}/{path}") for path in published(FILES)} == published(FILES)
    assert leftovers(gateway) == set()


def test_names_keep_their_characters(gateway: Gateway) -> None:
    files = {
        "master.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nf%C3%BCr%20%22uns%22.ts\n#EXT-X-ENDLIST\n",
        'für "uns".ts': ts("x"),
    }
    answer = post(gateway, as_files(files), "?video_id=film")
    assert answer.status_code == 202, answer.text
    assert gateway.play("film", "f%C3%BCr%20%22uns%22.ts").content == ts("x")


def test_the_same_package_again_changes_nothing_and_is_told_the_current_document(gateway: Gateway) -> None:
    post(gateway, as_files(FILES), "?video_id=film")
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    gateway.world.walk(upload)
    again = post(gateway, as_files(FILES), "?video_id=film")
    assert (again.status_code, again.json()["status"]) == (200, "ready")
    assert leftovers(gateway) == set()


def test_a_refused_package_answers_with_the_whole_report_and_leaves_nothing(gateway: Gateway) -> None:
    broken = {**FILES, "master.m3u8": FILES["master.m3u8"] + b"<script>.m3u8\n"}
    del broken["v/s1.ts"]
    answer = post(gateway, as_files(broken), "?video_id=film")
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "package_refused"
    assert "URI_MISSING_FILE" in [error["code"] for error in problem["report"]["errors"]]
    assert gateway.world.media() == set()


# ---- the same request again -----------------------------------------------------------------------------------------


def test_a_request_sent_again_gets_the_first_answer_and_happens_once(gateway: Gateway) -> None:
    parts = as_files(FILES)
    first = post(gateway, parts, "?video_id=film", Idempotency_Key="once")
    again = post(gateway, parts, "?video_id=film", Idempotency_Key="once")
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    for name in ("Location", "Upload-Id"):
        assert again.headers[name] == first.headers[name]
    assert len(gateway.world.store.uploads_of("film")) == 1
    other = post(gateway, as_files(package("other")), "?video_id=other", Idempotency_Key="once")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_another_package_of_the_same_length_is_no_repeat(gateway: Gateway) -> None:
    """It got the answer of the first, and was lost: a title was corrected by one letter."""
    one, two = (
        [*as_files(FILES), ("metadata", (None, json.dumps({"title": title})))] for title in ("Aurora", "Aurara")
    )
    assert post(gateway, one, "?video_id=film", Idempotency_Key="once").status_code == 202
    other = post(gateway, two, "?video_id=film", Idempotency_Key="once")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert post(gateway, one, "?video_id=film", Idempotency_Key="once").headers["Idempotency-Replayed"] == "true"


def test_a_request_that_failed_may_be_sent_again_with_its_key(gateway: Gateway) -> None:
    bad = post(gateway, [("nonsense", (None, "x"))], Idempotency_Key="again")
    assert bad.status_code == 400
    good = post(gateway, as_files(FILES), Idempotency_Key="again")
    assert good.status_code == 202


def test_a_request_that_died_with_its_gateway_may_be_sent_again(gateway: Gateway) -> None:
    """For six hours it was said to be under way."""
    key_id, ago = gateway.key.split("_")[1], clock.now() - timedelta(minutes=2)
    gateway.records.begin(key_id, "died", "POST of somebody who is gone", ago, timedelta(0))
    assert post(gateway, as_files(FILES), Idempotency_Key="died").status_code == 202


def test_a_request_under_way_says_so_itself_again_and_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_BEAT_SECONDS", 0.02)

    def heard_of() -> datetime:
        with gateway.world.store.reading() as db:
            moment: datetime = db.execute(sa.select(tables.idempotency.c.created_at)).scalar_one()
            return moment

    with StuckUpload(gateway, gateway.key, "Idempotency-Key: slow"):
        began = heard_of()
        wait_until(lambda: heard_of() > began, "a sign of life")


# ---- who may -----------------------------------------------------------------------------------------------------


def test_sending_needs_a_key_that_may_write(gateway: Gateway) -> None:
    without = gateway.ask("POST", "/v1/videos", files=as_files(FILES))
    assert (without.status_code, without.json()["code"]) == (401, "key_required")
    reading = gateway.ask("POST", "/v1/videos", files=as_files(FILES), headers=gateway.make_key(Scope.READ))
    assert (reading.status_code, reading.json()["code"]) == (403, "scope_missing")


def test_a_video_belongs_to_the_key_that_first_used_it(gateway: Gateway) -> None:
    one, two = gateway.make_key(Scope.WRITE), gateway.make_key(Scope.WRITE)
    assert gateway.ask("POST", "/v1/videos?video_id=film", files=as_files(FILES), headers=one).status_code == 202
    for query in ("?video_id=film", ""):
        parts = [("video_id", (None, "film")), *as_files(package("other"))]
        answer = gateway.ask("POST", f"/v1/videos{query}", files=parts, headers=two)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_video")
    assert leftovers(gateway) == set()
    assert len(gateway.world.store.uploads_of("film")) == 1


@pytest.mark.parametrize(("values", "status"), [({"revoked_at": clock.now()}, 401), ({"scopes": ["read"]}, 403)])
def test_a_key_that_may_send_no_more_meanwhile_has_sent_nothing(
    gateway: Gateway, values: dict[str, Any], status: int
) -> None:
    """A leaked key has an upload of hours under way when it is revoked."""
    key = gateway.make_key(Scope.WRITE)["Authorization"].removeprefix("Bearer ")
    path, data = "master.m3u8", FILES["master.m3u8"]
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
    body %= path.encode(), data
    with open_socket(gateway) as client:
        client.sendall(head(gateway, key, len(body)) + body[:-5])
        wait_until(lambda: "hls_gateway_uploads 1.0" in gateway.get("/metrics").text, "the upload to begin")
        with gateway.world.store.writing() as db:
            db.execute(sa.update(tables.api_key).filter_by(key_id=key.split("_")[1]).values(**values))
        client.sendall(body[-5:])
        assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status)
    assert leftovers(gateway) == set()
    assert gateway.world.store.videos() == ()


def test_one_key_sends_so_many_packages_at_once_and_others_go_on(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(uploads_per_key=1)
    with StuckUpload(gateway, gateway.key):
        answer = post(gateway, as_files(FILES))
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_uploads")
        other = gateway.make_key(Scope.WRITE)
        assert gateway.ask("POST", "/v1/videos", files=as_files(FILES), headers=other).status_code == 202


def test_no_more_packages_are_taken_while_the_queue_is_full(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(queue_length=1)
    first = post(gateway, as_files(FILES), "?video_id=film", Idempotency_Key="first")
    assert first.status_code == 202
    announced = {"files": [{"path": "a.ts", "size": 1}]}
    refused = [
        post(gateway, as_files(package("other"))),
        gateway.ask("POST", "/v1/uploads", json=announced, headers=gateway.bearer),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) > 0
    again = post(gateway, as_files(FILES), "?video_id=film", Idempotency_Key="first")
    assert (again.status_code, again.json()) == (202, first.json()), "what was taken stays taken"
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    gateway.world.walk(upload)
    assert post(gateway, as_files(package("other"))).status_code == 202
    assert leftovers(gateway) == set()


# ---- hostile input ------------------------------------------------------------------------------------------------


def link_in_zip() -> bytes:
    buffer = io.BytesIO(zipped(FILES))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("v/link.ts")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def link_in_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("v/link.ts")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([("package", ("p.zip", zipped({**FILES, "../../evil.ts": b"G"})))], "PKG_PATH_UNSAFE"),
        ([("package", ("p.tar", tarred({**FILES, "/abs.ts": b"G"})))], "PKG_PATH_UNSAFE"),
        ([("package", ("p.zip", link_in_zip()))], "PKG_LINK"),
        ([("package", ("p.tar", link_in_tar()))], "PKG_LINK"),
        ([("package", ("p.zip", zipped({"seg.ts": bytes(200_000_000)})))], "PKG_RATIO"),
        ([("package", ("p.zip", zipped({})))], "PKG_NO_PLAYLIST"),
        ([("package", ("p.zip", b"PK\x03\x04" + bytes(300)))], "PKG_BAD_ARCHIVE"),
        ([("package", ("p.zip", b"just text"))], "PKG_BAD_ARCHIVE"),
        ([("package", ("p.zip", b""))], "PKG_BAD_ARCHIVE"),
        (as_files({**FILES, "../evil.ts": b"G"}), "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "/etc/passwd": b"G"}), "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "v\\s.ts": b"G"}), "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "C:\\v\\s.ts": b"G"}), "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "_READY\n": b"G"}), "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "_READY": b'{"upload_id": "x"}'}), "PKG_PATH_UNSAFE"),
        ([("package", ("p.zip", zipped({**FILES, "_REJECTED.json": b"{}"})))], "PKG_PATH_UNSAFE"),
        (as_files({**FILES, "": b"G"}), None),
        ([*as_files(FILES), ("files", ("v/s1.ts", b"again"))], "PKG_DUPLICATE_PATH"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unsafe_package_is_refused_and_leaves_nothing(stern: Gateway, parts: list[Any], code: str | None) -> None:
    answer = post(stern, parts, "?video_id=film")
    assert answer.status_code in (400, 422), answer.text
    if code:
        assert [error["code"] for error in answer.json()["report"]["errors"]] == [code]
    assert leftovers(stern) == set()
    assert stern.get("/healthz").status_code == 200


def test_ten_thousand_tiny_files_in_an_archive_are_refused(stern: Gateway) -> None:
    answer = post(stern, [("package", ("p.zip", zipped({f"{n}.ts": b"G" for n in range(10_000)})))])
    assert answer.status_code == 422
    assert answer.json()["report"]["errors"][0]["code"] == "PKG_TOO_MANY_FILES"
    assert leftovers(stern) == set()


def test_too_many_tiny_files_are_refused_while_they_come(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(upload_files=100)
    answer = post(gateway, as_files({f"{n}.ts": b"G" for n in range(1000)}))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("package: at most 100 files")
    assert answer.json()["report"]["errors"][0]["code"] == "PKG_TOO_MANY_FILES"
    assert leftovers(gateway) == set()


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(upload_bytes=1000)
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, 1 << 40))
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_length_ends_at_the_limit(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(upload_bytes=1000)

    def endless() -> Iterable[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.ts"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 20)

    headers = {**gateway.bearer, "Content-Type": "multipart/form-data; boundary=b"}
    answer = gateway.ask("POST", "/v1/videos", data=endless(), headers=headers)
    assert answer.status_code == 413, "we hear of it although we were still sending"
    wait_until(lambda: not leftovers(gateway), "nothing to be left")


def test_a_body_that_nobody_wants_any_more_is_not_read_to_its_end(
    stern: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was given at once, but all of the body was taken, for as long as somebody sent it."""
    monkeypatch.setattr("hls_pipeline.gateway.server._LINGER_SECONDS", 0.5)
    with open_socket(stern) as client:
        client.sendall(head(stern, "no-key", 1 << 50))
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")
        wait_until(lambda: not takes_more(client), "the end")


def takes_more(client: socket.socket) -> bool:
    try:
        client.sendall(bytes(1000))
    except OSError:
        return False
    return True


def test_a_client_that_goes_away_leaves_nothing(gateway: Gateway) -> None:
    for sent in (100, 1 << 20, 9 << 20):
        with open_socket(gateway) as client:
            client.sendall(head(gateway, gateway.key, 1 << 30))
            client.sendall(
                b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.ts"\r\n\r\n' + bytes(sent)
            )
            if sent == 9 << 20:
                wait_until(lambda: leftovers(gateway), "the first part")
        wait_until(lambda: not leftovers(gateway), "nothing to be left")
    assert gateway.world.store.videos() == ()
    assert post(gateway, as_files(FILES)).status_code == 202


def test_a_client_that_falls_silent_is_cut_off(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(body_silence_seconds=0.3)
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, 1 << 20) + b"--b\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert leftovers(gateway) == set()


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(gateway_with: Callable[..., Gateway]) -> None:
    """Each byte ended the silence: eight such clients held all places of a key for `HLS_UPLOAD_SECONDS`."""
    gateway = gateway_with(body_silence_seconds=0.5, upload_seconds=3600)
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, 1 << 20) + b"--b\r\n")
        client.settimeout(0.05)
        while not (answer := _received(client)):
            client.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert leftovers(gateway) == set()


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(4096)
    except TimeoutError:
        return b""


def test_a_head_that_never_ends_is_cut_off_and_others_are_served(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(head_seconds=1)
    with open_socket(gateway) as endless, open_socket(gateway) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        endless.sendall(b"GET / HTTP/1.1\r\n")
        endless.sendall((b"X-Filler: " + b"x" * 1000 + b"\r\n") * 3000)
        assert problem_in(endless)["code"] == "head_too_large"
        assert gateway.get("/healthz").status_code == 200
        slow.settimeout(60)
        assert slow.recv(100) == b""


def test_trailers_that_never_end_are_cut_off(gateway: Gateway) -> None:
    """Each was kept, as long as somebody sent them."""
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        client.sendall(b"5\r\n--b\r\n\r\n0\r\n" + b"X: y\r\n" * 200_000)
        assert problem_in(client)["code"] == "head_too_large"


def test_what_is_no_request_gets_a_problem_document(gateway: Gateway) -> None:
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, "-5"))
        assert problem_in(client)["code"] == "bad_request"


@pytest.mark.parametrize("headers", ["", "Host: one\r\nHost: two\r\n", "Host: one\r\n" + "Authorization: x\r\n" * 2])
def test_a_request_without_a_host_or_with_two_says_nothing_for_sure(stern: Gateway, headers: str) -> None:
    """Of two a proxy in front may take the other one."""
    with open_socket(stern) as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\n{headers}\r\n".encode())
        assert problem_in(client)["code"] == "bad_request"


def test_requests_one_behind_the_other_are_all_answered(gateway: Gateway) -> None:
    """More of them than a head may be long, in one go, were cut off without a word."""
    with open_socket(gateway) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(client).count(b"HTTP/1.1 200 ") == 3001


def test_a_client_that_is_done_with_sending_hears_the_answer(gateway: Gateway) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.ts"\r\n\r\nG\r\n--b--\r\n'
    with open_socket(gateway) as client:
        client.sendall(head(gateway, gateway.key, len(body)) + body)
        client.shutdown(socket.SHUT_WR)
        assert problem_in(client)["code"] == "package_refused"


def problem_in(client: socket.socket) -> Any:
    answer, _, text = everything(client).partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json" in answer
    return json.loads(text)


def everything(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"--b--", 415),
        ("multipart/form-data; boundary=b", b"nonsense", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 100, 400),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 100_000, 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--b--',
            400,
        ),
        ("multipart/form-data; boundary=" + "b" * 200, b"x", 415),
    ],
)
def test_a_body_that_is_no_form_gets_a_clear_4xx(stern: Gateway, kind: str, content: bytes, status: int) -> None:
    answer = stern.ask("POST", "/v1/videos", data=content, headers={**stern.bearer, "Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert leftovers(stern) == set()


@pytest.mark.parametrize(
    ("length", "content"),
    [
        ("40", b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.ts"\r\n\r\nG\r\n--b--\r\n'),
        ("-1", b"--b--\r\n"),
        ("12x", b"--b--\r\n"),
        ("9" * 40, b"--b--\r\n"),
        ("7\r\nContent-Length: 8", b"--b--\r\n"),
        ("7\r\nTransfer-Encoding: chunked", b"--b--\r\n"),
    ],
    ids=["too short", "negative", "no number", "beyond all", "two", "and chunked"],
)
def test_a_wrong_content_length_gets_a_clear_4xx(stern: Gateway, length: str, content: bytes) -> None:
    with open_socket(stern) as client:
        client.sendall(head(stern, stern.key, length) + content)
        assert client.recv(4096).startswith(b"HTTP/1.1 4")
    assert stern.get("/healthz").status_code == 200
    assert leftovers(stern) == set()


def test_a_mark_that_somebody_forged_for_a_gateway_upload_is_a_plain_mark(gateway: Gateway) -> None:
    """Whoever can write to the inbox still cannot speak for the gateway: what the mark says is never read."""
    post(gateway, as_files(FILES), "?video_id=film")
    upload = gateway.world.store.latest_upload("film")
    assert upload is not None
    forged = json.dumps({"upload_id": upload.upload_id}).encode()
    gateway.world.put("film", {"_READY": forged})
    gateway.world.put("other", {"_READY": forged, **package("other")})
    gateway.world.put("other", {"_READY": forged})
    arrived, _ = gateway.world.receive()
    assert [item.video_id for item in arrived] == ["other"]
    assert arrived[0].upload_id != upload.upload_id
    assert gateway.world.store.upload(upload.upload_id) == upload
    assert gateway.world.walk(upload).state is State.PUBLISHED


def test_metadata_that_is_too_large_is_refused_while_it_comes(stern: Gateway) -> None:
    answer = post(stern, [("metadata", (None, "x" * 1_000_000)), *as_files(FILES)])
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_an_upload_while_another_run_holds_the_video_waits_for_it(gateway: Gateway) -> None:
    """The second package must neither be refused nor overtake: it is staged once the video is free."""
    first = gateway.world.drop("film", package("first"))
    lease = gateway.world.store.take_lease(first, "path:run", first.created_at, 3600)
    gateway.world.store.renew(lease, first.created_at, 7200)
    answers: list[requests.Response] = []
    sender = threading.Thread(target=lambda: answers.append(post(gateway, as_files(FILES), "?video_id=film")))
    sender.start()
    time.sleep(0.7)
    assert answers == []
    gateway.world.store.release(lease)
    sender.join(60)
    assert answers[0].status_code == 202


# ---- bare connections ---------------------------------------------------------------------------------------------


def head(gateway: Gateway, key: str, length: int | str) -> bytes:
    return (
        f"POST /v1/videos HTTP/1.1\r\nHost: {urlsplit(gateway.url).netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def open_socket(gateway: Gateway) -> socket.socket:
    parts = urlsplit(gateway.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


class StuckUpload:
    """An upload that has begun and does not go on."""

    def __init__(self, gateway: Gateway, key: str, header: str = "X: y") -> None:
        self._socket = open_socket(gateway)
        self._socket.sendall(head(gateway, key, f"{1 << 20}\r\n{header}") + b"--b\r\n")
        wait_until(lambda: "hls_gateway_uploads 1.0" in gateway.get("/metrics").text, "the upload to begin")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._socket.close()
