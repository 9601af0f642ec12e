"""Webhooks: signed, sent again until they are answered, and never a way into our own network."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import generate_latest

from hls_pipeline import clock, tables
from hls_pipeline.errors import NotFound, Outage, UsageError
from hls_pipeline.gateway import access, deliveries, outbound
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.deliveries import ATTEMPTS, Observer, signature
from hls_pipeline.gateway.records import Records
from hls_pipeline.gateway.services import connect
from hls_pipeline.gateway.webhook_records import Outcome, Webhook, WebhookRecords
from hls_pipeline.uploads import back_off
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import as_files, leftovers, post
from tests.gateway.test_presigned import begin, complete, put_all
from tests.services import World, package, published, wait_until


@dataclass
class Receiver:
    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses to give, then 200."""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((dict(self.headers), body))
            self.send_response(made.answers.pop(0) if made.answers else 200)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_is_told_each_change_signed(gateway_with: Callable[..., Gateway], receiver: Receiver) -> None:
    gateway = gateway_with(webhook_private=True)
    gateway.world.publish_package("before", package("before"))
    made = gateway.ask("POST", "/v1/webhooks", json={"url": receiver.url}, headers=gateway.bearer).json()
    upload = gateway.world.publish_package("film", package("film"))
    gateway.world.step("clear_temp_storage", upload, "clear:test")
    wait_until(lambda: len(receiver.got) == 3, "three deliveries")
    told = [json.loads(body) for _, body in receiver.got]
    assert {item["event"] for item in told} == {"video.processing", "video.ready", "video.cleared"}
    assert {item["video_id"] for item in told} == {"film"}, "not what was before"
    headers, body = receiver.got[0]
    seconds, _, signed = headers["HLS-Signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(made["secret"].encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    assert signed == expected
    listed = gateway.ask("GET", "/v1/webhooks", headers=gateway.bearer).json()["webhooks"]
    assert "secret" not in listed[0]


def test_what_was_not_answered_is_on_record_and_can_be_sent_again(
    gateway_with: Callable[..., Gateway], receiver: Receiver
) -> None:
    gateway = gateway_with(webhook_private=True)
    receiver.answers = [500]
    wanted = {"url": receiver.url, "events": ["video.ready"], "video_id": "film"}
    made = gateway.ask("POST", "/v1/webhooks", json=wanted, headers=gateway.bearer).json()
    gateway.world.publish_package("other", package("other"))
    gateway.world.publish_package("film", package("film"))
    log = f"/v1/webhooks/{made['id']}/deliveries"

    def deliveries() -> list[dict[str, object]]:
        found: list[dict[str, object]] = gateway.ask("GET", log, headers=gateway.bearer).json()["deliveries"]
        return found

    wait_until(lambda: deliveries() and deliveries()[0]["attempts"] == 1, "the first try")
    (first,) = deliveries()
    assert (first["answer"], first["delivered_at"]) == ("answered 500", None)
    assert first["next_try"] is not None
    assert gateway.ask("POST", f"{log}/{first['id']}/resend", headers=gateway.bearer).status_code == 202
    wait_until(lambda: deliveries()[0]["delivered_at"], "the second try")
    assert len(receiver.got) > 1
    assert {json.loads(body)["id"] for _, body in receiver.got} == {first["id"]}


def test_a_receiver_may_be_away_for_a_night() -> None:
    """Ten tries were over after 43 minutes."""
    pauses = [back_off(n, deliveries._FIRST_PAUSE_SECONDS, deliveries._LONGEST_PAUSE_SECONDS) for n in range(ATTEMPTS)]
    assert timedelta(hours=20) < sum(pauses[:-1], timedelta()) < timedelta(hours=24)


def test_one_delivery_that_cannot_be_sent_at_all_does_not_repeat_the_others(
    gateway_with: Callable[..., Gateway], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = outbound.post

    def broken(url: str, *arguments: Any, **more: Any) -> int:
        if url.endswith("broken"):
            raise RuntimeError("a mistake of ours")
        return sent(url, *arguments, **more)

    monkeypatch.setattr(outbound, "post", broken)
    gateway = gateway_with(webhook_private=True)
    wanted = {"events": ["video.ready"]}
    for url in (receiver.url, receiver.url + "broken"):
        assert gateway.ask("POST", "/v1/webhooks", json={**wanted, "url": url}, headers=gateway.bearer).ok
    gateway.world.publish_package("film", package("film"))
    records = WebhookRecords(gateway.world.store)
    hooks = records.of_key(gateway.key.split("_")[1])

    def answers() -> dict[str, int]:
        log = [each for hook in hooks for each in records.deliveries(hook.webhook_id)]
        return {each.answer: each.attempts for each in log if each.answer}

    wait_until(lambda: len(answers()) == 2, "both")
    assert answers() == {"answered 200": 1, "it could not be sent: RuntimeError": 1}


def test_a_redirect_is_not_followed(gateway_with: Callable[..., Gateway], receiver: Receiver) -> None:
    gateway = gateway_with(webhook_private=True)
    receiver.answers = [307]
    made = gateway.ask("POST", "/v1/webhooks", json={"url": receiver.url}, headers=gateway.bearer).json()
    gateway.world.walk(gateway.world.drop("film", package("film")), "stage", "write_s3_manifest")
    log = f"/v1/webhooks/{made['id']}/deliveries"
    wait_until(
        lambda: any(
            item["answer"] == "answered 307"
            for item in gateway.ask("GET", log, headers=gateway.bearer).json()["deliveries"]
        ),
        "the refusal",
    )
    assert len({headers["HLS-Delivery"] for headers, _ in receiver.got}) == 1


def test_a_revoked_key_is_told_nothing_more(world: World) -> None:
    """Neither what happens later, nor what was to be sent already."""
    records, hooks, began = Records(world.store), WebhookRecords(world.store), clock.now()
    key_id = access.make_key(records, "former partner", frozenset({Scope.ADMIN}), began).split("_")[1]
    hooks.add(Webhook("a", key_id, None, "https://example.com/", "secret", ("video.processing",), began))
    world.walk(world.drop("before", package("before")), "stage", "write_s3_manifest")
    assert hooks.enqueue(clock.now()) == 1
    records.revoke_key(key_id, clock.now())
    world.walk(world.drop("after", package("after")), "stage", "write_s3_manifest")
    later = clock.now() + timedelta(days=1)
    assert hooks.enqueue(later) == 0
    assert hooks.claim_due(later, timedelta(minutes=2), 9) == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8333/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://[64:ff9b::7f00:1]/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://user:password@example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "http://example.com:99999/",
        "http://example.com/\r\nX: y",
        "//example.com",
        "",
    ],
)
def test_an_address_that_is_not_to_be_reached_is_refused(stern: Gateway, url: str) -> None:
    answer = stern.ask("POST", "/v1/webhooks", json={"url": url}, headers=stern.bearer)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_webhook")


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001"])
def test_a_name_that_leads_to_our_own_network_is_refused_when_something_is_sent(host: str, receiver: Receiver) -> None:
    """The name may have looked harmless when the webhook was made: what counts is where it leads now."""
    with pytest.raises(UsageError):
        outbound.post(receiver.url.replace("127.0.0.1", host), b"{}", {}, private=False)
    assert receiver.got == []


