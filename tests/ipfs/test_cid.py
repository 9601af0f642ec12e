"""Content ids: text and binary forms, and what is no content id."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls_pipeline.errors import Corruption, UserError
from hls_pipeline.ipfs.cid import DAG_PB, IDENTITY, NO_ROOT, RAW, Cid, read_cid, read_varint, varint

HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
EMPTY_V0 = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"

cids = st.builds(
    lambda data, version, codec: Cid.of(data, codec if version else DAG_PB, version),
    st.binary(max_size=8),
    st.sampled_from([0, 1]),
    st.sampled_from([RAW, DAG_PB, 0x0129]),
)


def test_a_raw_block_has_the_content_id_that_ipfs_gives_it() -> None:
    assert str(Cid.of(b"hello world")) == HELLO


def test_the_null_root_is_kubos() -> None:
    assert str(NO_ROOT) == "bafkqaaa"
    assert Cid.parse("bafkqaaa") == NO_ROOT


@given(cids)
def test_text_and_bytes_come_back_as_the_same_content_id(cid: Cid) -> None:
    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(bytes(cid)) == cid
    assert read_cid(b"before" + bytes(cid) + b"after", 6) == (cid, 6 + len(bytes(cid)))


def test_base58_and_hex_name_the_same_content() -> None:
    cid = Cid.parse(HELLO)
    assert Cid.parse("f" + bytes(cid).hex()) == cid
    assert Cid.parse("zb2rhj7crUKTQYRGCRATFaQ6YFLTde2YzdqbbhAASkL9uRDXn") == cid


def test_version_0_is_read_and_written_in_base58() -> None:
    cid = Cid.parse(EMPTY_V0)
    assert (cid.version, cid.codec, str(cid)) == (0, DAG_PB, EMPTY_V0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "Qm",
        "hello",
        HELLO[:-1],
        HELLO + "a",
        HELLO.upper(),
        "b" + HELLO,
        EMPTY_V0[:-1],
        EMPTY_V0[:-1] + "0",
        "f" + "é" * 10,
        "z" + EMPTY_V0,
        "b" + "a" * 100_000,
        HELLO + "\n",
        "../" + HELLO,
        # other spellings of the same bytes
        "f" + " ".join(re.findall("..", bytes(Cid.parse(HELLO)).hex())),
        "f" + bytes(Cid.parse(HELLO)).hex().upper(),
        HELLO[:-1] + chr(ord(HELLO[-1]) + 1),
        # sha2-512, blake3 and a SHA-256 that says it has 20 bytes
        "f0155" + "1340" + "00" * 64,
        "f0155" + "1e20" + "00" * 32,
        "f0155" + "1214" + "00" * 20,
        # an identity of 129 bytes
        "f0155" + "008101" + "00" * 129,
    ],
)
def test_text_that_is_no_content_id_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(UserError):
        Cid.parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_content_id_or_a_mistake(text: str) -> None:
    try:
        Cid.parse(text)
    except UserError:
        return
    assert text[0] in "Qbzf"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_content_id_or_damage(data: bytes) -> None:
    try:
        cid = Cid.from_bytes(data)
    except Corruption:
        return
    assert bytes(cid) == data


def test_an_identity_content_id_verifies_only_its_own_bytes() -> None:
    cid = Cid(1, RAW, b"abc", IDENTITY)
    assert cid.verifies(b"abc")
    assert not cid.verifies(b"abd")


@given(st.integers(0, 2**63 - 1))
def test_varints_come_back(number: int) -> None:
    assert read_varint(b"\xff" + varint(number), 1) == (number, 1 + len(varint(number)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 10, b"\x80" * 9 + b"\x01"])
def test_varints_that_are_cut_too_long_or_padded_are_damage(data: bytes) -> None:
    with pytest.raises(Corruption):
        read_varint(data, 0)
