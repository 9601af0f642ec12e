"""A video that leaves one installation by a file and enters another, and files that are no such thing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hls_pipeline import archive, evidence, rehydration, work
from hls_pipeline.cli import app
from hls_pipeline.errors import Conflict, NotFound, Outage, PackageRefused, ProofMissing, UsageError, UserError
from hls_pipeline.ipfs.car import Block, frame, header, read_blocks, read_roots, write_car
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, Node, build_directory, entries, read_file
from hls_pipeline.replicas import SmallDirectory
from hls_pipeline.revisions import hash_bytes
from hls_pipeline.uploads import State, Upload
from tests import services
from tests.contract.faults import Cut, proxy
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import World, media_playlist, package, published, ts

V1 = PROFILES["unixfs-v1-2025"]


@dataclass(frozen=True)
class Exported:
    upload: Upload
    path: Path
    files: dict[str, bytes]


def files_of(seed: str) -> dict[str, bytes]:
    """With a file of several blocks, and a playlist that is published in another spelling."""
    playlist = media_playlist("s0.ts", "../v/s1.ts", "s2.ts", comment=seed)
    return {**package(seed), "v/index.m3u8": playlist, "v/s2.ts": ts(seed, 7000)}


@pytest.fixture
def exported(world: World, request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    files = files_of(request.node.name)
    upload = world.publish_package("v", files)
    world.step("clear_temp_storage", upload, "hand:clear")
    path = tmp_path / "v.car"
    archive.export("v", path, world.store, world.nodes)
    return Exported(upload, path, files)


@pytest.fixture
def elsewhere(world: World, second_ipfs_node: EmbeddedNode, sqlite_template: Path, tmp_path: Path) -> World:
    """Another installation: its own database and node, and an S3 it has no use for."""
    return world.having(
        database_url=services.copy_sqlite(sqlite_template, tmp_path / "other.sqlite"),
        ipfs_rpc_urls=(f"http://{second_ipfs_node.rpc}",),
        ipfs_gateway_urls=(f"http://{second_ipfs_node.gateway}",),
    )


def enter(world: World, data: bytes | Path) -> Upload:
    if isinstance(data, bytes):
        # `os.pread` reads the archive from several threads, so it must be a file
        path = Path(world.settings.database_url.removeprefix("sqlite:///")).with_suffix(".car")
        path.write_bytes(data)
        data = path
    with open(data, "rb") as file:
        return archive.import_(file, world.nodes, world.store, world.settings)


def assert_nothing_entered(world: World) -> None:
    assert world.store.videos() == ()


# ---- out and in ---------------------------------------------------------------------------------------------------


def test_a_video_enters_an_empty_installation_whole(exported: Exported, world: World, elsewhere: World) -> None:
    upload = enter(elsewhere, exported.path)
    assert (upload.state, upload.revision, upload.root) == (State.PUBLISHED, 1, exported.upload.root)
    for path, data in published(exported.files).items():
        if path != "v/index.m3u8":
            assert elsewhere.from_gateway(f"{upload.root}/{path}") == data, path
    there, here = elsewhere.document("v"), world.document("v")
    assert there == {**here, "completed_at": there["completed_at"]}
    proof = evidence.collect("v", elsewhere.store)
    assert list(evidence.problems(proof)) == []
    assert elsewhere.nodes[0].pinned(Cid.parse(upload.record or ""))


def test_old_versions_stay_readable_as_provenance_and_the_new_one_says_where_it_came_from(
    exported: Exported, world: World, elsewhere: World
) -> None:
    upload = enter(elsewhere, exported.path)
    (provenance,) = elsewhere.store.receipts(upload.upload_id, "provenance")
    old = [version.document for version in world.store.versions("v")]
    assert [version["document"] for version in provenance["versions"]] == old
    (version,) = elsewhere.store.versions("v")
    assert (version.actor, version.n, version.shown) == ("import", 1, True)
    assert provenance["archive"] in version.reason


def test_importing_twice_is_harmless_and_mends_what_the_node_lost(exported: Exported, elsewhere: World) -> None:
    first = enter(elsewhere, exported.path)
    elsewhere.nodes[0].unpin(Cid.parse(first.root or ""))
    assert enter(elsewhere, exported.path) == first
    assert elsewhere.nodes[0].pinned(Cid.parse(first.root or ""))
    assert len(elsewhere.store.versions("v")) == 1


def test_an_imported_video_can_be_brought_to_s3(exported: Exported, elsewhere: World) -> None:
    upload = enter(elsewhere, exported.path)
    with work.holding(upload, "hand:rehydrate", elsewhere.store, elsewhere.settings, last=True) as lease:
        rehydration.rehydrate(upload, lease, elsewhere.objects, elsewhere.nodes, elsewhere.store, elsewhere.settings)
    for file in elsewhere.store.inventory(upload.upload_id):
        assert elsewhere.read(file.key or "") == exported.files[file.path]


def test_an_imported_video_can_leave_again_and_get_a_next_revision(
    exported: Exported, elsewhere: World, tmp_path: Path
) -> None:
    enter(elsewhere, exported.path)
    archive.export("v", tmp_path / "again.car", elsewhere.store, elsewhere.nodes)
    with open(tmp_path / "again.car", "rb") as file:
        again = archive.read(file, elsewhere.settings.policy())
    assert again.proof.root == exported.upload.root
    following = elsewhere.publish_package("v", package("the next one"))
    assert (following.state, following.revision) == (State.PUBLISHED, 2)


def test_a_video_whose_keys_a_service_has_enters_where_keys_are_kept_so_too(
    world: World, elsewhere: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    key = '#EXT-X-KEY:METHOD=AES-128,URI="one.key"\n'
    playlist = media_playlist("s0.ts", comment=request.node.name).replace(b"#EXTINF", key.encode() + b"#EXTINF")
    files = {"index.m3u8": playlist, "s0.ts": ts(request.node.name, 4), "one.key": bytes(range(16))}
    settings = {"keys": "external", "s3_keys": "inbox"}
    guarded = world.having(**settings, key_service_url="https://keys.example").publish_package("v", files)
    archive.export("v", tmp_path / "v.car", world.store, world.nodes)
    with pytest.raises(PackageRefused):
        enter(elsewhere, tmp_path / "v.car")
    other = elsewhere.having(**settings, key_service_url="https://other.example")
    assert enter(other, tmp_path / "v.car").root == guarded.root
    archive.export("v", tmp_path / "again.car", other.store, other.nodes)
    with open(tmp_path / "again.car", "rb") as file:
        assert archive.read(file, other.settings.policy()).proof.root == guarded.root


def test_a_video_id_that_stands_for_something_else_is_left_alone(exported: Exported, elsewhere: World) -> None:
    own = elsewhere.publish_package("v", package("somebody else's"))
    with pytest.raises(Conflict):
        enter(elsewhere, exported.path)
    assert elsewhere.document("v")["video_assets"]["ipfs_directory"] == f"ipfs://{own.root}"


def test_a_node_that_fails_in_the_middle_leaves_nothing_and_the_retry_works(
    exported: Exported, elsewhere: World, second_ipfs_node: EmbeddedNode
) -> None:
    with proxy(second_ipfs_node.rpc, Cut("up", 500_000)) as rpc:
        with pytest.raises((Outage, ProofMissing)):
            enter(elsewhere.having(ipfs_rpc_urls=(f"http://{rpc}",)), exported.path)
        assert_nothing_entered(elsewhere)
    assert enter(elsewhere, exported.path).state is State.PUBLISHED


def test_an_export_that_fails_leaves_the_file_as_it_was(
    exported: Exported, world: World, ipfs_node: EmbeddedNode
) -> None:
    before = exported.path.read_bytes()
    with proxy(ipfs_node.gateway, Cut("down", len(before) / 2)) as gateway:
        broken = world.having(ipfs_gateway_urls=(f"http://{gateway}",))
        with pytest.raises(Outage):
            archive.export("v", exported.path, world.store, broken.nodes)
        assert exported.path.read_bytes() == before
        assert [path.name for path in exported.path.parent.glob("*.part")] == []
        archive.export("v", exported.path, world.store, (*broken.nodes, *world.nodes))
    assert exported.path.read_bytes() == before, "the second node gave the same"
    with pytest.raises(UsageError, match="name a file that can be written"):
        archive.export("v", exported.path / "in-a-file.car", world.store, world.nodes)


def test_only_what_is_published_can_leave(world: World, tmp_path: Path) -> None:
    world.walk(world.drop("v", package("not yet")), "stage", "write_s3_manifest")
    with pytest.raises(Conflict):
        archive.export("v", tmp_path / "v.car", world.store, world.nodes)
    with pytest.raises(NotFound):
        archive.export("w", tmp_path / "w.car", world.store, world.nodes)
    assert list(tmp_path.glob("*.car")) == []


def test_the_commands_do_both(
    exported: Exported, world: World, elsewhere: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(at: World, *arguments: str | Path) -> dict[str, object]:
        for name in ("database_url", "s3_endpoint", "s3_access_key"):
            monkeypatch.setenv(f"HLS_{name.upper()}", getattr(at.settings, name))
        assert at.settings.s3_secret_key
        monkeypatch.setenv("HLS_S3_SECRET_KEY", at.settings.s3_secret_key.get_secret_value())
        for name in ("ipfs_rpc_urls", "ipfs_gateway_urls"):
            monkeypatch.setenv(f"HLS_{name.upper()}", json.dumps(getattr(at.settings, name)))
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        said: dict[str, object] = json.loads(result.stdout)
        return said

    file = tmp_path / "by-command.car"
    assert run(world, "export", "v", file)["bytes"] == file.stat().st_size
    assert run(elsewhere, "import", file)["state"] == "published"
    assert json.loads(elsewhere.read("v/metadata.json")) == elsewhere.document("v")


# ---- hostile ------------------------------------------------------------------------------------------------------


def blocks_of(data: bytes) -> tuple[Cid, list[Block]]:
    stream = io.BytesIO(data)
    (root,) = read_roots(stream)
    return root, list(read_blocks(stream))


def rebuilt(data: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    """The archive with another proof, all hashes right."""
    root, blocks = blocks_of(data)
    by_cid = dict(blocks)
    parts = {entry.name: entry for entry in entries(root, by_cid.__getitem__)}
    document = json.loads(b"".join(read_file(parts["proof.json"].cid, by_cid.__getitem__)))
    change(document)
    proof, leaves = hash_bytes(json.dumps(document).encode(), V1)
    nodes = {name: Node(entry.cid, 0, entry.tsize, 1) for name, entry in parts.items()}
    top = build_directory({**nodes, "proof.json": proof}, V1)
    return b"".join(write_car([top.root.cid], [*top.blocks, *reversed(leaves), *blocks[2:]]))


def _cut(data: bytes) -> bytes:
    return data[:-10]


def _flipped(data: bytes) -> bytes:
    return data[:-10] + bytes([data[-10] ^ 1]) + data[-9:]


def _foreign(data: bytes) -> bytes:
    block = Cid.of(b"foreign"), b"foreign"
    return data + b"".join(frame(*block))


def _less(data: bytes) -> bytes:
    root, blocks = blocks_of(data)
    lost = blocks[len(blocks) // 2][0]
    return b"".join(write_car([root], [block for block in blocks if block[0] != lost]))


def _two_roots(data: bytes) -> bytes:
    root, blocks = blocks_of(data)
    return b"".join(write_car([root, root], blocks))


def _huge_section(data: bytes) -> bytes:
    root, _ = blocks_of(data)
    return header([root]) + b"\xff\xff\xff\xff\x7f" + b"x" * 100


def _other_directory(data: bytes) -> bytes:
    small = SmallDirectory.of({"a": b"b"}, V1)
    return b"".join(write_car([small.directory.root.cid], reversed(small.blocks)))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "no CAR": lambda _: b"PK\x03\x04 a zip",
    "cut off": _cut,
    "a flipped bit": _flipped,
    "a foreign block": _foreign,
    "a lost block": _less,
    "two roots": _two_roots,
    "a huge section": _huge_section,
    "another directory": _other_directory,
    "another video": lambda data: rebuilt(data, lambda d: d.update(video_id="w")),
    "another title": lambda data: rebuilt(
        data, lambda d: d["versions"][1].update(document=d["versions"][1]["document"].replace("test_", "best_"))
    ),
    "a path that leads out": lambda data: rebuilt(data, lambda d: d["files"][0].update(path="../../x")),
    "another size": lambda data: rebuilt(data, lambda d: d["files"][-1].update(size=d["files"][-1]["size"] - 1)),
    "another role": lambda data: rebuilt(data, lambda d: d["files"][-1].update(role="side")),
    "another manifest": lambda data: rebuilt(data, lambda d: d.update(manifest=d["root"])),
    "no proof": lambda data: rebuilt(data, lambda d: d.clear()),
}


def test_a_hostile_archive_is_refused_before_anything_is_sent(exported: Exported, elsewhere: World) -> None:
    whole, root = exported.path.read_bytes(), Cid.parse(exported.upload.root or "")
    for how, spoil in HOSTILE.items():
        spoilt = spoil(whole)
        assert spoilt != whole, how
        with pytest.raises(UserError):
            enter(elsewhere, spoilt)
        assert_nothing_entered(elsewhere)
        assert elsewhere.nodes[0].pinned(root) is None, how


def test_a_package_that_our_rules_refuse_does_not_enter_by_an_archive(
    world: World, elsewhere: World, tmp_path: Path
) -> None:
    """Where it came from, clear keys are allowed."""
    lax = world.having(keys="publish")
    files = package("with a key")
    playlist = files["v/index.m3u8"].replace(b"#EXTINF", b'#EXT-X-KEY:METHOD=AES-128,URI="k.key"\n#EXTINF', 1)
    segments = {path: bytes(range(16)) * 20 for path in files if path.endswith(".ts")}
    upload = lax.publish_package("v", {**files, **segments, "v/index.m3u8": playlist, "v/k.key": bytes(range(16))})
    assert upload.state is State.PUBLISHED, upload.report
    archive.export("v", tmp_path / "v.car", lax.store, lax.nodes)
    with pytest.raises(PackageRefused):
        enter(elsewhere, tmp_path / "v.car")
    assert_nothing_entered(elsewhere)
