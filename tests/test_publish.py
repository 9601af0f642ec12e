"""Publishing while things go wrong, over real S3, real nodes of each kind there is, and a proxy that makes the faults.

In each case nothing is called published that is not, nothing on S3 is removed, the retry finishes, and it sends only
what the node has not confirmed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hls_pipeline.errors import LeaseLost, Outage, PipelineError, ProofMissing, ServiceError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.uploads import State, Upload
from tests.contract import nodes
from tests.contract.faults import Cut, Lie, answering_for, chunked, listening, plain, proxy
from tests.contract.nodes import KINDS, IpfsNode
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode, block_file
from tests.local.test_ipfs_node_durability import tiny_disk
from tests.services import World, media_playlist, package, published, ts, wait_until

EVER = float("inf")
_OVERHEAD = 96 * 1024
"""Bytes of questions, directories and playlists that a retry may send besides the files."""


@pytest.fixture(scope="session", params=KINDS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsNode]:
    with nodes.running(request.param, tmp_path_factory.mktemp(f"publish-{request.param}") / "repo") as running:
        yield running


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Makes the bytes of a test its own, so that nodes shared by the session do not have them yet."""
    return request.node.name


def large(seed: str, segments: int = 6) -> dict[str, bytes]:
    """About 3 MB in media."""
    names = [f"s{n}.ts" for n in range(segments)]
    return {
        "index.m3u8": media_playlist(*names, comment=seed),
        **{name: ts(f"{seed} {name}", 2800) for name in names},
    }


def at(world: World, *addresses: tuple[str, str], **changes: Any) -> World:
    """The same world with these nodes: RPC and gateway, each `host:port` or a URL."""
    rpc, gateway = zip(*addresses, strict=True)
    return world.having(ipfs_rpc_urls=tuple(map(_url, rpc)), ipfs_gateway_urls=tuple(map(_url, gateway)), **changes)


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def address(url: str) -> str:
    return url.removeprefix("http://")


@contextmanager
def counted(world: World, node: IpfsNode) -> Iterator[tuple[World, Cut]]:
    """A world whose RPC goes through a proxy that counts what is sent."""
    count = Cut("up", EVER)
    with proxy(address(node.rpc_url), count) as rpc:
        yield at(world, (rpc, node.gateway_url)), count


def staged(world: World, files: dict[str, bytes], video_id: str = "v") -> Upload:
    return world.walk(world.drop(video_id, files), "stage", "write_s3_manifest")


def assert_not_published(world: World, upload: Upload, media: set[str]) -> None:
    assert world.store.upload(upload.upload_id).state is State.STAGED
    assert world.document(upload.video_id)["status"] == "processing"
    assert world.store.receipts(upload.upload_id, "proof") == ()
    assert world.media() == media


def assert_retry_sends_the_rest(world: World, upload: Upload, node: IpfsNode) -> None:
    """It finishes, sends no file that the node has, and once more it sends next to nothing."""
    with node.client() as client:
        files = [file for file in world.store.inventory(upload.upload_id) if not client.has(Cid.parse(file.cid))]
    rest = sum(file.size for file in files)
    with counted(world, node) as (through, count):
        through.step("publish", upload)
        assert rest <= count.passed <= rest + _OVERHEAD
    with counted(world, node) as (through, count):
        done = through.walk(upload)
        assert done.state is State.PUBLISHED
        assert count.passed <= _OVERHEAD
    with node.client() as client:
        assert client.read_back(Cid.parse(done.root or "")).blocks == done.blocks
    assert world.having(**_of(node)).step("clear_temp_storage", done, "hand:clear").state is State.CLEARED


def _of(node: IpfsNode) -> dict[str, Any]:
    return {"ipfs_rpc_urls": (node.rpc_url,), "ipfs_gateway_urls": (node.gateway_url,)}


def fails(world: World, upload: Upload, media: set[str]) -> PipelineError:
    with pytest.raises(ServiceError) as caught:
        world.step("publish", upload)
    assert_not_published(world, upload, media)
    return caught.value


