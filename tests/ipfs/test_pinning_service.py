"""Pinning services, against a small server that does what the published OpenAPI says, and one that does not."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from hls_pipeline import pinning, withdrawal
from hls_pipeline.commands.doctor import check_all
from hls_pipeline.errors import Outage, ProofMissing, ServiceError, ServiceRefused, UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.pinning_service import PinningService, PinState
from hls_pipeline.settings import PinningServiceSettings
from hls_pipeline.upkeep import repinning
from hls_pipeline.uploads import State
from tests.contract.faults import answering, listening, plain
from tests.services import World, package

TOKEN = "s3cret-token"
CID = Cid.of(b"something to pin")


@dataclass
class Service:
    """`/pins` of pinning-services-api-spec 1.0.0. A pin takes one more step towards `pinned` with each look at it."""

    fate: tuple[str, ...] = ("queued", "pinning", "pinned")
    pins: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    endpoint: str = ""

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        request_id = f"request/{len(self.asked)}"
        self.pins[request_id] = {"pin": body, "looks": 0, "created": datetime.now(UTC).isoformat()}
        return self.shown(request_id)

    def shown(self, request_id: str) -> dict[str, Any]:
        pin = self.pins[request_id]
        status = self.fate[min(pin["looks"], len(self.fate) - 1)]
        pin["looks"] += 1
        about = {"requestid": request_id, "status": status, "created": pin["created"], "pin": pin["pin"]}
        return {**about, "delegates": ["/ip4/203.0.113.1/tcp/4001/p2p/QmServicePeerId"], "info": {}}

    def listed(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Without `status`, only pinned ones, newest first, as the specification says."""
        cids = query.get("cid", [""])[0].split(",")
        statuses = query.get("status", ["pinned"])[0].split(",")
        shown = [self.shown(key) for key, pin in self.pins.items() if pin["pin"]["cid"] in cids]
        found = [pin for pin in reversed(shown) if pin["status"] in statuses]
        return {"count": len(found), "results": found[: int(query.get("limit", ["10"])[0])]}


def handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def say(self, status: int, body: Any = None) -> None:
            data = json.dumps(body).encode() if body is not None else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status: int, reason: str) -> None:
            self.say(status, {"error": {"reason": reason, "details": "as the specification says"}})

        def serve(self) -> None:
            url = urlsplit(self.path)
            service.asked.append((self.command, url.path))
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self.refuse(401, "UNAUTHORIZED")
            one = re.fullmatch(r"/psa/pins/([^/]+)", url.path)
            request_id = one and one[1].replace("%2F", "/")
            if request_id and request_id not in service.pins:
                return self.refuse(404, "NOT_FOUND")
            if self.command == "POST" and (not isinstance(body, dict) or not body.get("cid")):
                return self.refuse(400, "BAD_REQUEST")
            if self.command == "GET":
                return self.say(200, service.shown(request_id) if request_id else service.listed(parse_qs(url.query)))
            if request_id:
                del service.pins[request_id]
            return self.say(202, None if self.command == "DELETE" else service.add(body))

        do_GET = do_POST = do_DELETE = serve

    return Handler


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(found)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        found.endpoint = f"http://127.0.0.1:{server.server_port}/psa"
        yield found
        server.shutdown()
        thread.join()


def client(service: Service, token: str = TOKEN) -> PinningService:
    return PinningService("vendor", service.endpoint + "/", token)


def test_a_pin_is_asked_for_and_watched_until_it_is_there(service: Service) -> None:
    vendor = client(service)
    states = [vendor.request(CID, "video r1").state]
    while states[-1] is not PinState.PINNED:
        found = vendor.find(CID)
        assert found
        states.append(found.state)
    assert states == [PinState.QUEUED, PinState.PINNING, PinState.PINNED]
    assert [entry["pin"] for entry in service.pins.values()] == [{"cid": str(CID), "name": "video r1"}]
    assert vendor.unpin(CID)
    assert vendor.find(CID) is None


