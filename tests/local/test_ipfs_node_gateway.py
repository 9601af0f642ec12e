"""The embedded node's gateway: what players, browsers and provers get to see."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from hls_pipeline.ipfs.cid import Cid
from tests.local.ipfs_node_fixture import ABSENT, EmbeddedNode, ask, block_file, blocks_of, package, running

CONTENT = bytes(range(256)) * 20
AWKWARD = 'a+b é%41 "q" <b>.ts'
VIDEO = package(
    {
        "master.m3u8": b"#EXTM3U\n",
        "seg1.ts": CONTENT,
        AWKWARD: b"awkward",
        "site/index.html": b"<p>hello",
        "empty.ts": b"",
    }
)
ROOT = f"/ipfs/{VIDEO.root}"
SEGMENT = VIDEO.cids["seg1.ts"]
LEAVES = [Cid.of(CONTENT[at : at + 1000]) for at in range(0, len(CONTENT), 1000)]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def node(repo: Path) -> Iterator[EmbeddedNode]:
    with running(repo) as node:
        assert node.load(VIDEO.car).lines[0]["Root"]["PinErrorMsg"] == ""
        yield node


def test_a_file_comes_with_its_type_its_tag_and_leave_to_be_cached(node: EmbeddedNode) -> None:
    answer = node.get(f"{ROOT}/seg1.ts")
    assert (answer.status, answer.body) == (200, CONTENT)
    expected = {
        "Content-Type": "video/mp2t",
        "Content-Length": str(len(CONTENT)),
        "ETag": f'"{SEGMENT}"',
        "Cache-Control": "public, max-age=29030400, immutable",
        "Accept-Ranges": "bytes",
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
        "X-Ipfs-Path": f"{ROOT}/seg1.ts",
        "X-Ipfs-Roots": f"{VIDEO.root},{SEGMENT}",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    head = node.get(f"{ROOT}/seg1.ts", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {name: head.headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-3", 206, 0, 4),
        ("bytes=990-2010", 206, 990, 2011),
        ("bytes=5000-", 206, 5000, 5120),
        ("bytes=-7", 206, 5113, 5120),
        ("bytes=-99999", 206, 0, 5120),
        ("bytes=5119-99999", 206, 5119, 5120),
        ("bytes=0-1,3-4", 206, 0, 2),
        ("bytes=3-1", 200, 0, 5120),
        ("bytes=-", 200, 0, 5120),
        ("lines=1-2", 200, 0, 5120),
        ("bytes=5120-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_ranges_follow_rfc_9110(node: EmbeddedNode, asked: str, status: int, start: int, end: int) -> None:
    answer = node.get(f"{ROOT}/seg1.ts", Range=asked)
    assert answer.status == status
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */5120"
        return
    assert answer.body == CONTENT[start:end]
    assert answer.headers.get("Content-Range") == (f"bytes {start}-{end - 1}/5120" if status == 206 else None)


def test_a_range_of_another_version_is_not_given(node: EmbeddedNode) -> None:
    assert node.get(f"{ROOT}/seg1.ts", Range="bytes=0-3", If_Range=f'"{ABSENT}"').status == 200
    assert node.get(f"{ROOT}/seg1.ts", Range="bytes=0-3", If_Range=f'"{SEGMENT}"').status == 206


@pytest.mark.parametrize("tag", [f'"{SEGMENT}"', f'W/"{SEGMENT}"', f'"x", "{SEGMENT}"', "*"])
def test_what_is_known_is_not_sent_again(node: EmbeddedNode, tag: str) -> None:
    answer = node.get(f"{ROOT}/seg1.ts", If_None_Match=tag)
    assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", f'"{SEGMENT}"')
    assert node.get(f"{ROOT}/seg1.ts", If_None_Match=f'"{ABSENT}"').status == 200


def test_only_blocks_within_the_range_are_read(node: EmbeddedNode, repo: Path) -> None:
    block_file(repo, LEAVES[0]).unlink()
    assert node.get(f"{ROOT}/seg1.ts", Range="bytes=1000-2999").body == CONTENT[1000:3000]


def test_a_file_may_be_given_a_name(node: EmbeddedNode) -> None:
    answer = node.get(f"/ipfs/{SEGMENT}?filename=sp%C3%A9%22ed.m3u8")
    assert answer.headers["Content-Type"] == "application/vnd.apple.mpegurl"
    assert answer.headers["Content-Disposition"] == (
        "inline; filename=\"sp__ed.m3u8\"; filename*=UTF-8''sp%C3%A9%22ed.m3u8"
    )
    saved = node.get(f"/ipfs/{SEGMENT}?filename=a.ts&download=true")
    assert saved.headers["Content-Disposition"].startswith("attachment; ")
    assert node.get(f"/ipfs/{SEGMENT}").headers["Content-Type"] == "application/octet-stream"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name == "href"]


def test_a_listing_leads_to_every_file_and_holds_no_foreign_markup(node: EmbeddedNode) -> None:
    answer = node.get(f"{ROOT}/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = _Links()
    page.feed(answer.body.decode())
    assert "b" not in page.tags
    names = {unquote(link.removeprefix("./")): link for link in page.found}
    assert names.keys() == {"master.m3u8", "seg1.ts", AWKWARD, "site", "empty.ts"}
    assert node.get(f"{ROOT}/{names[AWKWARD].removeprefix('./')}").body == b"awkward"
    assert node.get(f"{ROOT}/", If_None_Match=answer.headers["ETag"]).status == 304


def test_a_directory_is_left_at_its_slash_and_shows_its_index(node: EmbeddedNode) -> None:
    away = node.get(f"{ROOT}/site?x=1")
    assert (away.status, away.headers["Location"]) == (301, f"{ROOT}/site/?x=1")
    index = node.get(f"{ROOT}/site/")
    assert (index.body, index.headers["ETag"]) == (b"<p>hello", f'"{VIDEO.cids["site/index.html"]}"')
    assert index.headers["Content-Security-Policy"].startswith("sandbox")


def test_an_empty_file_is_a_file(node: EmbeddedNode) -> None:
    answer = node.get(f"{ROOT}/empty.ts")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


def test_a_car_holds_every_block_once(node: EmbeddedNode) -> None:
    for answer in (
        node.get(f"{ROOT}?format=car&dag-scope=all"),
        node.get(ROOT, Accept="application/vnd.ipld.car; version=1"),
    ):
        assert answer.headers["Content-Type"].startswith("application/vnd.ipld.car; version=1")
        blocks = blocks_of(answer.body)
        assert (dict(blocks), len(blocks)) == (VIDEO.blocks, len(VIDEO.blocks))


def test_a_car_of_a_path_proves_the_path(node: EmbeddedNode) -> None:
    whole = blocks_of(node.get(f"{ROOT}/seg1.ts?format=car").body)
    assert [cid for cid, _ in whole[:2]] == [VIDEO.root, SEGMENT]
    assert {cid for cid, _ in whole[2:]} == set(LEAVES)
    block = blocks_of(node.get(f"{ROOT}/seg1.ts?format=car&dag-scope=block").body)
    assert [cid for cid, _ in block] == [VIDEO.root, SEGMENT]
    entity = blocks_of(node.get(f"{ROOT}?format=car&dag-scope=entity").body)
    assert [cid for cid, _ in entity] == [VIDEO.root]


def test_a_raw_block_is_the_block(node: EmbeddedNode) -> None:
    for answer in (node.get(f"{ROOT}?format=raw"), node.get(ROOT, Accept="application/vnd.ipld.raw")):
        assert answer.body == VIDEO.blocks[VIDEO.root]
        assert answer.headers["Content-Type"] == "application/vnd.ipld.raw"
    assert node.get(f"{ROOT}?format=tar").status == 406


def test_what_is_not_there_is_told_apart(node: EmbeddedNode) -> None:
    missing = node.get(f"{ROOT}/nope.ts")
    assert (missing.status, missing.body.decode()) == (404, f'no link named "nope.ts" under {VIDEO.root}\n')
    assert node.get(f"/ipfs/{ABSENT}").status == 404
    assert node.get(f"/ipfs/{ABSENT}?format=raw", Cache_Control="only-if-cached").status == 412
    assert node.get(f"{ROOT}/seg1.ts/x").status == 404
    assert node.get("/ipfs/garbage").status == 400
    assert node.get("/").status == 404
    assert node.get("/ipfs/").status == 400
    assert node.get(f"{ROOT}/seg1.ts%0d%0aX-Evil:1").status == 404


def test_the_gateway_is_read_only_and_open_to_other_origins(node: EmbeddedNode) -> None:
    assert ask(node.gateway, "POST", ROOT, {}).headers["Allow"] == "GET, HEAD, OPTIONS"
    preflight = node.get(ROOT, "OPTIONS")
    assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "Range" in preflight.headers["Access-Control-Allow-Headers"]


def test_a_damaged_block_is_never_served(node: EmbeddedNode, repo: Path) -> None:
    file = block_file(repo, LEAVES[2])
    file.write_bytes(b"X" + file.read_bytes()[1:])
    with pytest.raises(http.client.IncompleteRead) as file_cut:
        node.get(f"{ROOT}/seg1.ts")
    assert file_cut.value.partial == CONTENT[:2000]
    with pytest.raises(http.client.IncompleteRead):
        node.get(f"{ROOT}?format=car")
    answer = node.get(f"/ipfs/{LEAVES[2]}")
    assert answer.status == 500
    assert re.search(rb"damaged on disk", answer.body)
    assert "damaged" in node.call("dag/stat", arg=str(VIDEO.root), progress="false").message


def test_importing_again_repairs_damage(node: EmbeddedNode, repo: Path) -> None:
    for leaf, damage in zip(LEAVES[:3], (b"", b"short", b"X" * 1000), strict=True):
        block_file(repo, leaf).write_bytes(damage)
    assert node.load(VIDEO.car).status == 200
    assert node.get(f"{ROOT}/seg1.ts").body == CONTENT
