"""Content ids of files and directories, against Kubo's golden values and `aleph-cid` as a second opinion."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import aleph_cid
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hls_pipeline.errors import UsageError, UserError
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import (
    PROFILES,
    Extent,
    FileBuilder,
    Node,
    Profile,
    build_directory,
    entries,
    hash_tree,
    links,
    resolve,
)
from tests.ipfs.chacha import key_stream, key_stream_pieces

V0, V1 = PROFILES["unixfs-v0-2015"], PROFILES["unixfs-v1-2025"]
MIB = 1024 * 1024
KUBOS_ALPHABET = "abcdefghijklmnopqrstuvwxyz01234567890-_"


def node_of(pieces: Iterable[bytes], profile: Profile) -> Node:
    builder = FileBuilder(profile)
    for piece in pieces:
        builder.feed(piece)
    return builder.finish()[0]


def file_of(data: bytes, profile: Profile = V1) -> Node:
    return node_of([data], profile)


@pytest.mark.parametrize(
    ("profile", "seed", "size", "golden"),
    [
        (V0, "chunk-v0-seed", 262144, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
        (V0, "chunk-v0-seed", 262145, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
        (V0, "v0-seed", 174 * 262144, "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
        (V0, "v0-seed", 174 * 262144 + 1, "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW"),
        (V1, "chunk-v1-seed", MIB, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        (V1, "chunk-v1-seed", MIB + 1, "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
    ],
)
def test_files_have_kubos_golden_content_ids(profile: Profile, seed: str, size: int, golden: str) -> None:
    node = node_of(key_stream_pieces(seed, size), profile)
    assert str(node.cid) == golden
    assert node.size == size


def test_a_file_that_fills_a_link_node_and_one_with_a_byte_more_are_those_of_kubo() -> None:
    builder = FileBuilder(V1)
    pieces = key_stream_pieces("v1-2025-seed", 1024 * MIB + 1)
    for piece in islice(pieces, 1024):
        builder.feed(piece)
    full = deepcopy(builder).finish()[0]
    (last,) = pieces
    builder.feed(last)
    assert str(full.cid) == "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"
    assert str(builder.finish()[0].cid) == "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"


@pytest.mark.parametrize(
    ("data", "v1", "v0"),
    [
        (
            b"",
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
        ),
        (
            b"hello world",
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
            "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD",
        ),
    ],
)
def test_small_files_have_kubos_content_ids(data: bytes, v1: str, v0: str) -> None:
    assert (str(file_of(data, V1).cid), str(file_of(data, V0).cid)) == (v1, v0)


def test_empty_directories_have_kubos_content_ids() -> None:
    assert str(build_directory({}, V1).root.cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert str(build_directory({}, V0).root.cid) == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"


@pytest.mark.parametrize(
    ("profile", "count", "length", "last", "golden", "sharded"),
    [
        (V0, 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN", False),
        (V0, 4033, 31, 31, "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP", True),
        (V1, 4766, 11, 21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4", False),
        (V1, 4766, 11, 22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu", True),
    ],
)
def test_a_directory_is_sharded_one_byte_above_the_threshold_as_kubo_does(
    profile: Profile, count: int, length: int, last: int, golden: str, sharded: bool
) -> None:
    stream = key_stream(f"hamt-{profile.name}", MIB)
    lengths = [length] * (count - 1) + [last]
    starts = [index * length for index in range(count)]
    names = [
        "".join(KUBOS_ALPHABET[byte % len(KUBOS_ALPHABET)] for byte in stream[start : start + size])
        for start, size in zip(starts, lengths, strict=True)
    ]
    directory = build_directory(dict.fromkeys(names, file_of(b"x", profile)), profile)
    assert str(directory.root.cid) == golden
    assert (len(directory.blocks) > 1) is sharded


def ten_thousand(profile: Profile) -> Mapping[str, Node]:
    return {f"seg_{index:05d}.ts": file_of(b"%d" % (index % 7), profile) for index in range(10_000)}


@pytest.mark.parametrize(
    ("profile", "golden"),
    [
        (V1, "bafybeibo54eqij7jg35wwcqynmtt36vvs2is5h5ovki3qcfij62fg46zua"),
        (V0, "Qma7nnLhxgU1GoUDdsUjUkXaA87Q3CmvPhWQYUCiAgJdor"),
    ],
)
def test_a_directory_of_ten_thousand_entries_is_that_of_kubo(profile: Profile, golden: str) -> None:
    assert str(build_directory(ten_thousand(profile), profile).root.cid) == golden


def test_a_sharded_directory_lists_and_resolves_every_entry() -> None:
    files = ten_thousand(V1)
    directory = build_directory(files, V1)
    store = dict(directory.blocks)
    listed = {entry.name: entry.cid for entry in entries(directory.root.cid, store.__getitem__)}
    assert listed == {name: node.cid for name, node in files.items()}
    assert resolve(directory.root.cid, ["seg_09999.ts"], store.__getitem__) == files["seg_09999.ts"].cid


def test_a_directory_of_every_odd_thing_is_that_of_kubo(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/é ü+%&'\".ts").write_bytes(b"x")
    (tmp_path / "a/z").write_bytes(b"y" * 300_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "日本語").write_bytes(b"n")
    (tmp_path / "link").symlink_to("a/z")
    (tmp_path / "dangling").symlink_to("/nonexistent/é")
    (tmp_path / "folder").symlink_to("a")
    (tmp_path / ".hidden").write_bytes(b"left out")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_bytes(b"left out")
    assert str(hash_tree(tmp_path, V1).root.cid) == "bafybeigh67ufe3emxpou4febqmf55trequrxd3a4tcffjixy7tgyene5oi"
    assert str(hash_tree(tmp_path, V0).root.cid) == "QmNvHdQmufWmYEvKU1Hm6ZwmAVWsqjEBJVchsrqXm9iZLz"


def test_hashing_a_single_file_or_link_gives_its_own_content_id(tmp_path: Path) -> None:
    (tmp_path / ".x").write_bytes(b"hello world")
    (tmp_path / "link").symlink_to("a/z")
    assert hash_tree(tmp_path / ".x", V1).root == file_of(b"hello world", V1)
    link = "bafybeifxlwzlyva27dgdpycpmetep6qr37ythbshmaryrxze5dohg7u4ca"
    assert str(hash_tree(tmp_path / "link", V1).root.cid) == link


def test_hashing_what_is_not_there_or_no_file_is_the_callers_mistake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing"):
        with pytest.raises(UsageError):
            hash_tree(path, V1)


@pytest.mark.parametrize("size", [0, 1, 262143, 262144, 262145, 174 * 262144, 174 * 262144 + 1, 50_000_000])
def test_a_second_implementation_agrees_on_version_0(size: int) -> None:
    data = key_stream(f"second opinion {size}", size)
    assert str(file_of(data, V0).cid) == aleph_cid.compute_cid(data)


@pytest.mark.parametrize("size", [1, 262145, 174 * 262144 + 1])
def test_a_second_implementation_agrees_on_raw_leaves(size: int) -> None:
    data = key_stream(f"raw {size}", size)
    hasher = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    hasher.update(data)
    small = replace(V1, chunk_size=262144, max_links=174)
    assert str(file_of(data, small).cid) == hasher.finalize()


def test_a_second_implementation_agrees_on_a_nested_directory(tmp_path: Path) -> None:
    for path in ("master.m3u8", "720p/index.m3u8", "720p/ségment 1+%.ts", "audio/de/1.aac"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(key_stream(path, 300_000))
    assert str(hash_tree(tmp_path, V0).root.cid) == aleph_cid.hash_folder(str(tmp_path), cid_version=0)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000), st.integers(1, 700), st.sampled_from([V0, V1]))
def test_pieces_of_any_size_give_the_same_blocks(data: bytes, piece: int, profile: Profile) -> None:
    small = replace(profile, chunk_size=256, max_links=3)
    builder = FileBuilder(small)
    blocks = [block for at in range(0, len(data), piece) for block in builder.feed(data[at : at + piece])]
    node, rest = builder.finish()
    blocks += rest
    whole = FileBuilder(small)
    assert [*whole.feed(data), *whole.finish()[1]] == blocks
    assert all(Cid.of(block, cid.codec, cid.version) == cid for cid, block in blocks)
    assert (node.blocks, node.tsize) == (len(blocks), sum(len(block) for _, block in blocks))
    named = {child for cid, block in blocks for child in links(cid, block)}
    assert named | {node.cid} == {cid for cid, _ in blocks}


def test_memory_stays_the_same_however_large_the_file() -> None:
    builder = FileBuilder(V1)
    chunk = bytes(MIB)
    tracemalloc.start()
    for _ in range(1100):  # more than one link node
        builder.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert builder.finish()[0].size == 1100 * MIB
    assert peak < 4 * MIB


def test_extent_counts_a_file_that_occurs_twice_once() -> None:
    file = file_of(b"segment")
    directory = build_directory({"a/1.ts": file, "b/1.ts": file}, V1)
    assert directory.extent == Extent(3, sum(len(block) for _, block in directory.blocks) + len(b"segment"))
    assert directory.nodes["a"] == directory.nodes["b"]


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a"])
def test_senseless_paths_are_refused(path: str) -> None:
    with pytest.raises(UserError):
        build_directory({path: file_of(b"x")}, V1)


def test_a_path_that_is_a_file_and_a_directory_is_refused() -> None:
    with pytest.raises(UserError, match="both a file and a directory"):
        build_directory({"a": file_of(b"x"), "a/b": file_of(b"y")}, V1)


def test_a_very_deep_path_is_built_without_recursion() -> None:
    directory = build_directory({"/".join(["d"] * 3000): file_of(b"x")}, V1)
    assert directory.root.blocks == 3001  # 3000 directories with the root, and the file


def test_links_are_sorted_by_the_bytes_of_their_names() -> None:
    directory = build_directory(dict.fromkeys(["é", "z", "a", "Z", "\U0001f600", "\uffff"], file_of(b"x")), V1)
    names = [link.name.decode() for link in dagpb.decode(directory.blocks[0][1]).links]
    assert names == sorted(names, key=str.encode)
