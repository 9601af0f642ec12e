"""Packages sent straight to S3: resumable, in parts where large, and frozen when they are completed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests

from hls_pipeline import clock, keys
from hls_pipeline.errors import ObjectMissing
from hls_pipeline.gateway import presigned, sweep
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.s3 import GatewayStore
from hls_pipeline.gateway.services import connect
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Drop, State
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import leftovers
from tests.services import MEDIA, Files, package, published, ts

FILES = package("film")


def begin(gateway: Gateway, files: Files, **more: Any) -> requests.Response:
    listed = [{"path": path, "size": len(data)} for path, data in files.items()]
    return gateway.ask("POST", "/v1/uploads", json={"files": listed, **more}, headers=gateway.bearer)


def put(address: dict[str, Any], data: bytes, part_size: int) -> requests.Response:
    start = (address["part"] - 1) * part_size
    return requests.put(address["url"], data=data[start : start + address["size"]], timeout=60)


def put_all(upload: dict[str, Any], files: Files) -> None:
    for file in upload["files"]:
        for address in file["urls"]:
            put(address, files[file["path"]], upload["part_size"]).raise_for_status()


def complete(gateway: Gateway, upload_id: str) -> requests.Response:
    return gateway.ask("POST", f"/v1/uploads/{upload_id}/complete", headers=gateway.bearer)


def test_a_package_is_sent_to_s3_and_completed_with_its_temporary_document(gateway: Gateway) -> None:
    files = published(FILES)
    begun = begin(gateway, files, metadata={"title": "Direct", "video_id": "film"})
    assert begun.status_code == 201, begun.text
    put_all(begun.json(), files)
    answer = complete(gateway, begun.json()["id"])
    assert (answer.status_code, answer.json()) == (202, gateway.world.document("film"))
    assert answer.json()["title"] == "Direct"
    for path, data in files.items():
        assert gateway.play("film", path).content == data
    assert leftovers(gateway) == set()
    again = complete(gateway, begun.json()["id"])
    assert (again.status_code, again.json()) == (202, answer.json())
    assert len(gateway.world.store.uploads_of("film")) == 1


def test_an_upload_that_is_begun_again_with_its_key_is_the_same_one_with_new_addresses(gateway: Gateway) -> None:
    files = published(FILES)
    listed = [{"path": path, "size": len(data)} for path, data in files.items()]
    headers = {**gateway.bearer, "Idempotency-Key": "one"}

    def again(**more: Any) -> requests.Response:
        return gateway.ask("POST", "/v1/uploads", json={"files": listed, **more}, headers=headers)

    first = again()
    (done, *left) = first.json()["files"]
    put(done["urls"][0], files[done["path"]], 1 << 26).raise_for_status()
    repeat = again()
    assert (repeat.status_code, repeat.json()["id"]) == (201, first.json()["id"])
    assert repeat.headers["Location"] == first.headers["Location"]
    assert repeat.headers["Idempotency-Replayed"] == "true"
    assert [file["path"] for file in repeat.json()["files"]] == [file["path"] for file in left], "still to be sent"
    other = again(video_id="another")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    gateway.ask("DELETE", first.headers["Location"], headers=gateway.bearer)
    assert again().status_code == 404


def test_addresses_name_s3_as_senders_and_viewers_reach_it(gateway_with: Callable[..., Gateway], s3: Settings) -> None:
    """They named S3 as the gateway reaches it, which outside of its network is nowhere."""
    assert s3.s3_endpoint is not None
    public = s3.s3_endpoint.replace("127.0.0.1", "localhost")
    gateway = gateway_with(public_s3_endpoint=public, play="redirect", s3_grace_seconds=3600)
    begun = begin(gateway, FILES, video_id="film").json()
    assert {url["url"].split("/media/")[0] for file in begun["files"] for url in file["urls"]} == {public}
    put_all(begun, FILES)
    assert complete(gateway, begun["id"]).status_code == 202
    address = gateway.play("film", "v/s1.ts").headers["Location"]
    assert address.startswith(public)
    assert requests.get(address, timeout=60).content == FILES["v/s1.ts"]
    assert public in gateway.get("/").headers["Content-Security-Policy"]


def test_what_is_missing_is_told_and_can_be_sent_later(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presigned, "_PART", 5 << 20)
    files = {**FILES, "v/s1.ts": ts("large", 12 * (1 << 20) // 188)}
    begun = begin(gateway, files, video_id="film").json()
    by_path = {file["path"]: file for file in begun["files"]}
    parts = by_path["v/s1.ts"]["urls"]
    assert [part["size"] for part in parts] == [5 << 20, 5 << 20, len(files["v/s1.ts"]) - (10 << 20)]
    put(parts[1], files["v/s1.ts"], begun["part_size"]).raise_for_status()
    put(by_path["master.m3u8"]["urls"][0], files["master.m3u8"], begun["part_size"]).raise_for_status()
    early = complete(gateway, begun["id"])
    assert (early.status_code, early.json()["code"]) == (409, "incomplete")
    assert "v/s1.ts" in early.json()["missing"]
    rest = gateway.ask("GET", f"/v1/uploads/{begun['id']}", headers=gateway.bearer).json()
    still = {file["path"]: [part["part"] for part in file["urls"]] for file in rest["files"]}
    assert "master.m3u8" not in still
    assert still["v/s1.ts"] == [1, 3]
    put_all(rest, files)
    nothing = gateway.ask("GET", f"/v1/uploads/{begun['id']}", headers=gateway.bearer).json()
    assert nothing["files"] == [], "parts that are all there are not missing; `submit` gave up on every such file"
    assert complete(gateway, begun["id"]).status_code == 202
    assert gateway.play("film", "v/s1.ts").content == files["v/s1.ts"]


def test_an_address_takes_no_more_than_was_announced(gateway: Gateway) -> None:
    begun = begin(gateway, FILES, video_id="film").json()
    address = begun["files"][0]["urls"][0]
    assert requests.put(address["url"], data=bytes(address["size"] + 1), timeout=60).status_code == 403


def test_an_address_that_outlives_completion_changes_nothing(gateway: Gateway) -> None:
    begun = begin(gateway, FILES, video_id="film").json()
    put_all(begun, FILES)
    assert complete(gateway, begun["id"]).status_code == 202
    segment = next(file for file in begun["files"] if file["path"] == "v/s1.ts")
    requests.put(segment["urls"][0]["url"], data=bytes(segment["size"]), timeout=60)
    assert gateway.play("film", "v/s1.ts").content == FILES["v/s1.ts"]
    assert gateway.get("/v1/videos/film").json()["revision"] == 1


def test_an_upload_whose_gateway_died_while_completing_it_is_complete_once_the_pipeline_went_on(
    gateway: Gateway,
) -> None:
    """All of its files were said to be missing, because they lie elsewhere by then, and `submit` sent them again."""
    begun = begin(gateway, FILES, video_id="film").json()
    put_all(begun, FILES)
    now = clock.now()
    assert gateway.records.begin_completion(begun["id"], now, timedelta(minutes=10))
    prefix = keys.presigned(begun["id"])
    drop = Drop("film", MEDIA, prefix, tuple(gateway.world.objects.listing(MEDIA, prefix)), now)
    upload = gateway.world.store.receive(drop, now)
    early = complete(gateway, begun["id"])
    assert (early.status_code, early.json()["code"]) == (409, "completing")
    gateway.world.walk(upload)
    assert leftovers(gateway) == set()
    about = gateway.ask("GET", f"/v1/uploads/{begun['id']}", headers=gateway.bearer).json()
    assert (about["complete"], about["files"]) == (True, [])
    answer = complete(gateway, begun["id"])
    assert (answer.status_code, answer.headers["Upload-Id"]) == (202, upload.upload_id)


def test_a_refused_package_answers_with_its_report_each_time(gateway: Gateway) -> None:
    broken = {path: data for path, data in FILES.items() if path != "v/s1.ts"}
    begun = begin(gateway, broken, video_id="film").json()
    put_all(begun, broken)
    for _ in range(2):
        answer = complete(gateway, begun["id"])
        assert answer.status_code == 422
        assert [error["code"] for error in answer.json()["report"]["errors"]] == ["URI_MISSING_FILE"]
    assert leftovers(gateway) == set()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"files": []}', 400),
        (b'{"files": [{"path": "a.ts", "size": -1}]}', 400),
        (b'{"files": [{"path": "a.ts", "size": 1e999}]}', 400),
        (b'{"files": [{"path": "a.ts", "size": "1"}]}', 400),
        (b'{"files": [{"path": "a.ts", "size": 1}], "video_id": "../x"}', 400),
        (b'{"files": [{"path": "../a.ts", "size": 1}]}', 422),
        (b'{"files": [{"path": "a.ts", "size": 1}, {"path": "a.ts", "size": 1}]}', 422),
        (b'{"files": [{"path": "a.ts", "size": 99999999999999}]}', 413),
        (b'{"files": [{"path": "a.ts", "size": 1}], "video_id": "a", "video_id": "b"}', 400),
        (b'{"files": [{"path": "a.ts", "size": 1}], "metadata": {"title": "a", "title": "b"}}', 400),
        (b'{"files": [{"path": "a.ts", "size": 1}], "metadata": {"a": NaN}}', 422),
        (b'{"files": [{"path": "a.ts", "size": 1}], "metadata": {"status": "ready"}}', 422),
        (b" " * (9 << 20), 413),
        (b"[" * 100_000, 400),
    ],
)
def test_nonsense_is_refused(stern: Gateway, body: bytes, status: int) -> None:
    answer = stern.ask("POST", "/v1/uploads", data=body, headers=stern.bearer)
    assert answer.status_code == status, answer.text
    assert leftovers(stern) == set()


def test_a_forged_upload_id_leads_nowhere(gateway: Gateway) -> None:
    """Neither a guess, nor the id of an arrival, nor a way out of the path."""
    arrival = gateway.world.drop("film", FILES).upload_id
    for forged in (arrival, "0" * 32, "..%2f..%2ffilm", "_" * 3000):
        for method, path in (("GET", ""), ("POST", "/complete"), ("DELETE", "")):
            answer = gateway.ask(method, f"/v1/uploads/{forged}{path}", headers=gateway.bearer)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), forged
    assert gateway.world.store.upload(arrival).state is State.RECEIVED


def test_the_uploads_of_others_are_not_there(gateway: Gateway) -> None:
    begun = begin(gateway, FILES, video_id="film").json()
    other = gateway.make_key(Scope.WRITE)
    for method, path in (("GET", ""), ("POST", "/complete"), ("DELETE", "")):
        assert gateway.ask(method, f"/v1/uploads/{begun['id']}{path}", headers=other).status_code == 404


def test_a_key_has_only_so_many_uploads_open_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a place in S3 and up to five thousand addresses, for hours."""
    monkeypatch.setattr(presigned, "_OPEN_PER_KEY", 2)
    first, _ = (begin(gateway, FILES).json()["id"] for _ in range(2))
    refused = begin(gateway, FILES)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_uploads")
    gateway.ask("DELETE", f"/v1/uploads/{first}", headers=gateway.bearer).raise_for_status()
    assert begin(gateway, FILES).status_code == 201


