"""The embedded node's RPC: Kubo's shapes, on the wire. What both nodes must do alike is in the contract suite."""

from __future__ import annotations

import errno
import http.client
import re
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import NO_ROOT, Cid
from hls_pipeline.local.ipfs_node.server import App, Response, Server
from tests.local.ipfs_node_fixture import (
    ABSENT,
    EmbeddedNode,
    Package,
    ask,
    block_file,
    blocks_of,
    multipart,
    package,
    running,
)

VIDEO = package(
    {
        "master.m3u8": b"#EXTM3U\n",
        "video/seg 1+é%41.ts": bytes(range(256)) * 20,
        "video/seg2.ts": b"second" * 500,
    }
)
SEGMENT = VIDEO.cids["video/seg2.ts"]
LEAF = Cid.of((b"second" * 500)[:1000])


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def node(repo: Path) -> Iterator[EmbeddedNode]:
    with running(repo) as node:
        yield node


@pytest.fixture
def loaded(node: EmbeddedNode) -> EmbeddedNode:
    assert node.load(VIDEO.car, pin_roots="false").status == 200
    return node


def not_found(cid: Cid) -> str:
    return f"block was not found locally (offline): ipld: could not find {cid}"


def test_the_node_says_that_it_is_not_kubo_and_has_no_peers(node: EmbeddedNode) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert node.call("version").json["Version"] == f"hls-pipeline-embedded/{project['version']}"
    me = node.call("id").json
    assert me["AgentVersion"].startswith("hls-pipeline-embedded/")
    assert (me["Addresses"], me["Protocols"], me["PublicKey"]) == (None, None, "")


def test_a_repository_keeps_its_identity(repo: Path) -> None:
    with running(repo) as node:
        first = node.call("id").json["ID"]
    with running(repo) as node:
        assert node.call("id").json["ID"] == first


def test_an_identity_that_a_power_cut_emptied_is_made_anew(repo: Path) -> None:
    """Two nodes with an empty name would count as one."""
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "id").touch()
    with running(repo) as node:
        assert re.fullmatch(r"embedded-[0-9a-f]{32}", node.call("id").json["ID"])


def test_a_disk_that_fails_in_the_middle_of_an_answer_is_told() -> None:
    def body() -> Iterator[bytes]:
        yield b"{}\n"
        raise OSError(errno.EIO, "the disk is broken")

    app = App(lambda _: Response(200, body=body(), error_trailer=True), lambda error: Response(500))
    server = Server("127.0.0.1:0", app)
    server.start()
    answer = ask(server.url.removeprefix("http://"), "POST", "/", {})
    server.stop(0)
    assert (answer.status, answer.body) == (200, b"{}\n")
    assert "the disk is broken" in answer.trailers["X-Stream-Error"]


def test_what_a_browser_sends_is_refused(node: EmbeddedNode) -> None:
    path = "/api/v0/version"
    for headers in ({"Origin": "http://localhost"}, {"Referer": "http://x/"}, {"User-Agent": "Mozilla/5.0"}):
        answer = ask(node.rpc, "POST", path, headers)
        assert (answer.status, answer.body) == (403, b"403 - Forbidden\n")
    assert ask(node.rpc, "GET", path, {}).status == 405
    assert ask(node.rpc, "PUT", path, {}).headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize("path", ["/api/v0/config/show", "/api/v0/pin", "/api/v0/", "/", "/api/v0/add/x"])
def test_unknown_commands_are_404(node: EmbeddedNode, path: str) -> None:
    assert ask(node.rpc, "POST", path, {}).status == 404


def test_wrong_calls_are_400_in_plain_text(node: EmbeddedNode) -> None:
    assert node.call("pin/add").body == b'argument "ipfs-path" is required\n'
    assert node.call("dag/import").body == b"file argument 'path' is required\n"
    assert node.call("pin/ls", names="zz").status == 400
    assert node.call("version", timeout="soon").status == 400
    assert node.call("version", timeout="1m30.5s").status == 200
    assert node.call("block/stat", arg="garbage").message.startswith('invalid path "garbage"')


def test_an_import_counts_what_it_took_and_pins_the_roots(node: EmbeddedNode) -> None:
    answer = node.load(VIDEO.car, stats="true")
    assert answer.status == 200
    assert answer.lines == [
        {"Root": {"Cid": {"/": str(VIDEO.root)}, "PinErrorMsg": ""}},
        {"Stats": {"BlockCount": len(VIDEO.blocks), "BlockBytesCount": VIDEO.size}},
    ]
    assert node.names_of_pins() == {str(VIDEO.root): ""}


