"""What we rely on in an IPFS node: one suite for the embedded node and for Kubo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import ipfshttpclient
import pytest

from hls_pipeline import replicas
from hls_pipeline.errors import Outage, ProofMissing, ServiceError, UserError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo, Pin
from hls_pipeline.ipfs.proof import Level, Receipt, accepted, confirm
from hls_pipeline.ipfs.unixfs import PROFILES, Extent, entries, hash_tree
from tests.contract.nodes import KINDS, IpfsNode, running
from tests.contract.packages import ODD_NAMES, Package, fresh, noise, package, pieces

NOW = datetime(2026, 1, 5, 15, 5, tzinfo=UTC)


@pytest.fixture
def published(client: Kubo) -> Iterator[Package]:
    """A package that is on the node and pinned."""
    sent = fresh()
    client.import_blocks(sent.blocks)
    client.pin(sent.directory.root.cid, "a package", sent.directory.root.tsize)
    yield sent
    client.unpin(sent.directory.root.cid)


def sum_of(sent: Package) -> Extent:
    return Extent(len(sent.blocks), sum(len(data) for _, data in sent.blocks))


def holders(receipts: Iterable[Receipt], root: Cid, level: Level) -> frozenset[str]:
    return replicas.proven(map(replicas.to_json, receipts), str(root), level)


def test_a_node_says_who_it_is(client: Kubo) -> None:
    assert client.version()
    assert client.peer_id()
    assert client.repo_stat().limit > 0


def test_an_import_is_counted_as_it_was_sent(client: Kubo) -> None:
    sent = fresh()
    assert client.import_blocks(iter(sent.blocks)) == sum_of(sent)
    assert all(client.has(cid) for cid, _ in sent.blocks)
    assert client.pinned(sent.directory.root.cid) is None


def test_blocks_sent_twice_count_twice_and_do_no_harm(client: Kubo) -> None:
    sent = fresh()
    twice = client.import_blocks(sent.blocks + sent.blocks)
    assert twice == Extent(2 * len(sent.blocks), 2 * sum_of(sent).bytes)


def test_an_import_of_nothing_is_counted_as_nothing(client: Kubo) -> None:
    assert client.import_blocks([]) == Extent(0, 0)


@pytest.mark.parametrize("before", [0, 1, 40])
def test_wrong_bytes_under_a_content_id_are_refused(client: Kubo, before: int) -> None:
    sent = fresh()
    lie = Cid.of(noise(f"truth {before}", 1000))
    blocks = [*list(sent.blocks * 40)[:before], (lie, b"something else"), *sent.blocks * 40]
    with pytest.raises(ServiceError):
        client.import_blocks(blocks)
    assert not client.has(lie)


def test_an_error_of_the_source_ends_the_import_and_is_the_one_that_is_seen(client: Kubo) -> None:
    sent = fresh()
    with pytest.raises(UserError, match="the source broke"):
        client.import_blocks(pieces(sent.blocks, 3, UserError("the source broke")))
    assert client.import_blocks(sent.blocks) == sum_of(sent)


@pytest.mark.parametrize("name", ["video_1 r1", "é + % & = '\" ?#/", "x" * 255])
def test_a_pin_keeps_its_name(client: Kubo, name: str) -> None:
    sent = fresh(0)
    root = sent.directory.root
    client.import_blocks(sent.blocks)
    assert client.pin(root.cid, name, root.tsize) == Pin(root.cid, name)
    assert client.pinned(root.cid) == Pin(root.cid, name)
    assert Pin(root.cid, name) in list(client.pins())
    assert client.unpin(root.cid) is True
    assert client.unpin(root.cid) is False
    assert client.pinned(root.cid) is None


def test_a_pin_that_is_there_is_left_alone(client: Kubo, published: Package) -> None:
    root = published.directory.root
    assert client.pin(root.cid, "another name", root.tsize) == Pin(root.cid, "a package")


def test_a_part_of_a_pinned_directory_is_not_pinned_itself(client: Kubo, published: Package) -> None:
    assert client.pinned(published.directory.nodes["720p"].cid) is None


def test_a_package_with_a_missing_block_is_neither_pinned_nor_complete(client: Kubo) -> None:
    sent = fresh()
    root = sent.directory.root
    client.import_blocks(sent.blocks[1:])
    for proof in (
        lambda: client.pin(root.cid, "incomplete", root.tsize),
        lambda: client.dag_stat(root.cid, root.tsize),
        lambda: client.read_back(root.cid),
        lambda: confirm(client, root.cid, sent.directory.extent, NOW),
    ):
        with pytest.raises((ProofMissing, Outage)):
            proof()
    assert client.pinned(root.cid) is None
    client.import_blocks(sent.blocks[:1])
    client.pin(root.cid, "complete", root.tsize)
    assert client.dag_stat(root.cid, root.tsize) == sent.directory.extent


def test_statistics_and_read_back_count_every_block_once(client: Kubo, published: Package) -> None:
    root = published.directory.root
    assert client.dag_stat(root.cid, root.tsize) == published.directory.extent
    assert client.read_back(root.cid) == published.directory.extent


@pytest.mark.parametrize("profile", PROFILES)
def test_both_profiles_come_back_whole(client: Kubo, profile: str) -> None:
    sent = fresh(6, PROFILES[profile])
    client.import_blocks(sent.blocks)
    assert client.read_back(sent.directory.root.cid) == sent.directory.extent


def test_a_sharded_directory_comes_back_whole(client: Kubo) -> None:
    sent = package({f"seg_{number:05d}-of-a-long-rendition.ts": b"%d" % number for number in range(6000)})
    assert len(sent.directory.blocks) > 1
    client.import_blocks(sent.blocks)
    root = sent.directory.root.cid
    assert client.read_back(root) == sent.directory.extent
    assert b"".join(client.read(f"{root}/seg_05999-of-a-long-rendition.ts")) == b"5999"


def test_repeated_chunks_are_one_block_on_the_node_and_are_confirmed(client: Kubo) -> None:
    """The same megabyte three times in a file, and again as a file: fewer blocks than files and links suggest."""
    chunk = noise("repeated", 1024 * 1024)
    sent = package({"a.ts": chunk * 3, "b.ts": chunk, "c.ts": chunk})
    client.import_blocks(sent.blocks)
    root = sent.directory.root.cid
    client.pin(root, "repeats", sent.directory.root.tsize)
    assert client.dag_stat(root).blocks == 3 < sent.directory.extent.blocks
    receipts = confirm(client, root, sent.directory.extent, NOW)
    assert holders(receipts, root, Level.COMPLETE) == {client.peer_id()}


def test_files_with_odd_names_are_read_by_them(client: Kubo) -> None:
    sent = package({name: noise(name, 2_000_000) for name in ODD_NAMES})
    client.import_blocks(sent.blocks)
    for name, data in sent.files.items():
        path = f"{sent.directory.root.cid}/{name}"
        assert b"".join(client.read(path)) == data
        assert b"".join(client.read(path, 999_999, 1_500_001)) == data[999_999:1_500_001]
        assert b"".join(client.read(path, 1_999_990)) == data[1_999_990:]


@pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")
def test_what_the_node_adds_itself_has_the_content_id_that_we_compute(ipfs_node: IpfsNode, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(noise(name, 2_500_000))
    host, port = ipfs_node.rpc_url.removeprefix("http://").split(":")
    with ipfshttpclient.Client(f"/ip4/{host}/tcp/{port}/http", chunk_size=65536) as theirs:
        added = theirs.add(
            str(tmp_path / "in"),
            recursive=True,
            cid_version=1,
            raw_leaves=True,
            chunker="size-1048576",
            opts={"max-file-links": 1024},
        )
    assert added[-1]["Hash"] == str(hash_tree(tmp_path / "in", PROFILES["unixfs-v1-2025"]).root.cid)


def test_blocks_fetched_one_by_one_make_the_directory_again(client: Kubo, published: Package) -> None:
    store = dict(published.blocks)
    names = [entry.name for entry in entries(published.directory.root.cid, store.__getitem__)]
    assert names == ["720p", "master.m3u8"]
    assert b"".join(client.read(published.directory.nodes["master.m3u8"].cid)) == published.files["master.m3u8"]


def test_what_is_not_there_is_missing_and_not_an_outage(client: Kubo) -> None:
    absent = Cid.of(b"never sent")
    assert client.has(absent) is False
    assert client.pinned(absent) is None
    assert client.unpin(absent) is False
    for question in (
        lambda: client.pin(absent, "absent", 1),
        lambda: client.dag_stat(absent),
        lambda: client.read_back(absent),
        lambda: list(client.read(absent)),
    ):
        with pytest.raises(ProofMissing):
            question()


def test_receipts_say_who_was_asked_what_and_what_it_answered(client: Kubo, published: Package) -> None:
    root, extent = published.directory.root.cid, published.directory.extent
    receipts = (accepted(client, root, extent, NOW), *confirm(client, root, extent, NOW, Level.READ_BACK))
    assert [receipt.level for receipt in receipts] == [level for level in Level if level is not Level.SAMPLED]
    assert {receipt.peer_id for receipt in receipts} == {client.peer_id()}
    assert {receipt.node_version for receipt in receipts} == {client.version()}
    assert receipts[-1].answered == f"{extent.blocks} blocks of {extent.bytes} bytes"
    assert holders(receipts * 2, root, Level.READ_BACK) == {client.peer_id()}, "one node, however often it says so"


def test_a_pin_removed_behind_our_back_is_no_proof(client: Kubo, published: Package) -> None:
    client.unpin(published.directory.root.cid)
    with pytest.raises(ProofMissing, match="not pinned"):
        confirm(client, published.directory.root.cid, published.directory.extent, NOW)


def test_a_wrong_expectation_is_no_proof_unless_the_blocks_themselves_decide(client: Kubo, published: Package) -> None:
    """The count expected is a short cut; what follows from the hashes is the truth, and is in the receipt."""
    root, extent = published.directory.root.cid, published.directory.extent
    receipts = confirm(client, root, Extent(extent.blocks + 1, extent.bytes + 1), NOW)
    assert receipts[-1].level is Level.READ_BACK
    assert receipts[-1].answered == f"{extent.blocks} blocks of {extent.bytes} bytes"


def test_several_threads_import_and_pin_the_same_package_through_one_client(client: Kubo) -> None:
    sent = fresh(6)
    root = sent.directory.root

    def publish(_: int) -> Pin:
        client.import_blocks(sent.blocks)
        return client.pin(root.cid, "together", root.tsize)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(publish, range(4))) == {Pin(root.cid, "together")}
    assert client.read_back(root.cid) == sent.directory.extent


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_pinned_outlives_a_kill(kind: str, tmp_path: Path) -> None:
    sent = fresh()
    root = sent.directory.root
    with running(kind, tmp_path / "repo") as node, node.client() as client:
        client.import_blocks(sent.blocks)
        client.pin(root.cid, "durable", root.tsize)
        node.kill()
        with pytest.raises(Outage):
            client.pinned(root.cid)
    with running(kind, tmp_path / "repo") as node, node.client() as client:
        receipts = confirm(client, root.cid, sent.directory.extent, NOW, Level.READ_BACK)
        assert len(holders(receipts, root.cid, Level.READ_BACK)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_without_pins_lists_none(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path / "repo") as node, node.client() as client:
        for pin in list(client.pins()):
            client.unpin(pin.cid)
        assert list(client.pins()) == []


def test_two_nodes_make_a_quorum_of_two(tmp_path: Path) -> None:
    sent = fresh()
    root = sent.directory.root
    receipts: list[Receipt] = []
    for name in ("one", "two"):
        with running("embedded", tmp_path / name) as node, node.client() as client:
            client.import_blocks(sent.blocks)
            client.pin(root.cid, "replica", root.tsize)
            receipts += confirm(client, root.cid, sent.directory.extent, NOW)
    assert len(holders(receipts, root.cid, Level.COMPLETE)) == 2
    assert holders(receipts, root.cid, Level.READ_BACK) == frozenset()