def test_what_is_given_up_or_forgotten_is_removed(gateway: Gateway, gateway_with: Callable[..., Gateway]) -> None:
    begun = begin(gateway, FILES, video_id="film").json()
    put_all(begun, FILES)
    assert gateway.ask("DELETE", f"/v1/uploads/{begun['id']}", headers=gateway.bearer).status_code == 204
    assert leftovers(gateway) == set()
    forgotten = begin(gateway, FILES, video_id="film").json()
    put_all(forgotten, FILES)
    gateway.world.objects.put("media", "_uploads/died/a.ts", b"G", "video/mp2t")
    gateway.world.objects.put("media", "_arrivals/died/a.ts", b"G", "video/mp2t")
    services = connect(gateway.settings)
    sweep.sweep(services, clock.now())
    assert len(leftovers(gateway)) == len(FILES) + 2, "nothing is removed while it may still be wanted"
    later = clock.now() + timedelta(days=2)
    services.records.begin_completion(forgotten["id"], later, timedelta(minutes=10))
    sweep.sweep(services, later)
    assert len(leftovers(gateway)) == len(FILES), "nor while somebody just completes it"
    services.records.end_completion(forgotten["id"], None)
    sweep.sweep(services, later)
    assert leftovers(gateway) == set()
    assert complete(gateway, forgotten["id"]).status_code == 404


