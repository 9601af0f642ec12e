"""The metadata documents of a video, and the hash chain that ties its versions together.

A document holds the creator's own fields beside ours; ours are reserved names. `temporary` and `final` build the two
forms of `docs/schema`, `chain_hash` is what makes a changed history visible. Nothing here talks to a service.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field

from hls_pipeline import clock, keys
from hls_pipeline.hls.metadata import RESERVED


class S3Assets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_m3u8: str
    segments: list[str] = Field(description="every media file once, in the order of the playlists")


class IpfsAssets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ipfs_m3u8: str = Field(description="the root playlist with ipfs:// references")
    ipfs_directory: str = Field(description="the package as a directory with relative playlists: the playable form")
    ipfs_record: str = Field(description="ipfs:// playlists, original playlists and inventory")
    playlist: str = Field(description="path of the root playlist inside the directory")
    segments: list[str] = Field(description="item i is item i of the temporary document")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    video_id: str
    revision: int = Field(ge=1)
    play: str = Field(description="the one stable playback address, relative to the gateway")


class TemporaryDocument(_Document):
    status: Literal["processing"] = "processing"
    s3_manifest: str
    estimated_completion: str = Field(description="RFC 3339, UTC")
    video_assets: S3Assets


class FinalDocument(_Document):
    status: Literal["ready"] = "ready"
    completed_at: str = Field(description="RFC 3339, UTC")
    replicas: int = Field(ge=1, description="IPFS nodes that proved they hold all of it")
    video_assets: IpfsAssets


class WithdrawnDocument(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    video_id: str
    revision: int = Field(ge=0, description="the one that was current; 0 if there was none")
    status: Literal["withdrawn"] = "withdrawn"
    withdrawn_at: str = Field(description="RFC 3339, UTC")
    reason: str


def temporary(
    *,
    video_id: str,
    revision: int,
    manifest: str,
    playlist: str,
    segments: Sequence[str],
    estimated_completion: datetime,
    creator: Mapping[str, Any],
) -> dict[str, Any]:
    """The document a creator gets at once; `manifest` and `segments` are `s3://` addresses."""
    return TemporaryDocument(
        **_creators_own(creator),
        video_id=video_id,
        revision=revision,
        s3_manifest=manifest,
        play=keys.play(video_id, playlist),
        estimated_completion=clock.seconds_text(estimated_completion),
        video_assets=S3Assets(s3_m3u8=manifest, segments=list(segments)),
    ).model_dump()


def final(
    *,
    video_id: str,
    revision: int,
    root_playlist_cid: str,
    root: str,
    record: str,
    playlist: str,
    segments: Sequence[str],
    completed_at: datetime,
    replicas: int,
    creator: Mapping[str, Any],
) -> dict[str, Any]:
    """The document once IPFS provably has everything; `segments` are CIDs."""
    return FinalDocument(
        **_creators_own(creator),
        video_id=video_id,
        revision=revision,
        play=keys.play(video_id, playlist),
        completed_at=clock.seconds_text(completed_at),
        replicas=replicas,
        video_assets=IpfsAssets(
            ipfs_m3u8=keys.ipfs_uri(root_playlist_cid),
            ipfs_directory=keys.ipfs_uri(root),
            ipfs_record=keys.ipfs_uri(record),
            playlist=playlist,
            segments=[keys.ipfs_uri(cid) for cid in segments],
        ),
    ).model_dump()


def withdrawn(*, video_id: str, revision: int, withdrawn_at: datetime, reason: str) -> dict[str, Any]:
    """What is left to say of a withdrawn video."""
    at = clock.seconds_text(withdrawn_at)
    return WithdrawnDocument(video_id=video_id, revision=revision, withdrawn_at=at, reason=reason).model_dump()


def canonical(document: Mapping[str, Any]) -> str:
    """RFC 8785 text of a document: what is stored, and what its hash covers."""
    return rfc8785.dumps(dict(document)).decode()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def chain_hash(
    *,
    n: int,
    video_id: str,
    document_sha256: str,
    previous_hash: str | None,
    actor: str,
    reason: str,
    run_id: str | None,
    time: str,
) -> str:
    """SHA-256 over the RFC 8785 form of one version's facts and its predecessor's hash."""
    link: dict[str, Any] = {
        "n": n,
        "video_id": video_id,
        "document_sha256": document_sha256,
        "previous_hash": previous_hash,
        "actor": actor,
        "reason": reason,
        "run_id": run_id,
        "time": time,
    }
    return hashlib.sha256(_flat(link).encode()).hexdigest()


_flat = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
"""RFC 8785 of an object without floats whose names are ASCII, in C: whole histories are recomputed with it."""


def _creators_own(creator: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in creator.items() if name not in RESERVED and name != "video_id"}
