"""CAR streams: what is written is read back, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import aleph_cid
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hls_pipeline.errors import Corruption
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import DAG_PB, NO_ROOT, Cid, varint
from hls_pipeline.ipfs.unixfs import PROFILES, hash_tree

BLOCKS = [(Cid.of(data), data) for data in (b"", b"a", b"segment" * 1000)]


def written(roots: list[Cid], blocks: list[car.Block]) -> bytes:
    return b"".join(car.write_car(roots, blocks))


class Dripping:
    """A stream that hands out at most `step` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.stream, self.step = io.BytesIO(data), step

    def read(self, n: int, /) -> bytes:
        return self.stream.read(min(n, self.step))


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from([0, 1, 23, 24, 199]), st.integers(1, 50))
def test_a_car_gives_back_its_roots_and_blocks_however_it_arrives(contents: list[bytes], roots: int, step: int) -> None:
    blocks = [(Cid.of(data, DAG_PB, version), data) for data in contents for version in (0, 1)]
    names = [Cid.of(bytes([number])) for number in range(roots)]
    stream = Dripping(written(names, blocks), step)
    assert car.read_roots(stream) == tuple(names)
    assert list(car.read_blocks(stream)) == blocks


def test_the_header_is_the_dag_cbor_that_other_tools_read(tmp_path: Path) -> None:
    (tmp_path / "x.car").write_bytes(written([BLOCKS[1][0]], BLOCKS))
    assert aleph_cid.read_carv1_root(str(tmp_path / "x.car")) == str(BLOCKS[1][0])


def test_a_car_of_another_tool_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.ts", "b.ts"):
        (tmp_path / "in" / name).write_bytes(name.encode() * 1000)
    root = aleph_cid.write_folder_car(str(tmp_path / "in"), str(tmp_path / "out.car"), cid_version=0)
    with open(tmp_path / "out.car", "rb") as stream:
        found = {str(cid) for cid, _ in car.read_car(stream)}
    assert root in found
    assert root == str(hash_tree(tmp_path / "in", PROFILES["unixfs-v0-2015"]).root.cid)


@settings(max_examples=200)
@given(st.integers(0, 7200), st.integers(0, 255))
def test_one_changed_byte_is_noticed_or_changes_nothing(at: int, value: int) -> None:
    good = written([BLOCKS[0][0]], BLOCKS)
    at %= len(good)
    bad = good[:at] + bytes([value]) + good[at + 1 :]
    try:
        read = list(car.read_car(io.BytesIO(bad)))
    except Corruption:
        return
    assert all(cid.verifies(data) for cid, data in read)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_car_cut_within_a_block_is_damage(share: float) -> None:
    good = written([NO_ROOT], BLOCKS)
    with pytest.raises(Corruption):
        list(car.read_car(io.BytesIO(good[: int(len(good) * share)])))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00",
        b"not a car at all",
        varint(8193) + bytes(8193),
        varint(10**12),
        b"\xff" * 20,
        varint(5) + b"\xa1\x67ver",
        # version 2, no roots, roots twice, trailing bytes, an endless array
        b"\x0a\xa1\x67version\x02",
        b"\x0a\xa1\x67version\x01",
        b"\x18\xa3\x65roots\x80\x65roots\x80\x67version\x01",
        b"\x12\xa2\x65roots\x80\x67version\x01\x00",
        b"\x15\xa2\x67version\x01\x65roots\x9a\xff\xff\xff\xff",
    ],
)
def test_a_bad_header_is_damage(head: bytes) -> None:
    with pytest.raises(Corruption):
        list(car.read_car(io.BytesIO(head)))


@pytest.mark.parametrize("length", [2 * 1024 * 1024 + 257, 10**9, 2**35 - 1])
def test_a_block_that_is_too_large_is_refused_before_memory_is_taken(length: int) -> None:
    class Endless:
        def __init__(self) -> None:
            self.head = io.BytesIO(car.header([]) + varint(length))

        def read(self, n: int, /) -> bytes:
            assert n < 10_000, "asked for the block"
            return self.head.read(n)

    with pytest.raises(Corruption, match="section"):
        list(car.read_car(Endless()))


def test_the_largest_block_is_read_and_a_larger_one_is_not() -> None:
    largest = bytes(car.MAX_BLOCK)
    assert len(list(car.read_car(io.BytesIO(written([], [(Cid.of(largest), largest)]))))) == 1
    larger = largest + b"x"
    with pytest.raises(Corruption):
        list(car.read_car(io.BytesIO(written([], [(Cid.of(larger), larger)]))))


def test_wrong_bytes_under_a_content_id_are_damage() -> None:
    with pytest.raises(Corruption, match="hash to something else"):
        list(car.read_car(io.BytesIO(written([], [(Cid.of(b"a"), b"b")]))))
