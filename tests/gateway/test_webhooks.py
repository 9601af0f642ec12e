"""Webhooks: signed, sent again until they are answered, and never a way into our own network."""

from __future__ import annotations

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

import pytest

from hls_pipeline import clock
from hls_pipeline.errors import UsageError
from hls_pipeline.gateway import access, outbound
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.records import Records
from hls_pipeline.gateway.webhook_records import Webhook, WebhookRecords
from tests.gateway.conftest import Gateway
from tests.services import World, package, wait_until


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
    hooks.add(Webhook("a", key_id, None, "https://example.com/", "secret", ("video.processing",), began, 0))
    world.walk(world.drop("before", package("before")), "stage", "write_s3_manifest")
    assert hooks.enqueue(clock.now()) == 1
    records.revoke_key(key_id, clock.now())
    world.walk(world.drop("after", package("after")), "stage", "write_s3_manifest")
    later = clock.now() + timedelta(days=1)
    assert hooks.enqueue(later) == 0
    assert hooks.claim_due(later, timedelta(minutes=2)) == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8333/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
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
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert outbound.is_public(ipaddress.ip_address(address)) is public


def test_the_webhooks_of_others_are_not_there(gateway: Gateway) -> None:
    url = "https://example.com/hook"
    made = gateway.ask("POST", "/v1/webhooks", json={"url": url}, headers=gateway.make_key(Scope.WRITE)).json()
    other = gateway.make_key(Scope.WRITE)
    assert gateway.ask("GET", "/v1/webhooks", headers=other).json() == {"webhooks": []}
    assert gateway.ask("DELETE", f"/v1/webhooks/{made['id']}", headers=other).status_code == 404
    assert gateway.ask("GET", f"/v1/webhooks/{made['id']}/deliveries", headers=other).status_code == 404


def test_metrics_show_requests_stages_and_how_far_estimates_were_off(gateway: Gateway) -> None:
    gateway.get("/v1/videos")
    gateway.world.publish_package("film", package("film"))
    wait_until(lambda: "hls_estimate_off_seconds_count 1.0" in gateway.get("/metrics").text, "the estimate")
    text = gateway.get("/metrics").text
    assert 'hls_gateway_request_seconds_count{method="GET",route="/v1/videos",status="200"} 1.0' in text
    assert 'hls_stage_seconds_count{state="staged"} 1.0' in text
    assert gateway.key not in text
