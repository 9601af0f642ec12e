"""The documents by value, and the hash chain over them. Others read, sign and recompute both."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from hls_pipeline import documents
from hls_pipeline.hls import metadata

TIME = datetime(2026, 1, 5, 15, 5, 0, 999_000, tzinfo=UTC)


def temporary(creator: dict[str, Any]) -> dict[str, Any]:
    return documents.temporary(
        video_id="video_123",
        revision=1,
        manifest="s3://media/video_123/r1/s3/master.m3u8",
        playlist="master.m3u8",
        segments=["s3://media/video_123/r1/media/bafk1.ts", "s3://media/video_123/r1/media/bafk2.ts"],
        estimated_completion=TIME,
        creator=creator,
    )


def final(creator: dict[str, Any]) -> dict[str, Any]:
    return documents.final(
        video_id="video_123",
        revision=1,
        root_playlist_cid="bafkmaster",
        root="bafydirectory",
        record="bafyrecord",
        playlist="master.m3u8",
        segments=["bafk1", "bafk2"],
        completed_at=TIME,
        replicas=2,
        creator=creator,
    )


def test_the_temporary_document_has_exactly_this_shape() -> None:
    assert temporary({"title": "T"}) == {
        "video_id": "video_123",
        "revision": 1,
        "status": "processing",
        "s3_manifest": "s3://media/video_123/r1/s3/master.m3u8",
        "play": "/v1/videos/video_123/play/master.m3u8",
        "estimated_completion": "2026-01-05T15:05:00Z",
        "title": "T",
        "video_assets": {
            "s3_m3u8": "s3://media/video_123/r1/s3/master.m3u8",
            "segments": ["s3://media/video_123/r1/media/bafk1.ts", "s3://media/video_123/r1/media/bafk2.ts"],
        },
    }


def test_the_final_document_has_exactly_this_shape() -> None:
    assert final({"title": "T"}) == {
        "video_id": "video_123",
        "revision": 1,
        "status": "ready",
        "play": "/v1/videos/video_123/play/master.m3u8",
        "completed_at": "2026-01-05T15:05:00Z",
        "replicas": 2,
        "title": "T",
        "video_assets": {
            "ipfs_m3u8": "ipfs://bafkmaster",
            "ipfs_directory": "ipfs://bafydirectory",
            "ipfs_record": "ipfs://bafyrecord",
            "playlist": "master.m3u8",
            "segments": ["ipfs://bafk1", "ipfs://bafk2"],
        },
    }


@pytest.mark.parametrize("form", [temporary, final])
def test_a_creators_fields_stay_as_they_were_sent(form: Any) -> None:
    creator = {
        "title": "x\0y 🌌 \u2028",
        "nested": {"status": "mine", "list": [1, 2.5, None, True, {"revision": []}]},
        "empty": None,
        "": "no name",
    }
    document = form(creator)
    assert {name: document[name] for name in creator} == creator


@pytest.mark.parametrize("form", [temporary, final])
def test_a_creators_names_cannot_reach_into_our_code(form: Any) -> None:
    names = ["self", "model_config", "model_dump", "model_fields", "model_extra", "copy", "json", "__class__", "cls"]
    creator = {name: f"a {name}" for name in [*names, "__pydantic_extra__", "__init__", "__dict__", "data"]}
    document = form(creator)
    assert {name: document[name] for name in creator} == creator
    assert document["video_id"] == "video_123"


@pytest.mark.parametrize("form", [temporary, final])
def test_reserved_names_are_ours_alone(form: Any) -> None:
    assert form(dict.fromkeys([*metadata.RESERVED, "video_id"], "mine")) == form({})


def test_the_names_that_documents_use_are_those_that_metadata_may_not() -> None:
    ours = (temporary({}).keys() | final({}).keys()) - {"video_id"}
    assert ours == metadata.RESERVED


def test_a_document_is_stored_in_its_canonical_form() -> None:
    """RFC 8785: members sorted by UTF-16 code units, no spaces, shortest numbers, escapes only where needed."""
    document = {"b": 10.0, "a": [1e21, 0.000001, -0.0], "\ue000": 1, "🌌": '\0\u2028"é', "A": {}}
    text = documents.canonical(document)
    assert text == '{"A":{},"a":[1e+21,0.000001,0],"b":10,"🌌":"\\u0000\u2028\\"é","\ue000":1}'
    assert json.loads(text) == document


def test_the_hash_of_a_version_is_this_value() -> None:
    """SHA-256 of the RFC 8785 text below, written out by hand: whoever has an export can recompute it."""
    sha256 = documents.sha256('{"title":"T"}')
    assert sha256 == "6d05dcd7395808f66309c9411db93fdc57fb861efc95938239e2459de048f547"
    first = documents.chain_hash(
        n=1,
        video_id="video_123",
        document_sha256=sha256,
        previous_hash=None,
        actor="inbox",
        reason="staged",
        run_id="path:1",
        time="2026-01-05T15:05:00.000Z",
    )
    by_hand = (
        '{"actor":"inbox","document_sha256":"' + sha256 + '","n":1,"previous_hash":null,"reason":"staged",'
        '"run_id":"path:1","time":"2026-01-05T15:05:00.000Z","video_id":"video_123"}'
    )
    assert first == hashlib.sha256(by_hand.encode()).hexdigest()
    assert first == "69d48bbad0bbea4af993e308a2473b0849a45d9bb80d2d3ce0cc581ec6031533"


@given(
    n=st.integers(1, 2**53 - 1),
    previous_hash=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    actor=st.text(st.characters(exclude_categories=["Cs"])),
)
@example(n=1, previous_hash=None, actor='\0\x1f\x7f"\\/\b\f\n\r\t\u2028\ue000🌌')
def test_the_hash_covers_the_canonical_form(n: int, previous_hash: str | None, actor: str) -> None:
    facts: dict[str, Any] = {"n": n, "previous_hash": previous_hash, "actor": actor}
    facts |= dict.fromkeys(("video_id", "document_sha256", "reason", "run_id", "time"), "x")
    assert documents.chain_hash(**facts) == hashlib.sha256(rfc8785.dumps(facts)).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2},
        {"video_id": "w"},
        {"document_sha256": "0" * 64},
        {"previous_hash": "0" * 64},
        {"actor": "gateway"},
        {"reason": "published"},
        {"run_id": None},
        {"time": "2026-01-05T15:05:00.001Z"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_fact_of_a_version_can_change_without_its_hash(change: dict[str, Any]) -> None:
    facts = {
        "n": 1,
        "video_id": "v",
        "document_sha256": "f" * 64,
        "previous_hash": None,
        "actor": "inbox",
        "reason": "staged",
        "run_id": "path:1",
        "time": "2026-01-05T15:05:00.000Z",
    }
    assert documents.chain_hash(**facts) != documents.chain_hash(**{**facts, **change})
