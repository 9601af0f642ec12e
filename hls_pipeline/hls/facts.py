"""What a package is, in numbers: for the inventory, the metadata and the pages. All of it is read from playlists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hls_pipeline.hls.content_types import extension
from hls_pipeline.hls.model import Playlist, Reference, Variant

_CONTAINERS = {
    ".ts": "mpegts", ".m2ts": "mpegts", ".aac": "packed audio", ".mp3": "packed audio", ".ac3": "packed audio",
    ".ec3": "packed audio", ".vtt": "webvtt", ".webvtt": "webvtt",
    ".mp4": "fmp4", ".m4s": "fmp4", ".m4v": "fmp4", ".m4a": "fmp4", ".cmfv": "fmp4", ".cmfa": "fmp4", ".cmft": "fmp4",
}  # fmt: skip


def media_facts(root: str, playlists: Mapping[str, Playlist]) -> dict[str, Any]:
    """Duration in seconds (of the longest variant), variants, renditions, container, encryption; `unprotected` where
    that is for show because the keys are published."""
    top = playlists[root]
    media = [playlist for playlist in playlists.values() if playlist.kind != "multivariant"]
    main = [known for v in top.variants if not v.iframes and (known := playlists.get(v.reference.target or ""))]
    duration = max((playlist.duration for playlist in main or [top]), default=0)
    return {
        "kind": top.kind,
        "duration": round(float(duration), 6),
        "segments": sum(len(playlist.segments) for playlist in media),
        "containers": sorted({container(playlist) for playlist in media}),
        "encryption": sorted({m for playlist in media for m in _methods(playlist)}),
        "unprotected": any(_is_open(reference) for p in playlists.values() for reference in p.references),
        "variants": [_variant(variant, playlists) for variant in top.variants],
        "renditions": [_rendition(rendition) for rendition in top.renditions],
        "playlists": {path: _playlist(playlist) for path, playlist in playlists.items()},
    }


def container(playlist: Playlist) -> str:
    """fmp4, mpegts, packed audio, webvtt or unknown, by EXT-X-MAP and the segments' extensions."""
    if any(reference.kind == "init" for reference in playlist.references):
        return "fmp4"
    first = playlist.segments[0].reference if playlist.segments else None
    return _CONTAINERS.get(extension(first.target or first.uri), "unknown") if first else "unknown"


def _methods(playlist: Playlist) -> set[str]:
    return {reference.cipher for reference in playlist.references if reference.cipher} | (
        {"DRM"} if any(reference.kind == "drm" for reference in playlist.references) else set()
    )


def _is_open(key: Reference) -> bool:
    """Whether this is a clear key that anyone can have: a file of the package, or the key itself in its URI."""
    here = key.target is not None or key.uri[:5].lower() == "data:"
    return key.kind == "key" and key.replacement is None and here


def _playlist(playlist: Playlist) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": playlist.kind}
    if playlist.kind != "multivariant":
        facts |= {
            "duration": round(float(playlist.duration), 6),
            "segments": len(playlist.segments),
            "target_duration": playlist.target_duration,
            "container": container(playlist),
        }
    return facts


def _variant(variant: Variant, playlists: Mapping[str, Playlist]) -> dict[str, Any]:
    attributes = variant.attributes
    width, _, height = attributes.get("RESOLUTION", "").partition("x")
    known = playlists.get(variant.reference.target or "")
    return {
        "playlist": variant.reference.target,
        "iframes": variant.iframes,
        "bandwidth": _number(attributes.get("BANDWIDTH", "")),
        "average_bandwidth": _number(attributes.get("AVERAGE-BANDWIDTH", "")),
        "codecs": [codec.strip() for codec in attributes.get("CODECS", "").split(",") if codec.strip()],
        "width": _number(width),
        "height": _number(height),
        "frame_rate": attributes.get("FRAME-RATE"),
        "audio": attributes.get("AUDIO"),
        "subtitles": attributes.get("SUBTITLES"),
        "duration": round(float(known.duration), 6) if known else None,
    }


def _rendition(attributes: Mapping[str, str]) -> dict[str, Any]:
    names = ("TYPE", "GROUP-ID", "NAME", "LANGUAGE", "DEFAULT", "CHANNELS")
    return {name.lower().replace("-", "_"): attributes[name] for name in names if name in attributes}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
