"""Reading files and directories out of blocks, friendly and hostile ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hls_pipeline.errors import Corruption, NotFound
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.cid import DAG_PB, Cid, varint
from hls_pipeline.ipfs.unixfs import (
    PROFILES,
    FileBuilder,
    Kind,
    build_directory,
    entries,
    inspect,
    links,
    read_file,
    resolve,
)

V1 = PROFILES["unixfs-v1-2025"]


class Store(dict[Cid, bytes]):
    def put(self, block: bytes, codec: int = DAG_PB) -> Cid:
        cid = Cid.of(block, codec)
        self[cid] = block
        return cid

    def file(self, data: bytes, name: str = "unixfs-v1-2025") -> Cid:
        builder = FileBuilder(replace(PROFILES[name], chunk_size=10, max_links=3))
        self.update(builder.feed(data))
        node, rest = builder.finish()
        self.update(rest)
        return node.cid


@settings(max_examples=150)
@given(st.binary(max_size=400), st.integers(0, 420), st.integers(0, 420), st.sampled_from(list(PROFILES)))
def test_any_range_of_a_file_is_that_slice_of_its_content(data: bytes, start: int, end: int, profile: str) -> None:
    store = Store()
    cid = store.file(data, profile)
    assert b"".join(read_file(cid, store.__getitem__, start, end)) == data[start:end]
    assert inspect(cid, store[cid]).size == len(data)


def test_only_the_blocks_of_the_range_are_fetched() -> None:
    store, fetched = Store(), []
    cid = store.file(bytes(range(250)))

    def fetch(wanted: Cid) -> bytes:
        fetched.append(wanted)
        return store[wanted]

    assert b"".join(read_file(cid, fetch, 241, 243)) == bytes([241, 242])
    assert len(fetched) == 4  # three levels of links, one leaf


def test_paths_are_resolved_and_missing_ones_are_not_found() -> None:
    store = Store()
    builder = FileBuilder(V1)
    builder.feed(b"x")
    node = builder.finish()[0]
    directory = build_directory({"720p/é +%.ts": node}, V1, empty=["void"])
    store.update(directory.blocks)
    root = directory.root.cid
    assert resolve(root, ["720p", "é +%.ts"], store.__getitem__) == node.cid
    assert [entry.name for entry in entries(root, store.__getitem__)] == ["720p", "void"]
    assert inspect(root, store[root]).kind is Kind.DIRECTORY
    for path in (["720p", "e"], ["nothing"], ["720p", "é +%.ts", "below"], [""], [".."]):
        with pytest.raises(NotFound):
            resolve(root, path, store.__getitem__)
    with pytest.raises(NotFound):
        list(read_file(root, store.__getitem__))


def file_block(children: list[tuple[Cid, int]], sizes: list[int]) -> bytes:
    data = b"\x08\x02\x18" + varint(sum(sizes)) + b"".join(b"\x20" + varint(size) for size in sizes)
    return dagpb.encode(data, [dagpb.Link(b"", cid, size) for cid, size in children])


def test_sizes_that_do_not_match_what_is_below_are_damage() -> None:
    store = Store()
    leaf = store.put(b"ten bytes!", 0x55)
    lying = store.put(file_block([(leaf, 11)], [11]))
    uneven = store.put(file_block([(leaf, 10)], [10, 10]))
    for cid in (lying, uneven):
        with pytest.raises(Corruption):
            list(read_file(cid, store.__getitem__))


def test_a_file_that_holds_nothing_a_thousand_times_over_is_read_at_once() -> None:
    """Each level links the empty level below 100 times: 100**20 visits for a reader that follows empty children."""
    store = Store()
    cid = store.put(file_block([], []))
    for _ in range(20):
        cid = store.put(file_block([(cid, 0)] * 100, [0] * 100))
    assert list(read_file(cid, store.__getitem__)) == []


def shard(children: list[dagpb.Link]) -> bytes:
    return dagpb.encode(b"\x08\x05\x12\x01\xff\x28\x22\x30\x80\x02", children)


def test_a_shard_that_pretends_to_hold_itself_everywhere_is_damage() -> None:
    store = Store()
    below = store.put(shard([dagpb.Link(b"00entry", Cid.of(b"x"), 1)]))
    for _ in range(7):
        below = store.put(shard([dagpb.Link(b"%02X" % slot, below, 1) for slot in range(256)]))
    with pytest.raises(Corruption):
        list(entries(below, store.__getitem__))


def test_empty_and_too_deep_shards_are_damage() -> None:
    store = Store()
    with pytest.raises(Corruption):
        list(entries(store.put(shard([])), store.__getitem__))
    with pytest.raises(Corruption):
        list(entries(store.put(shard([dagpb.Link(b"ZZname", Cid.of(b"x"), 1)])), store.__getitem__))
    below = store.put(shard([dagpb.Link(b"00entry", Cid.of(b"x"), 1)]))
    for _ in range(9):
        below = store.put(shard([dagpb.Link(b"00", below, 1)]))
    with pytest.raises(Corruption):
        list(entries(below, store.__getitem__))


@given(st.binary(max_size=120))
def test_any_block_is_readable_or_damage(block: bytes) -> None:
    cid = Cid.of(block, DAG_PB)
    try:
        links(cid, block)
        inspect(cid, block)
    except Corruption:
        return


def test_blocks_of_other_codecs_are_refused() -> None:
    cid = Cid.of(b"\xa0", 0x71)
    with pytest.raises(Corruption, match="codec"):
        links(cid, b"\xa0")
    assert links(Cid.of(b"x"), b"x") == ()
