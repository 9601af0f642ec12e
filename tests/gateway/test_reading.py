"""What readers get: health, keys, documents, versions, proof, and the shape of every refusal."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import Request
from typer.testing import CliRunner

from hls_pipeline import clock, tables
from hls_pipeline.cli import app
from hls_pipeline.errors import Outage
from hls_pipeline.gateway import access
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.last_use import LastUse
from hls_pipeline.gateway.limits import Limits
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.records import Records
from hls_pipeline.settings import Settings
from tests.gateway.conftest import Gateway, serving
from tests.services import World, package, wait_until


def test_a_healthy_gateway_says_so(gateway: Gateway) -> None:
    assert gateway.get("/healthz").json() == {"status": "ok"}
    ready = gateway.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["services"].values()) == {"ok"}


def test_readyz_names_the_service_that_is_missing_and_no_address(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(ipfs_rpc_urls=("http://127.0.0.1:9",), ipfs_gateway_urls=("http://127.0.0.1:9",))
    ready = gateway.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["services"]["ipfs 0"] == "service_unavailable"
    assert "127.0.0.1" not in ready.text


def test_readyz_names_a_service_that_neither_answers_nor_refuses(
    gateway_with: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited as long as the service did, and so told nobody which one it was."""
    monkeypatch.setattr("hls_pipeline.gateway.readiness._PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        gateway = gateway_with(ipfs_rpc_urls=(address,), ipfs_gateway_urls=(address,))
        wait_until(lambda: gateway.get("/readyz").json()["services"]["database"] == "ok", "the others")
        for _ in range(5):
            assert gateway.get("/readyz").json()["services"]["ipfs 0"] == "no_answer"
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # all of them shared one look
            silent.accept()


def test_a_refusal_is_a_problem_document_with_a_stable_code(gateway: Gateway) -> None:
    answer = gateway.get("/v1/videos/nobody", X_Request_ID="my-id")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "my-id"
    assert answer.json() == {
        "type": "urn:hls-pipeline:problem:not_found",
        "title": "Not Found",
        "status": 404,
        "code": "not_found",
        "detail": "video nobody: not known here",
        "request_id": "my-id",
    }


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 404, "not_found"),
        ("/v1/videos/..%2f..%2fetc", 404, "not_found"),
        ("/v1/videos/%00", 400, "bad_request"),
        ("/?after=%00", 400, "bad_request"),
        ("/v1/videos/x?as_of=2026", 400, "bad_request"),
        ("/v1/videos?limit=0", 400, "bad_request"),
        ("/v1/videos?after=%3Cscript%3E", 400, "bad_request"),
        ("/v1/videos/x?as_of=yesterday", 400, "bad_request"),
        ("/v1/videos?limit=1&limit=2", 400, "bad_request"),
        ("/v1/videos/x?as_of=0001-01-01T00:00:00%2B14:00", 400, "bad_request"),
    ],
)
def test_nonsense_gets_a_clear_4xx(stern: Gateway, path: str, status: int, code: str) -> None:
    answer = stern.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_what_can_be_read_answers_head_without_a_body(gateway: Gateway) -> None:
    gateway.world.publish_package("film", package("film"))
    for path in ("/healthz", "/readyz", "/v1/videos", "/v1/videos/film", "/v1/videos/film/status", "/videos/film"):
        answer = gateway.ask("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0


def test_a_page_of_another_site_is_told_what_it_may_not_ask(stern: Gateway) -> None:
    wanted = {"Origin": "https://example.com", "Access-Control-Request-Method": "DELETE"}
    answer = stern.ask("OPTIONS", "/v1/videos/film", headers=wanted)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_an_outage_behind_the_gateway_is_a_503_that_names_no_address(
    gateway_with: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = gateway_with(database_url=f"sqlite:///{tmp_path}/nowhere/else.sqlite")
    answer = gateway.get("/v1/videos")
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert str(tmp_path) not in answer.text
    assert "Retry-After" in answer.headers


# ---- keys -------------------------------------------------------------------------------------------------------


def test_reading_needs_a_key_unless_it_is_public(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(public_read=False)
    assert gateway.get("/v1/videos").json()["code"] == "key_required"
    assert gateway.ask("GET", "/v1/videos", headers=gateway.make_key(Scope.READ)).status_code == 200


@pytest.mark.parametrize("key", ["", "hls__", "hls_abc_def", "nonsense", "hls_" + "a" * 3000, "hls_%00_é"])
def test_a_key_that_is_none_is_refused_even_where_reading_is_public(stern: Gateway, key: str) -> None:
    answer = stern.ask("GET", "/v1/videos", headers={"Authorization": f"Bearer {key}".encode()})
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_key")


def test_only_the_hash_of_a_key_is_stored(gateway: Gateway) -> None:
    secret = gateway.key.split("_", 2)[2]
    (stored,) = gateway.records.all_keys()
    assert secret not in repr(stored)


def test_a_revoked_key_and_its_sessions_end_at_once(gateway: Gateway) -> None:
    records, now = gateway.records, clock.now()
    session = access.open_session(records, gateway.key, now)
    assert session is not None
    assert access.find_key(records, session, now) is not None
    records.revoke_key(gateway.key.split("_")[1], now)
    assert access.find_key(records, gateway.key, now) is None
    assert access.find_key(records, session, now) is None


def test_a_session_may_do_what_its_key_may_do_now(gateway: Gateway) -> None:
    """It kept the scopes of the moment in which somebody signed in, whatever the key lost since."""
    session = access.open_session(gateway.records, gateway.key, clock.now())
    headers = {"Cookie": f"{access.COOKIE}={session}", "Origin": gateway.url}
    assert gateway.ask("GET", "/v1/webhooks", headers=headers).status_code == 200
    with gateway.world.store.writing() as db:
        db.execute(sa.update(tables.api_key).filter_by(session_of=None).values(scopes=["read"]))
    assert gateway.ask("GET", "/v1/webhooks", headers=headers).json()["code"] == "scope_missing"


def test_who_follows_with_a_key_that_is_revoked_is_told_no_more(
    gateway_with: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hls_pipeline.gateway.events._ASK_AGAIN_SECONDS", 0)
    gateway = gateway_with(public_read=False)
    upload = gateway.world.drop("film", package("film"))
    with gateway.ask("GET", "/v1/videos/film/events", headers=gateway.bearer, stream=True) as stream:
        lines = stream.iter_lines(chunk_size=1)
        assert any(line.startswith(b"data:") for line in lines)
        gateway.records.revoke_key(gateway.key.split("_")[1], clock.now())
        gateway.world.walk(upload)
        assert [line for line in lines if line] == []


def test_one_follower_too_many_is_told_to_come_back(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer had begun before anybody counted, so that it was 200 and broke off."""
    gateway.world.drop("film", package("film"))
    monkeypatch.setattr("hls_pipeline.gateway.followers._FOLLOWERS", 0)
    answer = gateway.get("/v1/videos/film/events")
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert "Retry-After" in answer.headers


def test_a_key_keeps_its_videos_through_another_secret_other_scopes_and_its_use_is_seen(
    gateway: Gateway, as_environment: Callable[[Settings], None]
) -> None:
    """A key that had leaked could only be revoked, and its videos were nobody's but the administrator's then."""
    as_environment(gateway.world.settings)
    old, session = gateway.key, access.open_session(gateway.records, gateway.key, clock.now())
    key_id = old.split("_")[1]
    new = {"Authorization": f"Bearer {keys('rotate', key_id)}"}
    for former in (old, session):
        answer = gateway.ask("GET", "/v1/webhooks", headers={"Authorization": f"Bearer {former}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_key")
    made = gateway.ask("POST", "/v1/webhooks", headers=new, json={"url": "https://example.com/"}).json()
    assert made["id"] in gateway.ask("GET", "/v1/webhooks", headers=new).text
    assert keys("scopes", key_id, "read") == f"{key_id} may read"
    assert gateway.ask("GET", "/v1/webhooks", headers=new).json()["code"] == "scope_missing"
    keys("make", "for a day", "--days", "1")
    keys("make", "for no time", "--days", "0")
    shown = keys("list").splitlines()
    assert [line.split()[1] for line in shown] == ["in", "in", "expired"]
    assert ["never ends" in line for line in shown] == [True, False, False]
    ends = gateway.records.all_keys()[1].expires_at
    assert ends
    assert f"ends {clock.seconds_text(ends)}" in shown[1]
    assert CliRunner().invoke(app, ["keys", "make", "for ever", "--days", "1e9"]).exit_code == 2, "no date is so late"


def test_when_a_key_was_last_used_is_on_record_once_its_gateway_has_stopped(world: World) -> None:
    with serving(world) as gateway:
        assert gateway.ask("GET", "/v1/videos", headers=gateway.bearer).status_code == 200
        gateway.make_key(Scope.READ)
    used, unused = gateway.records.all_keys()
    assert used.last_used_at is not None
    assert used.last_used_at >= used.created_at
    assert unused.last_used_at is None


def test_a_use_that_cannot_be_written_now_is_written_later(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Outage("no database")

    records = gateway.records
    (key,) = records.all_keys()
    uses = LastUse(records)
    uses.note(key.key_id)
    with monkeypatch.context() as patch:
        patch.setattr(Records, "note_use", away)
        with pytest.raises(Outage):
            uses.write()
    uses.write()
    (key,) = records.all_keys()
    assert key.last_used_at is not None


def keys(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_the_local_key_is_made_once_and_again_when_it_was_revoked(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    key = access.ensure_local_key(gateway.world.store, path)
    assert access.ensure_local_key(gateway.world.store, path) == key
    assert path.stat().st_mode & 0o077 == 0
    gateway.records.revoke_key(key.split("_")[1], clock.now())
    assert access.ensure_local_key(gateway.world.store, path) != key


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(requests_per_minute=5)
    answers = [gateway.get("/v1/videos") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    late = answers[-1]
    assert late.json()["code"] == "too_many_requests"
    assert 11 <= int(late.headers["Retry-After"]) <= 12
    assert gateway.ask("GET", "/v1/videos", headers=gateway.bearer).status_code == 200, "others are not concerned"


def test_who_comes_back_when_told_to_is_not_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was rounded down."""
    now = 1000.0
    monkeypatch.setattr("hls_pipeline.gateway.limits.time.monotonic", lambda: now)
    limits = Limits(GatewaySettings(requests_per_minute=7, bytes_per_hour=1000))
    for count, ask in ((7, lambda: limits.count_request("a")), (10, lambda: limits.count_bytes("a", 100))):
        for _ in range(count):
            ask()
        with pytest.raises(Refused) as refused:
            ask()
        now += int(refused.value.headers["Retry-After"]) - 1
        with pytest.raises(Refused):
            ask()
        now += 1
        ask()


def test_bytes_are_counted_exactly_and_before_they_are_sent(gateway_with: Callable[..., Gateway]) -> None:
    """A key's last upload could be as large as it liked, when it came by presigned addresses."""
    gateway = gateway_with(bytes_per_hour=10_000)
    presigned = {"files": [{"path": "master.m3u8", "size": 6_000}]}
    answers = [gateway.ask("POST", "/v1/uploads", json=presigned, headers=gateway.bearer) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 429]
    assert 700 <= int(answers[1].headers["Retry-After"]) <= 720, "2,000 bytes flow in meanwhile"
    more = {"files": [{"path": "master.m3u8", "size": 10_001}]}
    assert gateway.ask("POST", "/v1/uploads", json=more, headers=gateway.bearer).json()["code"] == "too_large"
    head = f"Authorization: {gateway.bearer['Authorization']}\r\nContent-Type: multipart/form-data; boundary=b"
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as client:
        client.sendall(f"POST /v1/videos HTTP/1.1\r\nHost: x\r\n{head}\r\nContent-Length: 5000\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 429 "), "nothing of the body was sent"


def test_bytes_that_never_came_are_not_counted(gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(bytes_per_hour=10_000, body_silence_seconds=0.2)
    head = f"Authorization: {gateway.bearer['Authorization']}\r\nContent-Type: multipart/form-data; boundary=b"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as client:
            client.sendall(f"POST /v1/videos HTTP/1.1\r\nHost: x\r\n{head}\r\nContent-Length: 9000\r\n\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("host", "known"),
    [("203.0.113.9", "203.0.113.9"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("::ffff:203.0.113.9", "203.0.113.9")],
)
def test_all_addresses_of_one_ipv6_client_share_its_limits(host: str, known: str) -> None:
    assert access.address_of(Request({"type": "http", "headers": [], "client": (host, 1)})) == known


def test_a_trusted_proxy_is_believed_whom_it_asks_for_and_nobody_else_is(gateway_with: Callable[..., Gateway]) -> None:
    """All viewers behind one proxy shared one limit, and a session begun over https had a cookie for http."""
    behind = gateway_with(requests_per_minute=2, trusted_proxies=("127.0.0.1",))
    viewers = ["203.0.113.1"] * 5 + ["203.0.113.2"]
    statuses = [behind.get("/v1/videos", X_Forwarded_For=viewer).status_code for viewer in viewers]
    assert statuses[-2:] == [429, 200]
    headers = {"Origin": "https://videos.example", "Host": "videos.example", "X-Forwarded-Proto": "https"}
    cookies = []
    for gateway in (behind, gateway_with()):
        answer = gateway.ask("POST", "/session", data={"key": gateway.key}, headers=headers)
        cookies.append("; Secure" in answer.headers["Set-Cookie"])
    assert cookies == [True, False]


# ---- documents --------------------------------------------------------------------------------------------------


def test_a_video_goes_from_its_temporary_to_its_final_document(gateway: Gateway) -> None:
    world = gateway.world
    upload = world.drop("film", package("film"))
    assert gateway.get("/v1/videos/film").json() == {"video_id": "film", "revision": None, "status": "received"}
    world.walk(upload, "stage", "write_s3_manifest")
    assert gateway.get("/v1/videos/film").json() == world.document("film")
    assert gateway.get("/v1/videos/film").json()["status"] == "processing"
    world.walk(upload)
    final = gateway.get("/v1/videos/film").json()
    assert final == world.document("film")
    assert final["status"] == "ready"


def test_an_etag_saves_the_answer_until_something_changes(gateway: Gateway) -> None:
    upload = gateway.world.drop("film", package("film"))
    gateway.world.walk(upload, "stage", "write_s3_manifest")
    first = gateway.get("/v1/videos/film")
    again = gateway.get("/v1/videos/film", If_None_Match=first.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    gateway.world.walk(upload)
    assert gateway.get("/v1/videos/film", If_None_Match=first.headers["ETag"]).status_code == 200


def test_nothing_is_given_or_withdrawn_that_is_not_what_if_match_names(gateway: Gateway) -> None:
    """A newer revision came: who meant to take back the one before must look again."""
    gateway.world.publish_package("film", package("film"))
    seen = gateway.get("/v1/videos/film").headers["ETag"]
    assert gateway.get("/v1/videos/film", If_Match=seen).status_code == 200
    gateway.world.publish_package("film", package("newer"))
    for method in ("GET", "HEAD", "DELETE"):
        for names in (seen, f"W/{gateway.get('/v1/videos/film').headers['ETag']}"):
            headers = {**gateway.bearer, "If-Match": names}
            assert gateway.ask(method, "/v1/videos/film", headers=headers).status_code == 412
    now = {**gateway.bearer, "If-Match": gateway.get("/v1/videos/film").headers["ETag"]}
    assert gateway.ask("DELETE", "/v1/videos/film", headers=now).status_code == 200


def test_every_document_stays_readable_by_number_and_by_time(gateway: Gateway) -> None:
    gateway.world.publish_package("film", package("film"))
    versions = gateway.get("/v1/videos/film/versions").json()["versions"]
    assert [version["document"]["status"] for version in versions] == ["processing", "ready"]
    assert gateway.get("/v1/videos/film/versions/2").json() == versions[1]
    assert gateway.get("/v1/videos/film/versions/3").status_code == 404
    for version in versions:
        then = gateway.get(f"/v1/videos/film?as_of={version['time']}")
        assert then.json() == version["document"]
    assert gateway.get("/v1/videos/film?as_of=2001-01-01T00:00:00Z").status_code == 404


def test_a_refused_video_shows_its_report(gateway: Gateway) -> None:
    broken = package("film")
    del broken["v/s1.ts"]
    gateway.world.walk(gateway.world.drop("film", broken), "stage")
    shown = gateway.get("/v1/videos/film").json()
    assert shown["status"] == "rejected"
    assert [error["code"] for error in shown["report"]["errors"]] == ["URI_MISSING_FILE"]


def test_proof_names_the_nodes_that_hold_it(gateway: Gateway) -> None:
    upload = gateway.world.publish_package("film", package("film"))
    proof = gateway.get("/v1/videos/film/proof").json()
    assert proof["directory"] == upload.root
    assert {item["root"] for item in proof["proofs"]} >= {upload.root}
    assert proof["deletions"] == []
    gateway.world.step("clear_temp_storage", upload, "clear:test")
    assert len(gateway.get("/v1/videos/film/proof").json()["deletions"]) == 1


def test_the_list_pages_by_id(gateway: Gateway) -> None:
    for video_id in ("a", "b", "c"):
        gateway.world.drop(video_id, package(video_id))
    first = gateway.get("/v1/videos?limit=2").json()
    assert [item["video_id"] for item in first["videos"]] == ["a", "b"]
    rest = gateway.get(f"/v1/videos?limit=2&after={first['next']}").json()
    assert ([item["video_id"] for item in rest["videos"]], rest["next"]) == (["c"], None)


def test_status_tells_steps_and_percent(gateway: Gateway) -> None:
    upload = gateway.world.drop("film", package("film"))
    gateway.world.walk(upload, "stage", "write_s3_manifest")
    status = gateway.get("/v1/videos/film/status").json()
    assert status["state"] == "staged"
    assert 30 <= status["percent"] < 85
    assert [step["done"] for step in status["steps"]] == [True, True, False, False, False]
    gateway.world.walk(upload)
    assert gateway.get("/v1/videos/film/status").json()["percent"] == 100


def test_hostile_text_in_metadata_comes_back_as_json_and_nothing_else(gateway: Gateway) -> None:
    files = {**package("film"), "metadata.json": json.dumps({"title": "<script>alert(1)</script>"}).encode()}
    gateway.world.publish_package("film", files)
    answer = gateway.get("/v1/videos/film")
    assert answer.json()["title"] == "<script>alert(1)</script>"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


# ---- withdrawing ------------------------------------------------------------------------------------------------


def test_a_withdrawn_video_is_served_to_nobody_and_its_history_stays(gateway: Gateway) -> None:
    gateway.world.publish_package("film", package("film"))
    answer = gateway.ask("DELETE", "/v1/videos/film?reason=mistake", headers=gateway.bearer)
    assert (answer.status_code, answer.json()["left"]) == (200, 0)
    assert gateway.get("/v1/videos/film").json()["status"] == "withdrawn"
    assert gateway.play("film", "master.m3u8").status_code in (404, 410)
    assert gateway.get("/videos/film").status_code == 200
    versions = gateway.get("/v1/videos/film/versions").json()["versions"]
    assert [version["document"]["status"] for version in versions] == ["processing", "ready", "withdrawn"]


def test_only_its_owner_withdraws_a_video(gateway: Gateway) -> None:
    gateway.world.publish_package("film", package("film"))
    assert gateway.ask("DELETE", "/v1/videos/film").status_code == 401
    foreign = gateway.ask("DELETE", "/v1/videos/film", headers=gateway.make_key(Scope.WRITE))
    assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign_video")
    assert gateway.ask("DELETE", "/v1/videos/nobody", headers=gateway.bearer).status_code == 404
    assert gateway.get("/v1/videos/film").json()["status"] == "ready"
