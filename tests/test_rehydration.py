"""Bringing a video back to S3: exactly the bytes that were staged, on record, and there to stay."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from hls_pipeline import clock, rehydration, work
from hls_pipeline.cli import app
from hls_pipeline.errors import Conflict, ProofMissing, ServiceError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.rehydration import Restored
from hls_pipeline.uploads import State, Upload
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import block_file
from tests.services import MEDIA, World, free_ports, package, sample, ts

CLEAR = "clear_temp_storage"


def staged(world: World, video_id: str = "v") -> dict[str, bytes]:
    return {key: world.read(key) for key in world.media() if key.startswith(f"{video_id}/r")}


def cleared(world: World, files: Any) -> tuple[Upload, dict[str, bytes]]:
    """A cleared upload, and what it had in S3."""
    upload = world.publish_package("v", files)
    before = staged(world)
    return world.step(CLEAR, upload, "hand:clear"), before


def rehydrate(world: World, upload: Upload) -> Restored:
    with work.holding(upload, "hand:rehydrate", world.store, world.settings, last=True) as lease:
        return rehydration.rehydrate(upload, lease, world.objects, world.nodes, world.store, world.settings)


def large() -> dict[str, bytes]:
    """A segment of several blocks and of several parts of a multipart upload."""
    return {**package("large"), "v/s1.ts": ts("large", 50_000)}


@pytest.mark.parametrize("files", [package("small"), large(), sample()], ids=["small", "large", "sample"])
def test_everything_comes_back_as_it_was(world: World, files: Any) -> None:
    upload, before = cleared(world, files)
    assert staged(world) == {}
    restored = rehydrate(world, upload)
    assert staged(world) == before
    assert restored == Restored(len(before), sum(map(len, before.values())))
    (receipt,) = world.store.receipts(upload.upload_id, "restoration")
    assert receipt["objects"] == len(before)


def test_the_copies_are_on_record_and_stay(world: World) -> None:
    upload, before = cleared(world, package("stay"))
    rehydrate(world, upload)
    rows = world.store.temp_objects(upload.upload_id)
    assert {row.cid for row in rows} == {f"s3://{MEDIA}/{key}" for key in before}
    listed = {f"s3://{MEDIA}/{item.key}": (item.etag, item.size) for item in world.objects.listing(MEDIA, "v/r1/")}
    assert {row.cid: (row.etag, row.size) for row in rows} == listed
    assert world.store.due(clock.now() + timedelta(days=1000)) == ()
    assert world.step(CLEAR, upload, "hand:clear").state is State.CLEARED
    assert staged(world) == before


def test_bringing_back_twice_brings_nothing_the_second_time(world: World) -> None:
    upload, before = cleared(world, package("twice"))
    rehydrate(world, upload)
    assert rehydrate(world, upload) == Restored(0, 0)
    world.objects.put(MEDIA, "v/r1/s3/master.m3u8", b"overwritten", "text/plain")
    assert rehydrate(world, upload).objects == 1
    assert staged(world) == before


def test_what_waits_for_its_removal_is_kept_instead(world: World) -> None:
    upload = world.publish_package("v", package("waiting"))
    before = staged(world)
    assert rehydrate(world, upload) == Restored(0, 0)
    assert world.store.due(clock.now() + timedelta(days=1000)) == ()
    assert staged(world) == before


def test_copies_that_are_given_up_are_removed_on_proof_like_the_first_ones(world: World) -> None:
    upload, before = cleared(world, package("given up"))
    rehydrate(world, upload)
    with work.holding(upload, "hand:undo", world.store, world.settings, last=True) as lease:
        rehydration.give_up(lease, world.store)
    assert [due.upload_id for due in world.store.due(clock.now())] == [upload.upload_id]
    world.step(CLEAR, upload, "hand:clear")
    assert staged(world) == {}
    assert world.store.temp_objects(upload.upload_id) == ()
    receipts = world.store.receipts(upload.upload_id, "deletion")
    assert [len(receipt["removed"]) for receipt in receipts] == [len(before)] * 2
    assert all(receipt["evidence"] for receipt in receipts)


@pytest.mark.parametrize("damage", ["missing", "other bytes"])
def test_a_file_that_no_node_gives_back_as_it_was_does_not_become_an_object(
    world: World, tmp_path: Path, damage: str
) -> None:
    """What was brought back before stays; once the node is mended, the next try brings the rest."""
    files = large()
    with ipfs_node_fixture.running(tmp_path / "own") as node:
        own = world.having(ipfs_rpc_urls=(f"http://{node.rpc}",), ipfs_gateway_urls=(f"http://{node.gateway}",))
        upload, before = cleared(own, files)
        block = block_file(tmp_path / "own", Cid.of(files["v/s1.ts"][1 << 20 : 2 << 20]))
        data = block.read_bytes()
        if damage == "missing":
            block.unlink()
        else:
            block.write_bytes(bytes(len(data)))
        with pytest.raises(ServiceError):
            rehydrate(own, upload)
        after = staged(own)
        assert after.items() < before.items()
        assert files["v/s1.ts"] not in after.values()
        block.write_bytes(data)
        rehydrate(own, upload)
        assert staged(own) == before


@contextmanager
def lying_gateway(gateway: str, cid: str) -> Iterator[str]:
    """An address in front of a gateway that gives other bytes of the same length for one file."""

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urlopen(Request(gateway + self.path, headers={"Accept": self.headers.get("Accept", "*/*")})) as answer:
                body = answer.read()
            if self.path == f"/ipfs/{cid}":
                body = body[::-1]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_other_bytes_of_the_same_length_are_found_out(world: World) -> None:
    files = package("lied about")
    upload, before = cleared(world, files)
    cid = str(Cid.of(files["v/s1.ts"]))
    says = f"gives other bytes than were staged .*not {cid}"
    with lying_gateway(world.settings.ipfs_gateway_urls[0], cid) as address, pytest.raises(ProofMissing, match=says):
        rehydrate(world.having(ipfs_gateway_urls=(address,)), upload)
    assert staged(world).items() < before.items()
    assert not any(files["v/s1.ts"][::-1] == data for data in staged(world).values())
    rehydrate(world, upload)
    assert staged(world) == before


def test_the_next_node_is_asked_when_one_is_down(world: World) -> None:
    upload, before = cleared(world, package("one is down"))
    rpc, gateway = free_ports(2)
    some = world.having(
        ipfs_rpc_urls=(f"http://127.0.0.1:{rpc}", *world.settings.ipfs_rpc_urls),
        ipfs_gateway_urls=(f"http://127.0.0.1:{gateway}", *world.settings.ipfs_gateway_urls),
    )
    rehydrate(some, upload)
    assert staged(world) == before


def test_what_was_never_published_cannot_be_brought_back(world: World) -> None:
    upload = world.walk(world.drop("v", package("staged")), "stage", "write_s3_manifest")
    world.store.release_all()
    with pytest.raises(Conflict, match="only a published revision"):
        rehydrate(world, upload)


def test_the_command_brings_back_and_gives_up(world: World, as_environment: Any) -> None:
    upload, before = cleared(world, package("from a shell"))
    as_environment(world.settings)
    text = CliRunner().invoke(app, ["rehydrate", "v"], catch_exceptions=False).stdout
    assert text.startswith(f"v: {len(before)} objects of ")
    assert staged(world) == before
    about = json.loads(CliRunner().invoke(app, ["rehydrate", "v", "--undo", "--json"], catch_exceptions=False).stdout)
    assert about["in_s3"]["objects"] == len(before)
    assert about["in_s3"]["due_at"] is not None
    assert [due.upload_id for due in world.store.due(clock.now())] == [upload.upload_id]