def test_a_root_may_come_in_another_car_of_the_same_request(node: EmbeddedNode) -> None:
    blocks = list(VIDEO.blocks.items())
    first = b"".join(car.write_car([NO_ROOT], blocks[3:]))
    second = b"".join(car.write_car([VIDEO.root], blocks[:3]))
    answer = node.load(first, second, stats="true")
    assert [line["Root"]["PinErrorMsg"] for line in answer.lines[:-1]] == ["", ""]
    assert answer.lines[-1]["Stats"]["BlockCount"] == len(blocks)


def test_a_car_of_version_2_is_read_past_its_index(node: EmbeddedNode) -> None:
    inner = VIDEO.car
    header = struct.pack("<16xQQQ", 60, len(inner), 60 + len(inner))
    outer = b"\x0a\xa1gversion\x02" + header + bytes(9) + inner + b"an index"
    assert node.load(outer).lines[0]["Root"]["PinErrorMsg"] == ""
    assert node.load(outer[:-200]).message.startswith("import failed after block")


def test_a_failed_pin_is_told_in_a_200(node: EmbeddedNode) -> None:
    without_leaf = [block for block in VIDEO.blocks.items() if block[0] != LEAF]
    answer = node.load(b"".join(car.write_car([VIDEO.root], without_leaf)))
    assert answer.status == 200
    assert answer.lines[0]["Root"]["PinErrorMsg"] == not_found(LEAF)
    assert node.names_of_pins() == {}


def test_a_block_that_is_not_what_it_says_is_refused(node: EmbeddedNode) -> None:
    good, named = Cid.of(b"good"), Cid.of(b"named")
    forged = b"".join(car.write_car([NO_ROOT], [(good, b"good"), (named, b"other")]))
    assert node.load(forged).message.startswith(f'import failed after block "{good}"')
    assert not node.holds(named)


def test_a_car_that_ends_early_or_is_none_is_refused(node: EmbeddedNode) -> None:
    for broken in (VIDEO.car[:-3], VIDEO.car[:30], b"", b"#EXTM3U\n", VIDEO.car + b"\x99"):
        assert node.load(broken, stats="true").message.startswith("import failed")


def test_a_block_over_2_mib_is_refused(node: EmbeddedNode) -> None:
    largest, larger = bytes(2 << 20), bytes((2 << 20) + 1)
    assert node.load(b"".join(car.write_car([], [(Cid.of(largest), largest)]))).status == 200
    assert "at most 2097152" in node.load(b"".join(car.write_car([], [(Cid.of(larger), larger)]))).message


def test_a_body_that_breaks_off_is_no_import(node: EmbeddedNode) -> None:
    whole = multipart([("a.car", VIDEO.car)])
    headers = {"Content-Type": "multipart/form-data; boundary=XyZ"}
    answer = ask(node.rpc, "POST", "/api/v0/dag/import?stats=true", headers, whole[:-8])
    assert "EOF" in answer.message
    assert node.names_of_pins() == {}


def test_add_gives_our_own_content_ids_and_the_root_last(node: EmbeddedNode) -> None:
    files = [
        ("pkg%2Fmaster.m3u8", b"#EXTM3U\n"),
        ("pkg%2Fvideo%2Fseg%201%2B%C3%A9%2541.ts", bytes(range(256)) * 20),
        ("pkg%2Fvideo%2Fseg2.ts", b"second" * 500),
    ]
    answer = node.call("add", files, chunker="size-1000", pin_name="my+video", cid_version="1")
    assert [event["Name"] for event in answer.lines] == [
        "pkg/master.m3u8", "pkg/video/seg 1+é%41.ts", "pkg/video/seg2.ts", "pkg/video", "pkg",
    ]  # fmt: skip
    assert [event["Hash"] for event in answer.lines][1:] == [
        str(VIDEO.cids[path]) for path in ("video/seg 1+é%41.ts", "video/seg2.ts", "video", "")
    ]
    assert node.names_of_pins() == {str(VIDEO.root): "my video"}
    assert node.call("dag/stat", arg=str(VIDEO.root), progress="false").json["TotalSize"] == VIDEO.size


def test_add_lays_files_out_as_it_is_told(node: EmbeddedNode) -> None:
    """The content ids are Kubo's for the same calls."""
    files = [("a", b"hello world\n")]
    assert node.call("add", files).json["Hash"] == "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
    old = node.call("add", files, cid_version="0", raw_leaves="false").json
    assert old == {"Name": "a", "Hash": "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o", "Size": "20"}
    wrapped = node.call("add", files, wrap_with_directory="true").lines
    assert [event["Name"] for event in wrapped] == ["a", ""]
    for option in (
        {"trickle": "true"},
        {"hash": "blake3"},
        {"chunker": "rabin"},
        {"inline": "true"},
        {"max_hamt_fanout": "8"},
    ):
        assert node.call("add", files, **option).status == 500