def test_an_upload_that_may_take_days_keeps_its_parts_for_days(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(upload_seconds=3 * 86_400)
    body = {"video_id": "film", "files": [{"path": "long.ts", "size": 100 << 20}]}
    begun = gateway.ask("POST", "/v1/uploads", json=body, headers=gateway.bearer).json()
    sweep.sweep(connect(gateway.settings), clock.now() + timedelta(days=2))
    again = gateway.ask("GET", f"/v1/uploads/{begun['id']}", headers=gateway.bearer)
    assert again.status_code == 200
    assert [part["part"] for part in again.json()["files"][0]["urls"]] == [1, 2]
    gateway.ask("DELETE", f"/v1/uploads/{begun['id']}", headers=gateway.bearer).raise_for_status()


def test_parts_that_another_gateway_gave_up_are_gone_and_no_refusal(s3: Settings) -> None:
    """Two gateways sweep at once; what S3 then says ended the sweep of one of them."""
    objects = GatewayStore.of(GatewaySettings(**s3.model_dump()))
    parts_id = objects.begin_parts("media", "_uploads/both/a.ts", "video/mp2t", checked=False)
    objects.abort_parts("media", "_uploads/both/")
    with pytest.raises(ObjectMissing):
        objects.parts("media", "_uploads/both/a.ts", parts_id)


def test_where_somebody_keeps_versions_none_of_what_is_removed_stays(s3: Settings) -> None:
    """A delete that names no version only hides the bytes, and they are paid for for ever."""
    objects = GatewayStore.of(GatewaySettings(**s3.model_dump()))
    bucket = f"media-{secrets.token_hex(4)}"
    objects._client.create_bucket(Bucket=bucket)
    objects.keep_versions(bucket)
    for data in (b"one", b"two"):
        objects.put(bucket, "_uploads/a/a.ts", data, "video/mp2t")
    objects.remove_all(bucket, "_uploads/a/")
    assert list(objects.versions(bucket, "")) == []