def test_a_name_that_changes_its_mind_after_the_check_gains_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 stands for a public address here. It is what the name says first; later it says 127.0.0.1."""
    port = int(receiver.url.split(":")[2].partition("/")[0])
    answers = iter(["127.0.0.2"])
    looked_up: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        looked_up.append(host)
        address = next(answers, "127.0.0.1") if host == "rebinding.example" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(outbound, "is_public", lambda address: str(address) == "127.0.0.2")
    with socket.create_server(("127.0.0.2", port)) as checked:
        thread = threading.Thread(target=answer_once, args=(checked,))
        thread.start()
        assert outbound.post(f"http://rebinding.example:{port}/hook", b"{}", {}, private=False) == 204
        thread.join()
    assert looked_up.count("rebinding.example") == 1
    assert receiver.got == []


def test_a_host_is_reached_by_whichever_of_its_addresses_answers(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a host with IPv6 and IPv4, a machine without IPv6 always tried the IPv6 address, and no other."""
    port = int(receiver.url.split(":")[2].partition("/")[0])
    addresses = {"both.example": ["::1", "127.0.0.1"]}

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses.get(host, [host])
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert outbound.post(f"http://both.example:{port}/hook", b"{}", {}, private=True) == 200
    addresses["both.example"] = ["::1"]
    with pytest.raises(Outage):
        outbound.post(f"http://both.example:{port}/hook", b"{}", {}, private=True)