def test_add_with_only_hash_stores_and_pins_nothing(node: EmbeddedNode) -> None:
    answer = node.call("add", [("a", b"never stored")], only_hash="true")
    assert answer.json["Hash"] == str(Cid.of(b"never stored"))
    assert not node.holds(Cid.of(b"never stored"))
    assert node.names_of_pins() == {}


def test_a_path_cannot_leave_its_directory_nor_be_taken_twice(node: EmbeddedNode) -> None:
    assert node.call("add", [("..%2F..%2Fetc%2Fx", b"x")]).lines[0]["Name"] == "etc/x"
    twice = node.call("add", [("d%2Fa", b"1"), ("d%2F.%2Fa", b"2")])
    assert "comes twice" in twice.trailers["X-Stream-Error"]
    assert [event["Name"] for event in twice.lines] == ["d/a"], "the root must not be told"
    both = node.call("add", [("d", b"1"), ("d%2Fa", b"2")])
    assert "both a file and a directory" in both.trailers["X-Stream-Error"]


def test_dag_stat_adds_up_and_shows_progress(loaded: EmbeddedNode) -> None:
    whole = {"Cid": str(VIDEO.root), "Size": VIDEO.size, "NumBlocks": len(VIDEO.blocks)}
    final = {"UniqueBlocks": len(VIDEO.blocks), "TotalSize": VIDEO.size, "Ratio": 1, "DagStats": [whole]}
    assert loaded.call("dag/stat", arg=str(VIDEO.root), progress="false", offline="true").lines == [final]
    lines = loaded.call("dag/stat", arg=str(VIDEO.root)).lines
    assert len(lines) == len(VIDEO.blocks) + 1
    assert lines[-1] == final
    assert [line["DagStats"][0]["NumBlocks"] for line in lines[:-1]] == list(range(1, len(VIDEO.blocks) + 1))


def test_an_export_is_the_whole_dag_root_first(loaded: EmbeddedNode) -> None:
    answer = loaded.call("dag/export", arg=str(VIDEO.root))
    assert answer.headers["Content-Type"] == "application/vnd.ipld.car"
    blocks = blocks_of(answer.body)
    assert blocks[0][0] == VIDEO.root
    assert dict(blocks) == VIDEO.blocks
    assert len(blocks) == len(VIDEO.blocks)


def test_paths_are_resolved_in_arguments(loaded: EmbeddedNode) -> None:
    for path in (f"{VIDEO.root}/video/seg2.ts", f"/ipfs/{VIDEO.root}/video/seg2.ts", f"ipfs://{SEGMENT}"):
        assert loaded.call("block/stat", arg=path).json["Key"] == str(SEGMENT)
    assert loaded.call("block/stat", arg=f"{VIDEO.root}/x").message == f'no link named "x" under {VIDEO.root}'
    assert loaded.call("block/get", arg=str(LEAF)).body == VIDEO.blocks[LEAF]


def test_pins_have_names_and_are_listed_in_kubos_three_shapes(loaded: EmbeddedNode) -> None:
    root = str(VIDEO.root)
    progress = loaded.call("pin/add", arg=root, name="first", progress="true").lines
    assert progress == [{"Progress": len(VIDEO.blocks), "Bytes": VIDEO.size}, {"Pins": [root]}]
    assert loaded.call("pin/add", arg=root, name="second").json == {"Pins": [root]}
    assert loaded.call("pin/ls", arg=root, type="recursive", names="true").json == {
        "Keys": {root: {"Type": "recursive", "Name": "second"}}
    }
    assert loaded.call("pin/ls", arg=root).json == {"Keys": {root: {"Type": "recursive", "Name": ""}}}
    streamed = loaded.call("pin/ls", stream="true", names="true").lines
    assert streamed[0] == {"Cid": root, "Name": "second", "Type": "recursive"}
    assert {line["Cid"] for line in streamed[1:]} == {str(cid) for cid in VIDEO.blocks} - {root}
    below = loaded.call("pin/ls", arg=str(LEAF)).json
    assert below == {"Keys": {str(LEAF): {"Type": f"indirect through {root}", "Name": ""}}}
    assert loaded.call("pin/ls", arg=str(ABSENT)).message == f"path '{ABSENT}' is not pinned"
    assert loaded.call("pin/add", arg=root, name="n" * 256).message == "pin name is 256 bytes (max 255 bytes)"