# ---- the wire and the node ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_connection_cut_on_the_way_costs_only_what_had_not_arrived(
    world: World, node: IpfsNode, seed: str, share: float
) -> None:
    files = large(seed)
    upload = staged(world, files)
    media = world.media()
    cut = Cut("up", sum(map(len, files.values())) * share)
    with proxy(address(node.rpc_url), cut) as rpc:
        error = fails(at(world, (rpc, node.gateway_url)), upload, media)
    assert isinstance(error, Outage)
    assert world.store.upload(upload.upload_id).attempts == 0
    assert_retry_sends_the_rest(world, upload, node)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_killed_in_the_middle_of_an_import_goes_on_when_it_is_back(
    world: World, seed: str, kind: str, tmp_path: Path
) -> None:
    files, errors = large(seed), list[BaseException]()
    upload = staged(world, files)
    media = world.media()
    half = Cut("up", sum(map(len, files.values())) / 2, "silence")
    with nodes.running(kind, tmp_path / "repo") as node, proxy(address(node.rpc_url), half) as rpc:
        dying = at(world, (rpc, node.gateway_url))

        def publish() -> None:
            try:
                dying.step("publish", upload)
            except ServiceError as error:
                errors.append(error)

        working = threading.Thread(target=publish)
        working.start()
        wait_until(lambda: half.passed >= half.after, "half of it to be sent")
        node.kill()
        half.over.set()
        working.join(60)
    assert [type(error) for error in errors] == [Outage]
    assert_not_published(world, upload, media)
    with nodes.running(kind, tmp_path / "repo") as back:
        assert_retry_sends_the_rest(world, upload, back)


def test_an_answer_that_stalls_is_given_up(world: World, node: IpfsNode, seed: str) -> None:
    upload = staged(world, large(seed))
    media = world.media()
    with proxy(address(node.rpc_url), Cut("down", 2000, "silence")) as rpc:
        error = fails(at(world, (rpc, node.gateway_url), ipfs_stall_seconds=0.5), upload, media)
    assert isinstance(error, Outage)
    assert_retry_sends_the_rest(world, upload, node)


_DONE, _TRAILER = b'{"Stats":{"BlockCount":1}}\n', "X-Stream-Error: the datastore has failed\r\n"
LIES = {
    "an error in the trailer of an import": ("dag/import", chunked(_DONE, trailers=_TRAILER)),
    "a failed pin in a 200": ("dag/import", chunked(b'{"Root":{"Cid":{"/":"x"},"PinErrorMsg":"lost"}}\n', _DONE)),
    "another count": ("dag/import", chunked(b'{"Stats":{"BlockCount":0,"BlockBytesCount":0}}\n')),
    "a page instead of an import": ("dag/import", plain(b"<html>Welcome</html>")),
    "an empty import": ("dag/import", plain(b"")),
    "an error in the trailer of a pin": ("pin/add", chunked(b'{"Pins":["x"]}\n', trailers=_TRAILER)),
    "an empty pin": ("pin/add", plain(b"")),
    "a pin that is none": ("pin/add", chunked(b'{"Progress":1}\n')),
    "a page instead of statistics": ("dag/stat", plain(b"<html>Welcome</html>")),
    "statistics that break off": ("dag/stat", chunked(b'{"DagStats":[{"Cid"')),
}


@pytest.mark.parametrize("what", LIES)
def test_a_200_that_is_none_publishes_nothing_and_the_retry_does(
    world: World, ipfs_node: EmbeddedNode, seed: str, what: str
) -> None:
    upload = staged(world, package(seed))
    media = world.media()
    with answering_for(ipfs_node.rpc, *LIES[what]) as rpc:
        fails(at(world, (rpc, ipfs_node.gateway)), upload, media)
    assert world.walk(upload).state is State.PUBLISHED


