"""The embedded node under kill -9, full disks, garbage collection and company."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import NO_ROOT, Cid
from hls_pipeline.local.ipfs_node.blocks import BlockStore
from tests.local.ipfs_node_fixture import EmbeddedNode, Package, package, running
from tests.services import wait_until

MIB = 1 << 20


def distinct_package(number: int, files: int = 5) -> Package:
    seed = number.to_bytes(4, "big")
    return package({f"seg{n}.ts": hashlib.sha256(seed + bytes([n])).digest() * 150 for n in range(files)})


def assert_nothing_is_damaged(repo: Path) -> None:
    for file in (repo / "blocks").glob("*/*"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name


def assert_whole(node: EmbeddedNode, one: Package) -> None:
    stat = node.call("dag/stat", arg=str(one.root), progress="false")
    assert (stat.status, stat.json["TotalSize"]) == (200, one.size)


def endless_import(address: str, blocks: Iterator[tuple[Cid, bytes]]) -> http.client.HTTPConnection:
    """An import whose body never ends; blocks are sent as they come."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.putrequest("POST", "/api/v0/dag/import?pin-roots=false")
    connection.putheader("Content-Type", "multipart/form-data; boundary=XyZ")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    start = b'--XyZ\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for piece in (start, *car.write_car([NO_ROOT], blocks)):
        connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    return connection


def large_blocks(count: int, seed: bytes = b"") -> Iterator[tuple[Cid, bytes]]:
    for number in range(count):
        data = seed + number.to_bytes(8, "big") * (MIB // 8 - len(seed))
        yield Cid.of(data), data


def test_after_kill_9_everything_answered_is_there_and_nothing_is_damaged(tmp_path: Path) -> None:
    """Many small packages are imported one after the other, and one large body is under way, when the node dies."""
    answered: list[Package] = []

    def import_until_killed(address: EmbeddedNode) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            for number in range(10_000):
                one = distinct_package(number)
                answer = address.load(one.car)
                assert answer.lines[0]["Root"]["PinErrorMsg"] == ""
                answered.append(one)

    with running(tmp_path) as node:
        sender = threading.Thread(target=import_until_killed, args=(node,))
        sender.start()
        unfinished = endless_import(node.rpc, large_blocks(20))
        while len(answered) < 10:
            time.sleep(0.01)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        unfinished.close()
        sender.join()

    assert_nothing_is_damaged(tmp_path)
    with running(tmp_path) as node:
        assert list((tmp_path / "tmp").iterdir()) == []
        assert {str(one.root) for one in answered} <= node.names_of_pins().keys()
        for one in answered:
            assert_whole(node, one)


def test_imports_and_garbage_collection_do_not_hurt_each_other(tmp_path: Path) -> None:
    """Three clients import, share half of their blocks and unpin again what another may just be importing."""
    failures: list[str] = []
    stop = threading.Event()

    def import_packages(node: EmbeddedNode, client: int) -> None:
        for number in range(12):
            own, shared = distinct_package(1000 * (client + 1) + number), distinct_package(number)
            for one in (own, shared):
                answer = node.load(one.car)
                if answer.lines[0]["Root"]["PinErrorMsg"]:
                    failures.append(answer.body.decode())
            node.call("pin/rm", arg=str(shared.root))

    def collect(node: EmbeddedNode) -> None:
        while not stop.is_set():
            if node.call("repo/gc").status != 200:
                failures.append("gc failed")

    with running(tmp_path) as node:
        collector = threading.Thread(target=collect, args=(node,))
        collector.start()
        clients = [threading.Thread(target=import_packages, args=(node, client)) for client in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        stop.set()
        collector.join()
        assert failures == []
        kept = [distinct_package(1000 * (client + 1) + number) for client in range(3) for number in range(12)]
        for one in kept:
            assert_whole(node, one)
        node.call("repo/gc")
        assert node.call("repo/stat").json["NumObjects"] == len({cid for one in kept for cid in one.blocks})


def test_two_collections_at_once_do_not_stumble_over_each_other(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    blocks = {Cid.of(b"%d" % number): b"%d" % number for number in range(3000)}
    of_one_folder = [(cid, data) for cid, data in blocks.items() if cid.digest[0] == 0]
    with store.session() as session:
        for cid, data in of_one_folder:
            session.put(cid, data)
        session.flush()
    first, second = (store.sweep((), store.horizon()) for _ in range(2))
    removed = [next(first), *second, *first]
    assert sorted(removed) == sorted(cid.digest for cid, _ in of_one_folder)
    assert len(removed) > 1
    store.close()


def test_an_import_under_way_is_safe_from_garbage_collection(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        blocks = list(large_blocks(3))
        node.load(b"".join(car.write_car([NO_ROOT], blocks[:1])), pin_roots="false")
        under_way = endless_import(node.rpc, iter(blocks))
        wait_until(lambda: node.holds(blocks[2][0]), "the last block")
        assert node.call("repo/gc").body == b"", "not even the block that was there before"
        under_way.close()
        wait_until(lambda: node.call("repo/gc").body.count(b"Key") == 3, "all three to go at once")
        assert node.call("repo/stat").json["NumObjects"] == 0


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[bool]:
    """A file system of 4 MiB on `folder`; False where we may not mount, then the size of files has to be limited."""
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    before = distinct_package(1)
    with tiny_disk(tmp_path / "disk") as mounted:
        repo = tmp_path / "disk" / "repo"

        def limit() -> None:
            if not mounted:
                resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, MIB // 2))

        with running(repo, before=limit) as node:
            assert node.load(before.car).status == 200
            large = b"".join(car.write_car([NO_ROOT], large_blocks(12)))
            reason = "no space left on device" if mounted else "file too large"
            assert node.load(large, stats="true").message == f"a block could not be written: {reason}"
            assert list((repo / "tmp").iterdir()) == []
            assert_nothing_is_damaged(repo)
            assert_whole(node, before)
            node.call("repo/gc")
            assert node.load(distinct_package(2).car).status == 200, "with room again it goes on"


def test_one_repository_has_one_node(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hls_pipeline.local.ipfs_node", "--repo", str(tmp_path), "--rpc", "127.0.0.1:0"]
    with running(tmp_path):
        second = subprocess.run([*command, "--gateway", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert f"another node is using {tmp_path}" in second.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "a") as node:
        command = [sys.executable, "-m", "hls_pipeline.local.ipfs_node", "--repo", str(tmp_path / "b")]
        command += ["--rpc", "127.0.0.1:0", "--gateway", node.gateway]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 3
        assert f"cannot listen on {node.gateway}" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_node_stops_soon_whatever_is_under_way(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as node:
        hanging = endless_import(node.rpc, large_blocks(2))
        idle = http.client.HTTPConnection(node.gateway)
        idle.request("GET", "/")
        idle.getresponse().read()
        os.kill(node.process.pid, number)
        assert node.process.wait(60) == 0
        hanging.close()
        idle.close()
    with running(tmp_path) as node:
        assert node.call("version").status == 200


def test_memory_stays_bounded_over_a_large_import_and_export(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        process = psutil.Process(node.process.pid)
        start = process.memory_info().rss
        peak = [start]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for part in range(4):
                seed = bytes([part]) * 8
                data = b"".join(car.write_car([NO_ROOT], large_blocks(40, seed)))
                assert node.load(data, pin_roots="false").status == 200
            assert len(node.call("dag/export", arg=str(next(large_blocks(1, bytes(8)))[0])).body) > MIB
        finally:
            done.set()
            watcher.join()
        assert peak[0] - start < 64 * MIB