def test_of_an_answer_without_end_only_the_beginning_is_read() -> None:
    """Ten seconds of it kept the gateway as busy as all its viewers."""
    sent = 0

    def continue_for_ever(listener: socket.socket) -> None:
        nonlocal sent
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            while True:
                sent += client.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=continue_for_ever, args=(listener,))
        thread.start()
        with pytest.raises(Outage):
            outbound.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"{}", {}, private=True)
        thread.join()
    assert sent < 20 << 20, "what the buffers between us hold, not what ten seconds bring"


def answer_once(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b:1::7f00:1", False),
        ("5f00::1", False),
        ("3fff::1", False),
        ("::ffff:93.184.216.34", True),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert outbound.is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "[::ffff:0:169.254.169.254]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "168.63.129.16",
    ],
)
def test_where_private_addresses_are_allowed_those_of_machine_keys_are_not(host: str) -> None:
    """A local stack allows private ones, and in a cloud 169.254.169.254 gives the machine's own keys away."""
    outbound.check_url("http://127.0.0.1:8333/hook", private=True)
    with pytest.raises(UsageError, match="public"):
        outbound.check_url(f"http://{host}/", private=True)


def test_the_webhooks_of_others_are_not_there(gateway: Gateway) -> None:
    url = "https://example.com/hook"
    made = gateway.ask("POST", "/v1/webhooks", json={"url": url}, headers=gateway.make_key(Scope.WRITE)).json()
    other = gateway.make_key(Scope.WRITE)
    assert gateway.ask("GET", "/v1/webhooks", headers=other).json() == {"webhooks": []}
    assert gateway.ask("DELETE", f"/v1/webhooks/{made['id']}", headers=other).status_code == 404
    assert gateway.ask("GET", f"/v1/webhooks/{made['id']}/deliveries", headers=other).status_code == 404


def test_metrics_show_requests_stages_and_how_far_estimates_were_off(gateway: Gateway) -> None:
    gateway.get("/v1/videos")
    for method in ("PROPFIND", "MKCOL", "REPORT"):
        assert gateway.ask(method, "/v1/videos").status_code == 405
    text = gateway.get("/metrics").text
    assert 'hls_gateway_request_seconds_count{method="other",route="/v1/videos",status="405"} 3.0' in text
    assert 'hls_gateway_request_seconds_count{method="GET",route="/v1/videos",status="200"} 1.0' in text
    assert gateway.key not in text
    services = connect(gateway.settings)
    observer = Observer(services)  # the gateway's own looks when it likes
    observer.look()
    gateway.world.publish_package("film", package("film"))
    observer.look()
    text = generate_latest(services.metrics.registry).decode()
    assert "hls_estimate_off_seconds_count 1.0" in text
    assert 'hls_stage_seconds_count{state="staged"} 1.0' in text


# ---- of one upload --------------------------------------------------------------------------------------------------


def named(url: str) -> dict[str, Any]:
    return {"url": url, "secret": "sixteen letters and more"}


def told(receiver: Receiver) -> set[tuple[str, str]]:
    bodies = [json.loads(body) for _, body in receiver.got]
    return {(body["video_id"], body["event"]) for body in bodies}