def test_a_full_disk_is_waited_for_and_uses_up_no_try(world: World, seed: str, tmp_path: Path) -> None:
    upload = staged(world, large(seed, 12))
    media = world.media()
    with (
        tiny_disk(tmp_path / "disk") as mounted,
        ipfs_node_fixture.running(tmp_path / "disk" / "repo", before=None if mounted else _small_files) as full,
    ):
        error = fails(at(world, (full.rpc, full.gateway)), upload, media)
        assert isinstance(error, Outage), error
        assert world.store.upload(upload.upload_id).attempts == 0
    with ipfs_node_fixture.running(tmp_path / "roomy") as node:
        roomy = at(world, (node.rpc, node.gateway))
        assert roomy.walk(upload).state is State.PUBLISHED


def _small_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))


def test_a_block_that_is_there_and_cannot_be_read_is_sent_again(world: World, node: IpfsNode, seed: str) -> None:
    """Left by an earlier try: the node says that it has the file, and then cannot pin what is above it."""
    files = {**package(seed), "v/s0.ts": ts(seed, 6000)}  # of two blocks, so there is one that names them
    upload = staged(world, files)
    here = world.having(**_of(node))
    (above,) = (file for file in here.store.inventory(upload.upload_id) if file.path == "v/s0.ts")
    assert here.step("publish", upload).state is State.PINNED
    root = Cid.parse(upload.root or "")
    block = node.path_of(Cid.parse(above.cid))
    here.nodes[0].unpin(root)
    block.chmod(0o600)
    block.write_bytes(b"\xff" * block.stat().st_size)
    here.step("publish", upload)
    assert here.nodes[0].read_back(root).blocks == upload.blocks


# ---- between publishing and the clean-up --------------------------------------------------------------------------


def assert_nothing_goes(world: World, upload: Upload, error: type[PipelineError] = ProofMissing) -> None:
    media = world.media()
    with pytest.raises(error):
        world.step("clear_temp_storage", upload, "hand:clear")
    assert world.media() == media
    assert world.store.upload(upload.upload_id).state is State.PUBLISHED
    assert world.store.receipts(upload.upload_id, "deletion") == ()


def test_a_pin_removed_behind_our_back_is_made_again_before_anything_goes(
    world: World, node: IpfsNode, seed: str
) -> None:
    here = world.having(**_of(node))
    upload = here.publish_package("v", package(seed))
    root = Cid.parse(upload.root or "")
    assert here.nodes[0].unpin(root)
    with counted(world, node) as (through, count):
        assert through.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
        assert count.passed < 16 * 1024, "the blocks are there: only the pin is made"
    assert here.nodes[0].pinned(root)


def test_a_block_missing_on_one_of_two_nodes_is_sent_again_before_anything_goes(
    world: World, node: IpfsNode, seed: str, tmp_path: Path
) -> None:
    repo = tmp_path / "second"
    with ipfs_node_fixture.running(repo) as second:
        both = at(world, (node.rpc_url, node.gateway_url), (second.rpc, second.gateway), ipfs_quorum=2)
        upload = both.publish_package("v", package(seed))
        lost = block_file(repo, Cid.of(package(seed)["v/s1.ts"]))
        lost.unlink()
        assert both.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
        assert lost.read_bytes() == package(seed)["v/s1.ts"]
        assert both.nodes[1].read_back(Cid.parse(upload.root or "")).blocks == upload.blocks


def test_a_block_damaged_on_a_node_is_sent_again_before_anything_goes(world: World, node: IpfsNode, seed: str) -> None:
    """It has its name and its size, so Kubo counts it as present wherever it is asked; only its bytes are others."""
    here = world.having(**_of(node))
    upload = here.publish_package("v", package(seed))
    block = node.block_file(package(seed)["v/s1.ts"])
    block.chmod(0o600)
    block.write_bytes(bytes(block.stat().st_size))
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
    assert block.read_bytes() == package(seed)["v/s1.ts"]


def test_a_pin_lost_on_a_node_that_cannot_be_filled_up_keeps_everything_on_s3(
    world: World, node: IpfsNode, seed: str
) -> None:
    here = world.having(**_of(node))
    upload = here.publish_package("v", package(seed))
    assert here.nodes[0].unpin(Cid.parse(upload.root or ""))
    with proxy(address(node.rpc_url), Cut("down", 3000)) as rpc:
        assert_nothing_goes(at(world, (rpc, node.gateway_url)), upload, ServiceError)
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


