"""How many nodes hold a directory, asked of real nodes; and what counts as one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hls_pipeline import clock, replicas, settings
from hls_pipeline.errors import Corruption, Outage, ProofMissing, ServiceError, ServiceRefused, UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.replicas import SmallDirectory
from tests.contract.faults import answering, listening, plain
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import free_ports


@pytest.fixture
def node(ipfs_node: EmbeddedNode) -> Iterator[Kubo]:
    with Kubo(f"http://{ipfs_node.rpc}", f"http://{ipfs_node.gateway}") as kubo:
        yield kubo


@pytest.fixture
def second_node(second_ipfs_node: EmbeddedNode) -> Iterator[Kubo]:
    with Kubo(f"http://{second_ipfs_node.rpc}", f"http://{second_ipfs_node.gateway}") as kubo:
        yield kubo


@pytest.fixture
def down() -> Iterator[Kubo]:
    rpc, gateway = free_ports(2)
    with Kubo(f"http://127.0.0.1:{rpc}", f"http://127.0.0.1:{gateway}") as kubo:
        yield kubo


@pytest.fixture
def small() -> SmallDirectory:
    """A directory nobody has seen before; one file has two blocks that are equal."""
    files = {"a.txt": os.urandom(100), "b/c.bin": bytes(2 << 20) + os.urandom(9)}
    return SmallDirectory.of(files, PROFILES["unixfs-v1-2025"])


def send(small: SmallDirectory, kubo: Kubo) -> tuple[Receipt, ...]:
    return replicas.publish_small(kubo, small, "test")


def test_a_small_directory_counts_each_distinct_block_once(small: SmallDirectory) -> None:
    """a.txt; two chunks of b/c.bin, one of them twice, and its node; two directories."""
    assert small.extent.blocks == 6
    assert len({cid for cid, _ in small.blocks}) == 6


def test_a_published_directory_is_pinned_complete_and_can_be_read_back(node: Kubo, small: SmallDirectory) -> None:
    root = str(small.directory.root.cid)
    receipts = [replicas.to_json(receipt) for receipt in send(small, node)]
    assert replicas.proven(receipts, root) == {node.peer_id()}
    assert replicas.proven(receipts, root, Level.READ_BACK) == frozenset()
    assert [item["level"] for item in receipts] == ["accepted", "pinned", "complete"]
    assert receipts[0]["answered"] == f"{small.extent.blocks} blocks of {small.extent.bytes} bytes"
    back = [replicas.to_json(receipt) for receipt in replicas.read_back(node, root)]
    assert replicas.proven(back, root, Level.READ_BACK) == {node.peer_id()}
    assert b"".join(node.read(f"{root}/b/c.bin"))[:4] == bytes(4)


def test_publishing_again_keeps_the_pin_as_it_is(node: Kubo, small: SmallDirectory) -> None:
    send(small, node)
    replicas.publish_small(node, small, "another name")
    pin = node.pinned(small.directory.root.cid)
    assert pin is not None
    assert pin.name == "test"


def test_what_a_node_does_not_have_is_not_proven(node: Kubo, small: SmallDirectory) -> None:
    with pytest.raises(ProofMissing):
        replicas.read_back(node, str(small.directory.root.cid))


def test_receipts_of_all_nodes_that_did_it_are_kept(node: Kubo, second_node: Kubo, small: SmallDirectory) -> None:
    receipts = replicas.on_quorum([node, second_node], 2, lambda kubo: send(small, kubo))
    root = str(small.directory.root.cid)
    assert replicas.proven(receipts, root) == {node.peer_id(), second_node.peer_id()}


def test_a_node_that_is_down_does_not_matter_while_the_quorum_stands(
    node: Kubo, down: Kubo, small: SmallDirectory
) -> None:
    receipts = replicas.on_quorum([down, node], 1, lambda kubo: send(small, kubo))
    assert replicas.proven(receipts, str(small.directory.root.cid)) == {node.peer_id()}


def test_without_a_quorum_because_nodes_are_down_it_is_an_outage(node: Kubo, down: Kubo, small: SmallDirectory) -> None:
    with pytest.raises(Outage, match=down.name):
        replicas.on_quorum([node, down], 2, lambda kubo: send(small, kubo))


def test_without_a_quorum_because_a_node_says_no_every_reason_is_named(
    node: Kubo, down: Kubo, small: SmallDirectory
) -> None:
    root = str(small.directory.root.cid)
    with pytest.raises(ProofMissing) as caught:
        replicas.on_quorum([node, down], 1, lambda kubo: replicas.read_back(kubo, root))
    assert node.name in str(caught.value)
    assert down.name in str(caught.value)


def test_without_a_quorum_because_nodes_refuse_for_good_it_is_a_refusal(node: Kubo, small: SmallDirectory) -> None:
    with answering(plain(b"403 - Forbidden", "403 Forbidden")) as address:
        refusing = Kubo(f"http://{address}", f"http://{address}")
        with pytest.raises(ServiceRefused, match="HLS_IPFS_AUTH"):
            replicas.on_quorum([node, refusing], 2, lambda kubo: send(small, kubo))
        receipts = replicas.on_quorum([node, refusing], 1, lambda kubo: send(small, kubo))
    assert replicas.proven(receipts, str(small.directory.root.cid)) == {node.peer_id()}


def test_each_node_is_asked_with_its_own_authorization_where_a_list_gives_one() -> None:
    asked: list[bytes] = []

    def serve(connection: Any) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(plain(b"no", "403 Forbidden"))

    with listening(serve) as one, listening(serve) as other:
        urls = (f"http://{one}", f"http://{other}")
        for secret in ('["bearer:first", "bearer:second"]', '["", "bearer:second"]', "bearer:same"):
            for kubo in replicas.connect(settings.load(ipfs_rpc_urls=urls, ipfs_gateway_urls=urls, ipfs_auth=secret)):
                with kubo, pytest.raises(ServiceRefused):
                    kubo.version()
    sent = [re.findall(rb"(?i)authorization: bearer (\w+)", request) for request in asked]
    assert sent == [[b"first"], [b"second"], [], [b"second"], [b"same"], [b"same"]]


@pytest.mark.parametrize("secret", ['["bearer:s3cret"]', '["bearer:s3cret", 1]', '["bearer:s3cret", ', "[1, 2]"])
def test_a_list_of_authorizations_that_does_not_fit_is_refused_and_not_shown(secret: str) -> None:
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2")
    with pytest.raises(UsageError, match="HLS_IPFS_AUTH") as caught:
        replicas.connect(settings.load(ipfs_rpc_urls=urls, ipfs_gateway_urls=urls, ipfs_auth=secret))
    assert "s3cret" not in str(caught.value)


def test_corruption_on_our_side_is_not_outvoted(node: Kubo, second_node: Kubo) -> None:
    def work(kubo: Kubo) -> tuple[Receipt, ...]:
        if kubo.name == node.name:
            raise Corruption("our bytes differ")
        return ()

    with pytest.raises(Corruption, match="our bytes differ"):
        replicas.on_quorum([node, second_node], 1, work)


def test_a_level_is_proven_only_for_its_root_and_never_by_a_lower_one() -> None:
    receipt = Receipt(Level.PINNED, "bafyroot", "127.0.0.1:5001", "peer", "0.43", "pin/ls", "recursive", clock.now())
    rows = [replicas.to_json(receipt)]
    assert replicas.proven(rows, "bafyroot", Level.PINNED) == {"peer"}
    assert replicas.proven(rows, "bafyroot") == frozenset()
    assert replicas.proven(rows, "bafyother", Level.PINNED) == frozenset()


def test_one_node_under_two_addresses_is_one() -> None:
    receipts = [
        Receipt(Level.COMPLETE, "bafyroot", f"127.0.0.1:{port}", "peer", "0.43", "dag/stat", "1 block", clock.now())
        for port in (5001, 5002)
    ]
    assert replicas.proven([replicas.to_json(receipt) for receipt in receipts], "bafyroot") == {"peer"}


def test_a_block_that_a_directory_lacks_stops_the_pin(node: Kubo, small: SmallDirectory) -> None:
    without = SmallDirectory(small.directory, small.blocks[1:])
    with pytest.raises(ServiceError):
        send(without, node)
    assert node.pinned(small.directory.root.cid) is None
    assert node.pinned(Cid.of(b"never sent")) is None
