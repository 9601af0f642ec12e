"""How long it takes to look at everything: a node's pins beside a large catalogue, and a bucket beside the database.

`python -m bench.operations` reads a list of pins of full size, and a shorter one from Kubo itself (where `ipfs` is on
PATH; else from the embedded node); then it puts real objects into a SeaweedFS of its own. Absolute numbers depend on
the machine and on what else it does; the limits that are wanted stand beside them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hls_pipeline import keys, metadata_store, tables
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES, build_directory
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import hash_bytes
from hls_pipeline.settings import load
from hls_pipeline.upkeep import reconciliation, repinning
from hls_pipeline.uploads import Drop, DropObject
from tests import services
from tests.contract import nodes
from tests.local.ipfs_node_fixture import ask, multipart

START = datetime(2026, 1, 1, tzinfo=UTC)
PROFILE = PROFILES["unixfs-v1-2025"]
AT_ONCE = 5000
SEGMENTS = 100  # of each revision in S3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=100_000, help="of the catalogue, two pins each")
    parser.add_argument("--real", type=int, default=2_000, help="videos that are really pinned on a node")
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--kind", choices=nodes.KINDS, default=nodes.KINDS[-1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-operations-") as folder:
        work = Path(folder)
        roots = [str(Cid.of(b"%d" % n)) for n in range(2 * options.videos)]
        with answering(roots) as address, Kubo(address, address) as client:
            check_pins(work / "answer.sqlite", "Kubo's answer", client, roots)
        with nodes.running(options.kind, work / options.kind) as node, node.client() as client:
            pins = list(pinned(node.rpc_url.removeprefix("http://"), 2 * options.real))
            check_pins(work / "real.sqlite", f"{options.kind}, real pins", client, pins)
        compare_stores(work, options.kind, options.objects)


# ---- re-pin ---------------------------------------------------------------------------------------------------------


def check_pins(database: Path, what: str, client: Kubo, roots: Sequence[str]) -> None:
    store, videos = new_store(database), len(roots) // 2
    fill(store, videos, lambda n: (roots[2 * n], roots[2 * n + 1]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = repinning.check(ObjectStore(None), (client,), store, load(), dry_run=True)  # type: ignore[arg-type]
    taken = time.perf_counter() - began
    assert found.healthy
    assert found.wanted == 2 * videos
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{what}: {videos:,} videos checked in {taken:.1f} s (wanted for 100,000: 60); {grown:.0f} MiB more memory")


@contextmanager
def answering(roots: Sequence[str]) -> Iterator[str]:
    """The address of a server that lists these pins as Kubo spells them. Pinning so many takes Kubo hours where it
    syncs; what it takes to read the list is the same."""

    class Node(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("X-Chunked-Output", "1")
            self.end_headers()
            pins = "pin/ls" in self.path
            lines = [f'{{"Cid":"{root}","Name":"v r1","Type":"recursive"}}\n' for root in roots] if pins else []
            for start in range(0, len(lines), AT_ONCE):
                self.chunk("".join(lines[start : start + AT_ONCE]).encode())
            if not pins:
                self.chunk(b'{"ID":"peer"}')
            self.chunk(b"")

        def chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pinned(rpc: str, count: int) -> Iterator[str]:
    """Roots of small directories that the node has pinned."""
    for start in range(0, count, AT_ONCE):
        cars = []
        for n in range(start, min(start + AT_ONCE, count)):
            node, content = hash_bytes(b"#EXTM3U %d" % n, PROFILE)
            directory = build_directory({"master.m3u8": node}, PROFILE)
            cars.append((f"{n}.car", b"".join(car.write_car([directory.root.cid], [*content, *directory.blocks]))))
            yield str(directory.root.cid)
        headers = {"Content-Type": "multipart/form-data; boundary=XyZ"}
        call = "/api/v0/dag/import?pin-roots=true&silent=true"
        assert ask(rpc, "POST", call, headers, multipart(cars)).status == 200


# ---- reconciliation -------------------------------------------------------------------------------------------------


def compare_stores(work: Path, kind: str, count: int) -> None:
    store = new_store(work / "objects.sqlite")
    (work / "s3").mkdir()
    with services.running_s3(work / "s3") as settings, nodes.running(kind, work / f"{kind}-2") as node:
        addresses = {"ipfs_rpc_urls": (node.rpc_url,), "ipfs_gateway_urls": (node.gateway_url,)}
        database = {"database_url": f"sqlite:///{work / 'objects.sqlite'}"}
        world = services.World.of(settings.model_copy(update={**addresses, **database}))
        videos = count // SEGMENTS
        fill(store, videos, lambda n: (str(Cid.of(b"%d" % n)), str(Cid.of(b"r%d" % n))), state="failed")
        began = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            rows = list(pool.map(lambda n: put(world, n), range(videos)))
        with store.writing() as db:
            db.execute(sa.insert(tables.temp_storage), [row for part in rows for row in part])
        print(f"S3: {count:,} objects put in {time.perf_counter() - began:.0f} s")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        found = reconciliation.reconcile(world.objects, world.nodes, store, world.settings)
        taken = time.perf_counter() - began
        assert found.objects == count
        assert found.kinds.keys() == {"failed_upload"}
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
        print(f"  reconcile: {count / taken:,.0f} objects/s (wanted: 5,000); {grown:.0f} MiB more memory")
        listed = time.perf_counter()
        assert sum(1 for _ in world.objects.listing(world.settings.s3_media)) == count
        listed = time.perf_counter() - listed
        print(
            f"  listing the bucket alone: {count / listed:,.0f} objects/s; reconcile takes {taken / listed:.1f} of it"
        )


def put(world: services.World, n: int) -> list[dict[str, Any]]:
    prefix, rows = keys.revision(video(n), 1), []
    for number in range(SEGMENTS):
        key = f"{prefix}media/{number:05}.ts"
        stored = world.objects.put(world.settings.s3_media, key, b"%d" % number, "video/mp2t")
        cid = keys.s3_uri(world.settings.s3_media, key)
        rows.append({"cid": cid, "upload_id": f"u{n}", "size": stored.size, "etag": stored.etag})
    return rows


# ---- shared ---------------------------------------------------------------------------------------------------------


def new_store(path: Path) -> MetadataStore:
    services.migrated_sqlite(path)
    return metadata_store.connect(f"sqlite:///{path}")


def video(n: int) -> str:
    return f"video-{n:07}"


def fill(store: MetadataStore, videos: int, roots: Callable[[int], tuple[str, str]], state: str = "cleared") -> None:
    drop = Drop("v", "inbox", "v/", (DropObject("v/a", '"e"', 1, START),), START).to_json()
    for start in range(0, videos, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, videos))
        with store.writing() as db:
            own = [{"video_id": video(n), "created_at": START, "versions": 0} for n in numbers]
            db.execute(sa.insert(tables.video), own)
            about = {"state": state, "drop": drop, "created_at": START, "updated_at": START, "revision": 1}
            about |= {"launches": 1, "attempts": 0, "dag_bytes": 9}
            rows = [
                {"upload_id": f"u{n}", "video_id": video(n), "root": roots(n)[0], "record": roots(n)[1], **about}
                for n in numbers
            ]
            db.execute(
                sa.insert(tables.upload), [{**row, "launches": 1, "attempts": 0, "dag_bytes": 9} for row in rows]
            )
            published = {"state": "published", "time": START}
            db.execute(sa.insert(tables.state_change), [{"upload_id": f"u{n}", **published} for n in numbers])
            claims = [{"root": root, "upload_id": f"u{n}"} for n in numbers for root in roots(n)]
            db.execute(sa.insert(tables.claim), claims)


if __name__ == "__main__":
    main()