def test_what_is_under_way_is_not_asked_for_twice(service: Service) -> None:
    vendor = client(service)
    assert vendor.request(CID, "v").request_id == vendor.request(CID, "v").request_id
    assert [method for method, _ in service.asked].count("POST") == 1


def test_what_failed_is_asked_for_again_in_its_place(service: Service) -> None:
    service.fate = ("queued", "failed")
    vendor = client(service)
    first = vendor.request(CID, "v")
    second = vendor.request(CID, "v")
    assert first.request_id != second.request_id
    assert list(service.pins) == [second.request_id]


def test_a_wrong_token_is_refused_for_good_and_never_shown(service: Service) -> None:
    vendor = client(service, "wrong-secret")
    with pytest.raises(ServiceRefused, match="HLS_PINNING_SERVICES") as caught:
        vendor.request(CID, "v")
    assert "wrong-secret" not in str(caught.value)
    assert "wrong-secret" not in repr(vendor)


def _status(**changes: Any) -> bytes:
    good = {"requestid": "1", "status": "pinned", "created": "2026-01-01T00:00:00Z", "pin": {"cid": str(CID)}}
    return json.dumps({"count": 1, "results": [{**good, **changes}]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        plain(b""),
        plain(b"<html>"),
        plain(b"[]"),
        plain(b"[" * 100_000),
        plain(b'{"count":1}'),
        plain(b'{"count":1,"results":{}}'),
        plain(b'{"count":1,"results":[1]}'),
        plain(_status(status="proven")),
        plain(_status(pin={"cid": str(Cid.of(b"something else"))})),
        plain(_status(pin={"cid": "../../x"})),
        plain(_status(requestid="")),
        plain(_status(requestid=7)),
        plain(_status(), length=10_000),
        plain(b'{"x":"' + b"y" * 2_000_000 + b'"}'),
        plain(b"", "302 Found"),
    ],
)
def test_nonsense_is_never_taken_for_a_pin(answer: bytes) -> None:
    with answering(answer) as address, pytest.raises(ServiceError):
        PinningService("vendor", f"http://{address}", TOKEN).find(CID)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"])
def test_a_service_that_cannot_now_is_an_outage(status: str) -> None:
    with answering(plain(b'{"error":{"reason":"LATER"}}', status)) as address, pytest.raises(Outage, match="LATER"):
        PinningService("vendor", f"http://{address}", TOKEN).request(CID, "v")


def test_an_endpoint_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        PinningService("vendor", "ftp://x", TOKEN)


# ---- as extra replicas --------------------------------------------------------------------------------------------


def using(world: World, *endpoints: str, **changes: Any) -> World:
    services = tuple(
        PinningServiceSettings(name=f"vendor{n}", endpoint=endpoint, token=SecretStr(TOKEN))
        for n, endpoint in enumerate(endpoints)
    )
    return world.having(pinning_services=services, **changes)


def test_published_videos_are_requested_once_and_their_state_is_shown(world: World, service: Service) -> None:
    here = using(world, service.endpoint)
    upload = here.publish_package("v", package("pinned elsewhere too"))
    assert [entry["pin"]["cid"] for entry in service.pins.values()] == [upload.root, upload.record]
    noted = here.store.receipts(upload.upload_id, "pinning")
    assert [(item["service"], item["root"], item["status"]) for item in noted] == [
        ("vendor0", upload.root, "queued"),
        ("vendor0", upload.record, "queued"),
    ]
    pinning.states(upload, here.settings)
    assert [item["status"] for item in pinning.states(upload, here.settings)] == ["pinned", "pinned"]
    here.step("finalize", upload, "hand:again")
    assert len(service.pins) == 2
    assert TOKEN not in repr(here.settings)


def test_a_service_that_is_down_fails_nothing_and_is_asked_once(world: World) -> None:
    asked: list[object] = []
    with listening(asked.append) as address:
        using(world, f"http://{address}").publish_package("w", package("the service hangs up"))
    assert len(asked) == 1
    here = using(world, "http://127.0.0.1:1")
    upload = here.publish_package("v", package("the service is down"))
    assert upload.state is State.PUBLISHED
    assert {item["status"] for item in here.store.receipts(upload.upload_id, "pinning")} == {"unknown"}


