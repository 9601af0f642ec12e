"""A node or a wire that fails: nothing false is believed, the error says whether to try again, the retry works."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hls_pipeline.errors import Outage, ProofMissing, ServiceError, ServiceRefused, UsageError
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import NO_ROOT, Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import Extent
from hls_pipeline.ipfs.wire import duration
from tests.contract.faults import Cut, answering, chunked, listening, plain, proxy
from tests.contract.nodes import IpfsNode
from tests.contract.packages import Package, fresh

SENT = fresh(0)
ROOT = SENT.directory.root.cid
COUNT = Extent(len(SENT.blocks), sum(len(data) for _, data in SENT.blocks))
STATS = json.dumps({"Stats": {"BlockCount": COUNT.blocks, "BlockBytesCount": COUNT.bytes}}).encode() + b"\n"
FAILED_LATE = "X-Stream-Error: sync failed: input/output error\r\n"
Call = Callable[[Kubo], Any]

CALLS: dict[str, Call] = {
    "version": lambda node: node.version(),
    "peer_id": lambda node: node.peer_id(),
    "repo_stat": lambda node: node.repo_stat(),
    "pinned": lambda node: node.pinned(ROOT),
    "pins": lambda node: list(node.pins()),
    "unpin": lambda node: node.unpin(ROOT),
    "pin": lambda node: node.pin(ROOT, "name", 1),
    "has": lambda node: node.has(ROOT),
    "dag_stat": lambda node: node.dag_stat(ROOT),
    "import_blocks": lambda node: node.import_blocks(SENT.blocks),
    "read_back": lambda node: node.read_back(ROOT),
}
STREAMED = ("pins", "dag_stat", "import_blocks")


def to(address: str, stall: float = 30) -> Kubo:
    return Kubo(f"http://{address}", f"http://{address}", connect_seconds=30, stall_seconds=stall)


def address_of(url: str) -> str:
    return url.removeprefix("http://")


# answers that say yes and are no


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("import_blocks", STATS),
        ("dag_stat", b'{"DagStats":[{"Cid":"%s","Size":1,"NumBlocks":1}]}\n' % str(ROOT).encode()),
        ("pins", b'{"Cid":"%s","Type":"recursive"}\n' % str(ROOT).encode()),
    ],
)
def test_an_error_in_the_trailer_after_a_200_is_an_error(call: str, line: bytes) -> None:
    with answering(chunked(line)) as good:
        CALLS[call](to(good))
    with answering(chunked(line, trailers=FAILED_LATE)) as bad, pytest.raises(ServiceError, match="sync failed"):
        CALLS[call](to(bad))


@pytest.mark.parametrize("lost", range(1, 6))
def test_an_answer_that_lacks_its_end_is_no_answer(lost: int) -> None:
    """The statistics are there and right; the last chunk, which says that nothing went wrong after them, is not."""
    with answering(chunked(STATS)[:-lost]) as address, pytest.raises(ServiceError):
        CALLS["import_blocks"](to(address))


def test_an_error_in_the_trailer_of_pin_add_is_an_error() -> None:
    """Kubo sends progress first, and the failure of the walk only behind it."""
    not_pinned = json.dumps({"Message": f"path '{ROOT}' is not pinned", "Code": 0, "Type": "error"}).encode()
    absent = plain(not_pinned, "500 Internal Server Error")
    late = chunked(b'{"Progress":3}\n', b'{"Pins":["%s"]}\n' % str(ROOT).encode(), trailers=FAILED_LATE)

    def serve(connection: Any) -> None:
        connection.sendall(late if b"/pin/add" in connection.recv(65536) else absent)

    with listening(serve) as address, pytest.raises(ServiceError, match="sync failed"):
        CALLS["pin"](to(address))


def test_a_pin_that_is_said_done_and_is_not_there_is_no_pin() -> None:
    not_pinned = json.dumps({"Message": f"path '{ROOT}' is not pinned", "Code": 0, "Type": "error"}).encode()
    done = chunked(b'{"Pins":["%s"]}\n' % str(ROOT).encode())

    def serve(connection: Any) -> None:
        asked = connection.recv(65536)
        connection.sendall(done if b"/pin/add" in asked else plain(not_pinned, "500 Internal Server Error"))

    with listening(serve) as address, pytest.raises(ProofMissing, match="not there"):
        CALLS["pin"](to(address))


def test_a_failed_pin_inside_a_200_is_an_error() -> None:
    root = json.dumps({"Root": {"Cid": {"/": str(ROOT)}, "PinErrorMsg": "ipld: could not find x"}}).encode()
    with answering(chunked(root + b"\n", STATS)) as address, pytest.raises(ProofMissing, match="could not find"):
        CALLS["import_blocks"](to(address))


@pytest.mark.parametrize("blocks", [COUNT.blocks - 1, COUNT.blocks + 1, 0])
def test_other_statistics_than_what_was_sent_are_no_proof(blocks: int) -> None:
    line = json.dumps({"Stats": {"BlockCount": blocks, "BlockBytesCount": COUNT.bytes}}).encode() + b"\n"
    with answering(chunked(line)) as address, pytest.raises(ProofMissing):
        CALLS["import_blocks"](to(address))


@pytest.mark.parametrize("lines", [(STATS, STATS), (b"{}\n",), (b'{"Root":null}\n',)])
def test_an_import_without_exactly_one_count_is_no_proof(lines: tuple[bytes, ...]) -> None:
    with answering(chunked(*lines)) as address, pytest.raises(ProofMissing):
        CALLS["import_blocks"](to(address))


def test_success_said_before_everything_was_sent_is_none() -> None:
    said, over = threading.Event(), threading.Event()

    def serve(connection: Any) -> None:
        connection.recv(65536)
        connection.sendall(chunked(b'{"Stats":{"BlockCount":1,"BlockBytesCount":10}}\n'))
        said.set()
        over.wait(60)

    def slowly() -> Iterator[car.Block]:
        yield Cid.of(b"ten bytes!"), b"ten bytes!"
        said.wait(60)
        yield Cid.of(b"more"), b"more"

    with listening(serve) as address, pytest.raises(ServiceError):
        to(address).import_blocks(slowly())
    over.set()


def test_an_error_told_in_the_middle_of_an_upload_is_the_one_that_is_seen() -> None:
    """The node says why and hangs up, while we still have gigabytes to send."""
    message = b'{"Message":"no space left on device","Code":0,"Type":"error"}'

    def serve(connection: Any) -> None:
        connection.recv(65536)
        connection.sendall(plain(message, "500 Internal Server Error"))
        time.sleep(0.5)

    block = Cid.of(bytes(1_000_000)), bytes(1_000_000)
    with listening(serve) as address, pytest.raises(Outage, match="no space left"):
        to(address).import_blocks(block for _ in range(5000))


# nonsense


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        plain(b""),
        chunked(),
        plain(b"<html>not a node</html>"),
        plain(b"[]\n"),
        plain(b"null\n"),
        plain(b'{"Keys":[],"Version":null}\n'),
        plain(b'{"x":' * 5000),
        chunked(b'{"Stats":{"BlockCount":"many"'),
        plain(b'{"Keys":{}}', length=5000),
        chunked(b"x" * 3_000_000),
    ],
    ids=[
        "nothing",
        "no-http",
        "empty",
        "empty-chunked",
        "html",
        "list",
        "null",
        "other",
        "deep",
        "cut",
        "short",
        "huge",
    ],
)
def test_nonsense_is_an_error_of_ours_and_never_an_answer(call: str, answer: bytes) -> None:
    with answering(answer) as address, to(address) as node, pytest.raises(ServiceError):
        CALLS[call](node)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "text", "error", "retryable"),
    [
        ("401 Unauthorized", "", ServiceRefused, False),
        ("403 Forbidden", "403 - Forbidden", ServiceRefused, False),
        ("405 Method Not Allowed", "", ServiceRefused, False),
        ("429 Too Many Requests", "", Outage, True),
        ("503 Service Unavailable", "", Outage, True),
        ("301 Moved Permanently", "", ServiceRefused, False),
    ],
)
def test_a_refusal_says_whether_to_try_again(
    call: str, status: str, text: str, error: type[ServiceError], retryable: bool
) -> None:
    with answering(plain(text.encode(), status)) as address, to(address) as node, pytest.raises(error) as caught:
        CALLS[call](node)
    assert caught.value.retryable is retryable


def test_a_full_disk_is_an_outage_that_uses_up_no_attempt() -> None:
    message = b'{"Message":"write /blocks/x: no space left on device","Code":0,"Type":"error"}'
    with answering(plain(message, "500 Internal Server Error")) as address, pytest.raises(Outage) as caught:
        CALLS["import_blocks"](to(address))
    assert not caught.value.uses_attempt


# silence


@pytest.mark.parametrize("call", CALLS)
def test_a_node_that_never_answers_is_an_outage_after_the_stall_limit(call: str) -> None:
    with answering(b"", wait=3600) as address, to(address, stall=0.3) as node, pytest.raises(Outage):
        CALLS[call](node)


def test_a_node_that_stops_taking_an_upload_is_an_outage() -> None:
    never = threading.Event()
    block = Cid.of(bytes(1_000_000)), bytes(1_000_000)

    def serve(_: Any) -> None:
        never.wait(60)

    with listening(serve) as address:
        with pytest.raises(Outage, match="took nothing"):
            to(address, stall=0.5).import_blocks(block for _ in range(100))
        never.set()


def test_bytes_that_drip_in_do_not_outlast_the_total_limit() -> None:
    """Each byte resets a limit on silence; only the limit on the whole call ends this."""
    body = b"".join(car.write_car([NO_ROOT], SENT.blocks))
    with answering(plain(body), drip=0.05) as address, pytest.raises(Outage, match="not done after"):
        to(address).read_back(ROOT, seconds=1)


def test_nobody_there_is_an_outage() -> None:
    with listening(lambda connection: None) as address:
        pass
    for call in CALLS.values():
        with to(address) as node, pytest.raises(Outage):
            call(node)


# a real node behind a bad wire


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_upload_that_is_cut_is_an_outage_and_the_retry_works(ipfs_node: IpfsNode, share: float, how: Any) -> None:
    sent = fresh()
    total = sum(len(data) for _, data in sent.blocks)
    cut = Cut("up", total * share, how)
    with proxy(address_of(ipfs_node.rpc_url), cut) as address, pytest.raises(Outage):
        to(address, stall=1).import_blocks(sent.blocks)
    with ipfs_node.client() as node:
        assert node.pinned(sent.directory.root.cid) is None
        node.import_blocks(sent.blocks)
        assert node.read_back(sent.directory.root.cid) == sent.directory.extent


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_read_back_that_is_cut_proves_nothing(ipfs_node: IpfsNode, share: float, how: Any) -> None:
    sent = fresh()
    total = sum(len(data) for _, data in sent.blocks)
    with ipfs_node.client() as node:
        node.import_blocks(sent.blocks)
    cut = Cut("down", total * share, how)
    with proxy(address_of(ipfs_node.gateway_url), cut) as address:
        with pytest.raises((Outage, ProofMissing)):
            to(address, stall=1).read_back(sent.directory.root.cid)
        with pytest.raises(Outage):
            list(to(address, stall=1).read(sent.directory.nodes["720p/seg 0+é%.ts"].cid))


# a gateway that serves something else


def served(blocks: tuple[car.Block, ...]) -> bytes:
    return chunked(*car.write_car([ROOT], blocks))


@pytest.fixture
def whole() -> Package:
    return fresh(3)


def in_order(sent: Package) -> tuple[car.Block, ...]:
    """Parents before children, as gateways send them."""
    return tuple(reversed(sent.blocks))


def test_a_whole_package_from_the_gateway_is_proof(whole: Package) -> None:
    with answering(served(in_order(whole))) as address:
        assert to(address).read_back(whole.directory.root.cid) == whole.directory.extent
    with answering(served(in_order(whole) * 2)) as address:
        assert to(address).read_back(whole.directory.root.cid) == whole.directory.extent


@pytest.mark.parametrize("lost", range(4))
def test_a_package_with_any_block_missing_is_not(whole: Package, lost: int) -> None:
    blocks = in_order(whole)
    with answering(served(blocks[:lost] + blocks[lost + 1 :])) as address, pytest.raises(ProofMissing):
        to(address).read_back(whole.directory.root.cid)


def test_a_wrong_block_under_a_right_name_is_not(whole: Package) -> None:
    *front, (cid, data) = in_order(whole)
    with answering(served((*front, (cid, data[:-1] + b"?")))) as address, pytest.raises(ProofMissing, match="hash"):
        to(address).read_back(whole.directory.root.cid)


def test_a_foreign_block_is_not(whole: Package) -> None:
    blocks = (*in_order(whole), (Cid.of(b"foreign"), b"foreign"))
    with answering(served(blocks)) as address, pytest.raises(ProofMissing, match="no part of it"):
        to(address).read_back(whole.directory.root.cid)


def test_another_package_is_not(whole: Package) -> None:
    with answering(served(in_order(fresh(3)))) as address, pytest.raises(ProofMissing):
        to(address).read_back(whole.directory.root.cid)


# what we say ourselves


@pytest.mark.parametrize(
    ("auth", "expected"),
    [("bearer:s3cret", "Bearer s3cret"), ("basic:u:p:w", "Basic " + base64.b64encode(b"u:p:w").decode())],
)
def test_the_rpc_is_asked_with_our_authorization_and_the_gateway_without(auth: str, expected: str) -> None:
    asked: list[bytes] = []

    def serve(connection: Any) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(plain(b"no", "403 Forbidden"))

    with listening(serve) as address:
        node = Kubo(f"http://{address}", f"http://{address}", auth=auth)
        for call in ("version", "dag_stat", "read_back"):
            with pytest.raises(ServiceError) as caught:
                CALLS[call](node)
            assert "s3cret" not in str(caught.value)
    assert [f"Authorization: {expected}".encode() in request for request in asked] == [True, True, False]
    assert "s3cret" not in repr(node)


def test_nodes_behind_one_proxy_have_names_of_their_own() -> None:
    one, other, alone = (Kubo(url, f"{url}/gateway/") for url in ("http://p/a", "http://p:80/b/", "http://p:5001"))
    assert [node.name for node in (one, other, alone)] == ["p/a", "p:80/b", "p:5001"]
    assert one.gateway == "p/a/gateway"


@pytest.mark.parametrize("auth", ["s3cret", "bearer:", "basic:user", "Bearer s3cret"])
def test_an_authorization_we_do_not_understand_is_refused_and_not_shown(auth: str) -> None:
    with pytest.raises(UsageError) as caught:
        Kubo("http://127.0.0.1:1", "http://127.0.0.1:1", auth=auth)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://u:s3cret@h:1", "http://u:s3cret@h:x"])
def test_an_address_with_a_password_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="HLS_IPFS_AUTH") as caught:
        Kubo(url, "http://h:1")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:5001", "ftp://x", "http://", "http://h:x", "http://h:1/?q"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Kubo(url, "http://127.0.0.1:1")
    with pytest.raises(UsageError):
        Kubo("http://127.0.0.1:1", url)


@pytest.mark.parametrize("seconds", [0, -1, 0.5, float("nan"), float("inf")])
def test_a_time_limit_that_kubo_would_answer_with_an_empty_200_is_never_sent(seconds: float) -> None:
    with pytest.raises(ValueError):
        duration(seconds)
    assert duration(1.2) == "2s"


def test_a_node_behind_tls_is_asked_over_tls(
    ipfs_node: IpfsNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its TLS 1.3 tickets arrive unasked, while we send: they are no answer."""
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    made_for = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *made_for], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    sent = fresh()
    rpc = proxy(address_of(ipfs_node.rpc_url), Cut("up", float("inf")), context)
    gateway = proxy(address_of(ipfs_node.gateway_url), Cut("up", float("inf")), context)
    with rpc as rpc_address, gateway as gateway_address:
        urls = f"https://{rpc_address}", f"https://{gateway_address}"
        with Kubo(*urls) as stranger, pytest.raises(Outage, match=r"(?i)certificate"):
            stranger.version()
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        with Kubo(*urls) as node:
            assert node.version()
            node.import_blocks(sent.blocks)
            assert node.read_back(sent.directory.root.cid) == sent.directory.extent


def test_localhost_works_for_the_gateway(ipfs_node: IpfsNode) -> None:
    """Kubo redirects the host name `localhost` to a subdomain."""
    sent = fresh()
    with ipfs_node.client() as node:
        node.import_blocks(sent.blocks)
    named = Kubo(ipfs_node.rpc_url, ipfs_node.gateway_url.replace("127.0.0.1", "localhost"))
    assert named.read_back(sent.directory.root.cid) == sent.directory.extent