@contextmanager
def lying_gateway(upstream: str, truth: bytes, lie: bytes) -> Iterator[str]:
    """A gateway that says `lie` wherever the real one says `truth`."""
    import socket

    host, port = address(upstream).split(":")

    def serve(client: socket.socket) -> None:
        asked = client.recv(65536)
        with socket.create_connection((host, int(port))) as server:
            server.sendall(asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            said = b""
            while data := server.recv(65536):
                said += data
        client.sendall(said.replace(truth, lie))

    with listening(serve) as here:
        yield here


def test_a_gateway_that_serves_a_wrong_block_stops_the_clean_up(world: World, node: IpfsNode, seed: str) -> None:
    here = world.having(**_of(node))
    upload = here.publish_package("v", package(seed))
    segment = package(seed)["v/s1.ts"][:64]
    with lying_gateway(node.gateway_url, segment, bytes(len(segment))) as gateway:
        assert_nothing_goes(at(world, (node.rpc_url, gateway)), upload)
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


def test_a_sample_is_measured_by_our_own_count_and_not_by_the_nodes(world: World, node: IpfsNode, seed: str) -> None:
    """A node that forgot a block, and does not count it either, could pass a draw that happens to miss it."""
    here = world.having(**_of(node), proof_sample=2)
    upload = here.publish_package("v", package(seed, 40))
    truth, lie = (b'"NumBlocks":%d' % count for count in (upload.blocks or 0, (upload.blocks or 0) - 1))
    with proxy(address(node.rpc_url), Lie("down", EVER, truth=truth, lie=lie)) as rpc:
        assert_nothing_goes(at(world, (rpc, node.gateway_url), proof_sample=2), upload)
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


# ---- two at once --------------------------------------------------------------------------------------------------


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each returns or raises."""
    found: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            found[number] = works[number]()
        except PipelineError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_two_workers_on_one_video_are_one_worker(world: World, node: IpfsNode, seed: str) -> None:
    here = world.having(**_of(node))
    upload = staged(here, large(seed))
    here.store.release_all()
    results = at_once(*(lambda run=run: here.step("publish", upload, f"path:{run}") for run in ("one", "other")))
    refused = [result for result in results if isinstance(result, LeaseLost)]
    done = [result for result in results if isinstance(result, Upload)]
    assert (len(refused), len(done)) == (1, 1), results
    here.store.release_all()
    assert here.walk(upload).state is State.PUBLISHED


def test_the_same_content_under_two_video_ids_at_once_is_published_twice(
    world: World, node: IpfsNode, seed: str
) -> None:
    here, files = world.having(**_of(node)), large(seed)
    uploads = [staged(here, files, video_id) for video_id in ("one", "other")]
    results = at_once(*(lambda upload=upload: here.walk(upload) for upload in uploads))
    assert [getattr(result, "state", result) for result in results] == [State.PUBLISHED] * 2
    assert results[0].root == results[1].root
    for upload in results:
        assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED


# ---- names --------------------------------------------------------------------------------------------------------

NASTY = ("a+b.ts", "100%41.ts", "été.ts", "two  blanks.ts", 'it\'s "so".ts')


def test_names_with_plus_percent_accents_blanks_and_quotes_reach_the_viewer(
    world: World, node: IpfsNode, seed: str
) -> None:
    here = world.having(**_of(node))
    written = ("a+b.ts", "100%2541.ts", "%C3%A9t%C3%A9.ts", "two%20%20blanks.ts", "it's%20%22so%22.ts")
    files = {
        "index.m3u8": media_playlist(*written, comment=seed),
        **{name: ts(f"{seed} {name}") for name in NASTY},
    }
    upload = here.publish_package("v", files)
    assert upload.state is State.PUBLISHED, upload.report
    for path, data in published(files).items():
        assert here.from_gateway(f"{upload.root}/{path}") == data, path
    assert here.step("clear_temp_storage", upload, "hand:clear").state is State.CLEARED
