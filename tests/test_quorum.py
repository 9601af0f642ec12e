"""Several nodes: what one that is down, slow or behind means for the others, and how it catches up."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hls_pipeline import clock, replicas
from hls_pipeline.errors import Outage, ProofMissing, UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt
from hls_pipeline.uploads import State
from tests.contract.faults import Cut, proxy
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode, block_file
from tests.services import World, free_ports, package, ts, wait_until


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def third(tmp_path: Path) -> Iterator[EmbeddedNode]:
    with ipfs_node_fixture.running(tmp_path / "third") as node:
        yield node


def at(world: World, *addresses: tuple[str, str], **changes: Any) -> World:
    return world.having(
        ipfs_rpc_urls=tuple(f"http://{rpc}" for rpc, _ in addresses),
        ipfs_gateway_urls=tuple(f"http://{gateway}" for _, gateway in addresses),
        **changes,
    )


def of(node: EmbeddedNode) -> tuple[str, str]:
    return node.rpc, node.gateway


def behind(world: World, upload_id: str) -> set[tuple[str, str]]:
    """(root, node) of every node that is noted as lacking a root."""
    return {(item["root"], item["node"]) for item in world.store.receipts(upload_id, "finding")}


def test_a_node_that_stalls_delays_nothing_and_is_noted(world: World, ipfs_node: EmbeddedNode, seed: str) -> None:
    """Whoever waited for it would wait for an hour."""
    with proxy(ipfs_node.rpc, Cut("down", 0, "silence")) as silent:
        some = at(world, (silent, "127.0.0.1:1"), of(ipfs_node), ipfs_grace_seconds=0.2, ipfs_stall_seconds=3600)
        upload = some.publish_package("v", package(seed))
        assert some.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert some.document("v")["replicas"] == 1
    assert behind(world, upload.upload_id) == {(upload.root, silent), (upload.record, silent)}


def test_a_node_that_is_down_delays_nothing_and_is_noted(world: World, ipfs_node: EmbeddedNode, seed: str) -> None:
    rpc, gateway = (f"127.0.0.1:{port}" for port in free_ports(2))
    some = at(world, (rpc, gateway), of(ipfs_node), ipfs_grace_seconds=3600)
    upload = some.publish_package("v", package(seed))
    assert behind(world, upload.upload_id) == {(upload.root, rpc), (upload.record, rpc)}


def test_a_slower_node_within_the_grace_counts(
    world: World, ipfs_node: EmbeddedNode, second_ipfs_node: EmbeddedNode, seed: str
) -> None:
    both = at(world, of(ipfs_node), of(second_ipfs_node), ipfs_grace_seconds=250)
    upload = both.publish_package("v", package(seed))
    assert both.document("v")["replicas"] == 2
    assert behind(world, upload.upload_id) == set()


def receipt(kubo: Kubo) -> Receipt:
    return Receipt(Level.COMPLETE, "root", kubo.name, kubo.peer_id(), kubo.version(), "asked", "answered", clock.now())


def test_what_a_node_still_does_after_it_was_given_up_ends_with_its_next_call(
    ipfs_node: EmbeddedNode, second_ipfs_node: EmbeddedNode
) -> None:
    """Otherwise a slow node could pin a video long after it was withdrawn."""
    ended: list[Exception] = []
    given_up = threading.Event()
    slow, quick = (Kubo(f"http://{node.rpc}", f"http://{node.gateway}") for node in (ipfs_node, second_ipfs_node))

    def work(kubo: Kubo) -> list[Receipt]:
        if kubo.name == slow.name:
            given_up.wait(60)
            try:
                kubo.pin(Cid.of(b"whatever"), "late", 1)
            except Outage as error:
                ended.append(error)
                raise
        return [receipt(kubo)]

    outcome = replicas.attempt((slow, quick), 1, work, 0.1)
    assert [item["node"] for item in outcome.receipts] == [quick.name]
    assert outcome.behind.keys() == {slow.name}
    given_up.set()
    wait_until(lambda: ended, "its next call")
    assert "given up" in str(ended[0])
    assert slow.version(), "the node itself is as good as ever"


def test_a_node_that_was_given_up_gets_no_grace_at_the_next_step(
    ipfs_node: EmbeddedNode, second_ipfs_node: EmbeddedNode
) -> None:
    slow, quick = (Kubo(f"http://{node.rpc}", f"http://{node.gateway}") for node in (ipfs_node, second_ipfs_node))
    done = threading.Event()

    def work(kubo: Kubo) -> list[Receipt]:
        if kubo.name == slow.name:
            done.wait(60)
        return [receipt(kubo)]

    for grace in (0.1, 3600):
        assert replicas.attempt((slow, quick), 1, work, grace).behind.keys() == {slow.name}
    done.set()
    slow.late = 0
    assert replicas.attempt((slow, quick), 1, work, 3600).behind == {}


def test_one_node_under_two_addresses_does_not_reach_a_quorum_of_two(ipfs_node: EmbeddedNode) -> None:
    with proxy(ipfs_node.rpc, Cut("up", float("inf"))) as other:
        same = tuple(Kubo(f"http://{rpc}", f"http://{ipfs_node.gateway}") for rpc in (ipfs_node.rpc, other))
        with pytest.raises(ProofMissing, match="same node"):
            replicas.attempt(same, 2, lambda kubo: [receipt(kubo)])


@pytest.mark.parametrize("sample", [0, 1])
def test_a_node_is_not_read_back_through_the_gateway_of_another(
    world: World, ipfs_node: EmbeddedNode, second_ipfs_node: EmbeddedNode, seed: str, sample: int
) -> None:
    """Else one node could stand for two when the S3 copies go."""
    rpc, gateways = (ipfs_node.rpc, second_ipfs_node.rpc), (ipfs_node.gateway, second_ipfs_node.gateway)
    right = at(world, *zip(rpc, gateways, strict=True), ipfs_quorum=2)
    upload = right.publish_package("v", package(seed))
    swapped = at(world, *zip(rpc, reversed(gateways), strict=True), ipfs_quorum=2, proof_sample=sample)
    with pytest.raises(ProofMissing, match="is not the gateway of"):
        swapped.step("clear_temp_storage", upload, "hand:clear")
    assert world.store.receipts(upload.upload_id, "deletion") == ()
    assert right.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    (deletion,) = world.store.receipts(upload.upload_id, "deletion")
    asked = {item["asked"].split()[1] for item in deletion["evidence"] if item["level"] == "read_back"}
    assert asked == set(gateways)


_ONE_STALLS = """
import sys
from hls_pipeline import clock, replicas
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt

def work(kubo):
    return [Receipt(Level.PINNED, "r", kubo.name, kubo.peer_id(), kubo.version(), "", "", clock.now())]

gateway = sys.argv[3]
nodes = [Kubo(f"http://{rpc}", f"http://{gateway}", stall_seconds=3600) for rpc in sys.argv[1:3]]
print(len(replicas.attempt(nodes, 1, work, 0.1).receipts))
"""


def test_a_stalled_node_does_not_keep_the_process_from_ending(ipfs_node: EmbeddedNode) -> None:
    with proxy(ipfs_node.rpc, Cut("down", 0, "silence")) as silent:
        command = [sys.executable, "-c", _ONE_STALLS, silent, ipfs_node.rpc, ipfs_node.gateway]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


# ---- read-back by sample ------------------------------------------------------------------------------------------


def wide(seed: str) -> dict[str, bytes]:
    """40 segments: far more blocks than are drawn below."""
    return package(seed, 40)


def evidence(world: World, upload_id: str, root: str | None) -> dict[str, str]:
    """Level → what was answered, of the evidence a deletion was done on."""
    (deletion,) = world.store.receipts(upload_id, "deletion")
    return {item["level"]: item["answered"] for item in deletion["evidence"] if item["root"] == root}


def test_without_the_setting_every_block_is_read_back(world: World, seed: str) -> None:
    upload = world.publish_package("v", wide(seed))
    world.step("clear_temp_storage", upload, "hand:clear")
    assert evidence(world, upload.upload_id, upload.root).keys() == {"pinned", "complete", "read_back"}


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_a_sample_says_that_it_is_one_and_how_large(world: World, seed: str, profile: str) -> None:
    sampling = world.having(proof_sample=10, ipfs_profile=profile)
    upload = sampling.publish_package("v", {**wide(seed), "v/s0.ts": ts(seed, 9000)})
    assert sampling.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    found = evidence(world, upload.upload_id, upload.root)
    assert found.keys() == {"pinned", "complete", "sampled"}
    assert found["sampled"].endswith(f"of {upload.blocks} blocks of {upload.dag_bytes} bytes")
    small = evidence(world, upload.upload_id, upload.record)
    assert small.keys() == {"pinned", "complete", "read_back"}, "what is no larger than a sample is read whole"


def test_a_sample_meets_a_block_that_is_wrong(world: World, third: EmbeddedNode, seed: str, tmp_path: Path) -> None:
    """Nearly all bytes are in the file that is damaged: ten draws that all miss it are one in 10¹⁵."""
    files = {**wide(seed), "v/s0.ts": ts(seed, 5500)}
    here = at(world, of(third), proof_sample=10)
    upload = here.publish_package("v", files)
    block = block_file(tmp_path / "third", Cid.of(files["v/s0.ts"]))
    block.write_bytes(bytes(block.stat().st_size))
    with pytest.raises(ProofMissing):
        replicas.read_back(here.nodes[0], upload.root or "", sample=10)
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert block.read_bytes() == files["v/s0.ts"], "it was sent again from S3 before anything went"


def test_a_quorum_larger_than_the_list_of_nodes_is_a_usage_error(world: World) -> None:
    with pytest.raises(UsageError, match="HLS_IPFS_QUORUM is 3"):
        world.having(ipfs_quorum=3)