@pytest.mark.parametrize("way", ["form", "presigned"])
def test_a_webhook_named_with_an_upload_is_told_of_that_one_alone(
    gateway_with: Callable[..., Gateway], receiver: Receiver, way: str
) -> None:
    gateway = gateway_with(webhook_private=True)
    if way == "form":
        parts = [("webhook", (None, json.dumps(named(receiver.url)))), *as_files(package("film"))]
        answer = post(gateway, parts, "?video_id=film")
    else:
        files = published(package("film"))
        begun = begin(gateway, files, video_id="film", webhook=named(receiver.url)).json()
        put_all(begun, files)
        answer = complete(gateway, begun["id"])
        assert complete(gateway, begun["id"]).status_code == 202
    assert answer.status_code == 202
    upload_id = answer.headers["Upload-Id"]
    gateway.world.walk(gateway.world.store.upload(upload_id))
    gateway.world.publish_package("film", package("other"))
    wait_until(lambda: len(receiver.got) == 2, "two deliveries")
    assert told(receiver) == {("film", "video.processing"), ("film", "video.ready")}
    assert {json.loads(body)["upload_id"] for _, body in receiver.got} == {upload_id}
    headers, body = receiver.got[0]
    seconds = headers["HLS-Signature"].removeprefix("t=").partition(",")[0]
    assert headers["HLS-Signature"] == signature(named("")["secret"], body, int(seconds))
    log = gateway.ask("GET", f"/v1/webhooks/{upload_id}/deliveries", headers=gateway.bearer).json()["deliveries"]
    assert [item["event"] for item in log] == ["video.ready", "video.processing"]
    assert gateway.ask("GET", "/v1/webhooks", headers=gateway.bearer).json() == {"webhooks": []}


@pytest.mark.parametrize(
    "webhook",
    [
        '{"url": "http://169.254.169.254/", "secret": "sixteen letters and more"}',
        '{"url": "https://example.com/", "secret": "short"}',
        '{"url": "https://example.com/", "secret": "PostgreSQL takes no \\u0000"}',
        "https://example.com/",
    ],
)
def test_an_upload_that_names_a_bad_webhook_is_refused_and_leaves_nothing(gateway: Gateway, webhook: str) -> None:
    answer = post(gateway, [*as_files(package("film")), ("webhook", (None, webhook))], "?video_id=film")
    assert answer.status_code == 400
    assert leftovers(gateway) == set()
    assert gateway.world.store.uploads_of("film") == ()
    if webhook.startswith("{"):
        assert begin(gateway, package("film"), webhook=json.loads(webhook)).status_code == 400


def test_the_log_of_deliveries_is_thinned_and_nothing_is_told_twice_for_it(world: World) -> None:
    records = WebhookRecords(world.store)
    url, now = "http://127.0.0.1:9/hook", clock.now()
    access.make_key(Records(world.store), "test", frozenset({Scope.ADMIN}), now)
    key_id = Records(world.store).all_keys()[0].key_id
    records.add(Webhook("a" * 32, key_id, None, url, "secret", ("video.processing", "video.cleared"), now))
    video = world.publish_package("film", package("film"))
    records.add(Webhook(video.upload_id, key_id, None, url, "s", ("video.cleared",), now, upload_id=video.upload_id))
    world.step("clear_temp_storage", video, "clear:test")
    later = clock.now() + timedelta(days=31)
    assert records.enqueue(clock.now()) == 3
    assert records.thin(later) == 0, "somebody waits for them"
    for hook in ("a" * 32, video.upload_id):
        records.settle(Outcome(delivery.delivery_id, "given up") for delivery in records.deliveries(hook))
    assert records.thin(now) == 0, "they are young"
    assert records.thin(later) == 1, "that of the upload; the others would be made again"
    with pytest.raises(NotFound):
        records.webhook(video.upload_id)
    assert len(records.deliveries("a" * 32)) == 2
    with world.store.writing() as db:
        db.execute(sa.update(tables.webhook).values(seen=10_000))
    assert records.thin(later) == 2
    assert records.deliveries("a" * 32) == ()
