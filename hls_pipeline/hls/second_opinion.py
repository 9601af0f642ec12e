"""What the m3u8 library makes of a playlist, beside what we made of it.

It only ever gets text (`loads`), never an address. Where its segments or durations differ from ours other programs may
stumble too, so that is a finding; it is no judge, because it loses something in one real playlist of six.
"""

from __future__ import annotations

import re
from decimal import Decimal

from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.model import Playlist

_MOST_SEGMENTS = 20_000
_MOST_KEYS = 200
"""It takes time quadratic in the number of distinct keys: 10,000 of them cost ten seconds. Keys that differ in their
IV alone are distinct too, and those of DRM systems count like others."""
_KEY_LINE = re.compile(rb"#EXT-X-KEY:.*")
"""Anywhere in a line: m3u8 takes blanks of every kind from its start."""


def second_opinion(playlist: Playlist, findings: Findings) -> None:
    """Adds HLS_SECOND_OPINION where m3u8 sees other segments. Too large playlists are passed over."""
    if playlist.kind == "multivariant" or len(playlist.segments) > _MOST_SEGMENTS:
        return
    if len(set(_KEY_LINE.findall(playlist.data))) > _MOST_KEYS:
        return
    theirs = _their_segments(playlist, findings)
    if theirs is None:
        return
    ours = [(segment.reference.raw, segment.duration, segment.line) for segment in playlist.segments]
    if len(theirs) != len(ours):
        text = f"m3u8 counts {len(theirs)} segments, we count {len(ours)}"
        findings.add("HLS_SECOND_OPINION", playlist.path, None, text)
        return
    for (uri, duration, line), (their_uri, their_duration) in zip(ours, theirs, strict=True):
        if uri != their_uri or abs(float(duration) - their_duration) > 1e-6:
            text = f"m3u8 reads {shown(their_uri, 90)} with {their_duration} s, we {shown(uri, 90)} with {duration} s"
            findings.add("HLS_SECOND_OPINION", playlist.path, line, text)
            return


def _their_segments(playlist: Playlist, findings: Findings) -> list[tuple[str, float]] | None:
    import m3u8

    try:
        segments = m3u8.loads(playlist.data.decode("utf-8")).segments
        return [(segment.uri or "", float(segment.duration or Decimal(0))) for segment in segments]
    except Exception as error:  # noqa: BLE001 - it raises whatever comes: KeyError, TypeError, ValueError, …
        text = f"m3u8 gives up on it with {type(error).__name__}: {shown(str(error))}"
        findings.add("HLS_SECOND_OPINION", playlist.path, None, text)
        return None