def test_pins_are_removed_and_moved(loaded: EmbeddedNode) -> None:
    root, folder = str(VIDEO.root), str(VIDEO.cids["video"])
    assert loaded.call("pin/rm", arg=root).message == "not pinned or pinned indirectly"
    loaded.call("pin/add", arg=root, name="mine")
    assert loaded.call("pin/update", arg=[root, folder], unpin="false").json == {"Pins": [root, folder]}
    assert loaded.names_of_pins() == {root: "mine", folder: "mine"}
    assert loaded.call("pin/rm", arg=folder).json == {"Pins": [folder]}
    loaded.call("pin/update", arg=[root, folder])
    assert loaded.names_of_pins() == {folder: "mine"}
    assert loaded.call("pin/update", arg=[root, folder]).message == "'from' cid was not recursively pinned already"


def test_a_direct_pin_holds_one_block(loaded: EmbeddedNode) -> None:
    root = str(VIDEO.root)
    assert loaded.call("pin/add", arg=root, recursive="false").json == {"Pins": [root]}
    loaded.call("repo/gc")
    assert loaded.holds(VIDEO.root)
    assert not loaded.holds(LEAF)


def test_a_missing_block_fails_every_proof_and_leaves_the_old_pin(loaded: EmbeddedNode, repo: Path) -> None:
    root = str(VIDEO.root)
    loaded.call("pin/add", arg=root, name="stays")
    block_file(repo, LEAF).unlink()
    assert loaded.call("pin/add", arg=root, name="new").message == f"pin: {not_found(LEAF)}"
    assert loaded.names_of_pins() == {root: "stays"}
    stat = loaded.call("dag/stat", arg=root, progress="false", offline="true")
    assert stat.message == f"error traversing DAG: {not_found(LEAF)}"
    assert loaded.call("block/stat", arg=str(LEAF)).message == not_found(LEAF)
    assert loaded.call("pin/add", arg=str(ABSENT)).message == f"pin: {not_found(ABSENT)}"


def test_an_error_in_the_middle_is_in_the_trailer_of_json_and_cuts_a_car(loaded: EmbeddedNode, repo: Path) -> None:
    block_file(repo, LEAF).unlink()
    stat = loaded.call("dag/stat", arg=str(VIDEO.root))
    assert (stat.status, stat.headers["Trailer"]) == (200, "X-Stream-Error")
    assert stat.trailers == {"X-Stream-Error": f"error traversing DAG: {not_found(LEAF)}"}
    with pytest.raises(http.client.IncompleteRead):
        loaded.call("dag/export", arg=str(VIDEO.root))


def test_a_body_of_unclear_length_is_refused(node: EmbeddedNode) -> None:
    for headers in (
        {"Transfer-Encoding": "gzip, chunked"},
        {"Transfer-Encoding": "chunked", "Content-Length": "0"},
        {"Content-Length": "-1"},
    ):
        assert "how long its body is" in ask(node.rpc, "POST", "/api/v0/version", headers).message


def test_garbage_collection_removes_what_no_pin_reaches(node: EmbeddedNode) -> None:
    other: Package = package({"a.ts": b"other" * 1000})
    node.load(VIDEO.car)
    node.load(other.car, pin_roots="false")
    before = node.call("repo/stat").json
    assert before["NumObjects"] == len(VIDEO.blocks) + len(other.blocks)
    removed = {line["Key"]["/"] for line in node.call("repo/gc").lines}
    assert removed == {str(Cid(1, 0x55, cid.digest)) for cid in other.blocks}
    after = node.call("repo/stat").json
    assert (after["NumObjects"], after["RepoSize"]) == (len(VIDEO.blocks), VIDEO.size)
    assert node.call("repo/gc").body == b""


def test_nothing_is_collected_while_a_pinned_dag_cannot_be_read(loaded: EmbeddedNode, repo: Path) -> None:
    loaded.call("pin/add", arg=str(VIDEO.root))
    loaded.load(b"".join(car.write_car([NO_ROOT], [(Cid.of(b"loose"), b"loose")])), pin_roots="false")
    block_file(repo, VIDEO.cids["video"]).unlink()
    assert loaded.call("repo/gc").message == not_found(VIDEO.cids["video"])
    assert loaded.holds(Cid.of(b"loose"))


def test_a_grace_spares_blocks_that_are_not_pinned_yet(repo: Path) -> None:
    with running(repo, "--gc-grace", "600") as node:
        node.load(VIDEO.car, pin_roots="false")
        assert node.call("repo/gc").body == b""
        assert node.call("pin/add", arg=str(VIDEO.root)).status == 200
