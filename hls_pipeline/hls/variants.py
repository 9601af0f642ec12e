"""Rules that compare the playlists of one presentation (RFC 8216 section 6.2.4). All are warnings."""

from __future__ import annotations

from collections.abc import Mapping

from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.model import Playlist


def compare_variants(root: str, playlists: Mapping[str, Playlist], findings: Findings) -> None:
    """Variants should agree on target duration, type, discontinuities and length; players switch at any time."""
    top = playlists[root]
    _check_kinds(top, playlists, findings)
    variants = [known for v in top.variants if not v.iframes and (known := playlists.get(v.reference.target or ""))]
    first = next((variant for variant in variants if variant.kind == "media"), None)
    if first is None:
        return
    for other in dict.fromkeys(v.path for v in variants if v.kind == "media"):
        _compare(first, playlists[other], findings)


def _check_kinds(top: Playlist, playlists: Mapping[str, Playlist], findings: Findings) -> None:
    """Without the tag players take the key frames for a stream of which most is missing (8216 4.3.4.3: MUST)."""
    for variant in top.variants:
        named = playlists.get(variant.reference.target or "")
        if named and variant.iframes and named.kind == "media":
            text = f"{shown(named.path)} has no EXT-X-I-FRAMES-ONLY, which a playlist named here must have"
        elif named and not variant.iframes and named.kind == "iframe":
            text = f"{shown(named.path)} holds key frames only, which EXT-X-I-FRAME-STREAM-INF is for"
        else:
            continue
        findings.add("HLS_BAD_ATTR_VALUE", top.path, variant.reference.line, text)


def _compare(first: Playlist, other: Playlist, findings: Findings) -> None:
    for name, one, two in (
        ("target duration", first.target_duration, other.target_duration),
        ("playlist type", first.playlist_type, other.playlist_type),
        ("discontinuity sequence number", first.discontinuity_sequence, other.discontinuity_sequence),
        ("number of discontinuities", first.discontinuities, other.discontinuities),
    ):
        if one != two:
            text = f"its {name} is {_said(two)}, that of {shown(first.path, 80)} is {_said(one)}"
            findings.add("HLS_VARIANTS_DIFFER", other.path, None, text)
    apart = abs(first.duration - other.duration)
    if apart > max(first.target_duration or 1, other.target_duration or 1):
        text = f"it lasts {other.duration} s, {shown(first.path, 100)} lasts {first.duration} s"
        findings.add("HLS_VARIANTS_DIFFER", other.path, None, text)


def _said(value: int | str | None) -> str:
    return shown(value, 40) if isinstance(value, str) else str(value)
