"""Addresses that others rely on, by value."""

from __future__ import annotations

import pytest

from hls_pipeline import keys


@pytest.mark.parametrize("name", ["a", "video_123", "0-x", "A" * 64])
def test_a_video_id_is_plain_and_short(name: str) -> None:
    assert keys.is_video_id(name)


@pytest.mark.parametrize("name", ["", "_a", "-a", "a b", "a/b", "a.b", "é", "a\n", "A" * 65, "..", "a\0"])
def test_anything_else_is_no_video_id(name: str) -> None:
    assert not keys.is_video_id(name)


def test_keys_of_a_revision_are_where_the_design_says() -> None:
    assert keys.inbox("v", "a/b.ts") == "v/a/b.ts"
    assert keys.inbox("v", keys.READY) == "v/_READY"
    assert keys.inbox("v", keys.REJECTED) == "v/_REJECTED.json"
    assert keys.media("v", 2, "bafk", "a/Seg 1.TS") == "v/r2/media/bafk.ts"
    assert keys.original("v", 2, "a/i.m3u8") == "v/r2/original/a/i.m3u8"
    assert keys.s3_manifest("v", 2, "a/i.m3u8") == "v/r2/s3/a/i.m3u8"
    assert keys.unreferenced("v", 2, "notes.txt") == "v/r2/unreferenced/notes.txt"
    assert keys.current_document("v") == "v/metadata.json"
    assert all(
        key.startswith(keys.revision("v", 2)) for key in (keys.media("v", 2, "c", ""), keys.original("v", 2, "p"))
    )


def test_no_revision_is_the_start_of_another() -> None:
    assert not keys.revision("v", 11).startswith(keys.revision("v", 1))


@pytest.mark.parametrize(
    ("path", "suffix"),
    [("a.ts", ".ts"), ("a.TS", ".ts"), ("a", ""), (".ts", ""), ("a.b c", ""), ("a.tar.gz", ".gz"), ("a.é", ""),
     ('a."x', ""), ("a.abcdefghi", "")],
)  # fmt: skip
def test_only_a_plain_extension_is_kept(path: str, suffix: str) -> None:
    assert keys.suffix(path) == suffix


def test_references_in_a_playlist_are_encoded_so_that_no_name_can_end_them() -> None:
    assert keys.s3_reference("media", 'v/r1/s3/a "b", c?.m3u8') == "s3://media/v/r1/s3/a%20%22b%22%2C%20c%3F.m3u8"
    assert keys.ipfs_reference("bafk", 'a/b/c "d"&e.ts') == "ipfs://bafk?filename=c%20%22d%22%26e.ts"
    assert keys.ipfs_path("bafy", "a b/ü.m3u8") == "ipfs://bafy/a%20b/%C3%BC.m3u8"


def test_addresses_in_documents_are_what_the_design_says() -> None:
    assert keys.s3_uri("media", "v/r1/s3/a b.m3u8") == "s3://media/v/r1/s3/a b.m3u8"
    assert keys.ipfs_uri("bafy") == "ipfs://bafy"
    assert keys.play("v", "hd/master list.m3u8") == "/v1/videos/v/play/hd/master%20list.m3u8"