def test_what_a_service_did_not_take_is_asked_for_again_by_the_nightly_check(world: World, service: Service) -> None:
    """A service that was away when the video was published, and one that was configured later."""
    upload = using(world, "http://127.0.0.1:1").publish_package("v", package("the service is back"))
    here, gone = using(world, service.endpoint), using(world, "http://127.0.0.1:1")

    def check(world: World) -> tuple[str, ...]:
        found = repinning.check(world.objects, world.nodes, world.store, world.settings)
        assert found.healthy, "a service's word counts nowhere"
        return found.problems

    (problem,) = check(gone)
    assert "pinning service vendor0" in problem, "and it is asked once, not for every video"
    assert check(here) == ()
    assert {entry["pin"]["cid"] for entry in service.pins.values()} == {upload.root, upload.record}
    service.fate = ("pinned",)
    check(here)
    asked = len(service.asked)
    check(here)
    assert len(service.asked) == asked, "what is there is not asked for any more"
    noted = [item["status"] for item in here.store.receipts(upload.upload_id, "pinning")]
    assert noted == ["unknown", "unknown", "queued", "queued", "pinned", "pinned"]
    known = here.store.upload(upload.upload_id)
    assert (known.error, known.not_before) == (None, None)


def test_a_withdrawn_video_is_given_up_by_the_services(world: World, service: Service) -> None:
    here = using(world, service.endpoint)
    upload = here.publish_package("v", package("not for long"))
    assert len(service.pins) == 2
    withdrawal.withdraw(
        "v", actor="me", reason="why", objects=here.objects, nodes=here.nodes, store=here.store, settings=here.settings
    )
    assert service.pins == {}
    released = here.store.receipts(upload.upload_id, "withdrawal")
    assert all("vendor0" in item["unpinned"] for item in released if "unpinned" in item)


def test_the_doctor_asks_the_services(
    world: World, service: Service, as_environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_environment(world.settings)
    endpoints = {"vendor0": service.endpoint, "vendor1": "http://127.0.0.1:1"}
    services = [{"name": name, "endpoint": endpoint, "token": TOKEN} for name, endpoint in endpoints.items()]
    monkeypatch.setenv("HLS_PINNING_SERVICES", json.dumps(services))
    good, bad = (each for each in check_all(None) if each.service.startswith("pinning service"))
    assert (good.service, good.ok) == ("pinning service vendor0", True)
    assert (bad.ok, bad.advice) == (False, "check its endpoint and token in HLS_PINNING_SERVICES")


def test_what_is_withdrawn_is_given_up_there_too(world: World, service: Service) -> None:
    here = using(world, service.endpoint)
    upload = here.publish_package("v", package("withdrawn everywhere"))
    away = using(world, "http://127.0.0.1:1")
    about = {"actor": "person", "reason": "rights ended", "objects": here.objects, "nodes": here.nodes}
    assert withdrawal.withdraw("v", **about, store=away.store, settings=away.settings).left
    assert len(service.pins) == 2
    here.step("clear_temp_storage", upload, "hand:clear")
    assert service.pins == {}
    assert here.store.claims(upload.upload_id) == ()


def test_its_word_never_counts_towards_deleting(world: World, service: Service) -> None:
    """It says `pinned` at once; our own node is down, so nobody proves anything."""
    service.fate = ("pinned",)
    here = using(world, service.endpoint)
    upload = here.publish_package("v", package("only claimed elsewhere"))
    assert here.document("v")["replicas"] == 1
    media = here.media()
    down = here.having(ipfs_rpc_urls=("http://127.0.0.1:1",), ipfs_gateway_urls=("http://127.0.0.1:1",))
    with pytest.raises((Outage, ProofMissing)):
        down.step("clear_temp_storage", upload, "hand:clear")
    assert here.media() == media
