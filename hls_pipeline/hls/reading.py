"""Bytes of a playlist to `Playlist`: text, tokens, kind, rules."""

from __future__ import annotations

import re

from hls_pipeline.hls.collector import collector_paused
from hls_pipeline.hls.media_playlist import MEDIA_TAGS, MediaReader
from hls_pipeline.hls.model import Playlist
from hls_pipeline.hls.multivariant import MULTIVARIANT_TAGS, MultivariantReader
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.text import decode
from hls_pipeline.hls.tokens import tokenize

_TAG = re.compile(r"(?m)^#(EXT[A-Z0-9-]+)")


@collector_paused()
def parse(context: Context, data: bytes) -> Playlist | None:
    """The playlist, or None where its text cannot be read with certainty. Broken rules go to the findings."""
    text = decode(context.path, data, context.policy.limits, context.findings)
    if text is None:
        return None
    kinds = _kinds(context, text)
    if len(kinds) > 1:
        return None
    reader = (MultivariantReader if kinds == {"multivariant"} else MediaReader)(context, text)
    reader.read(tokenize(context.path, text, context.findings))
    return reader.playlist(data)


def _kinds(context: Context, text: str) -> set[str]:
    """Which kinds of playlist the tags belong to (RFC 8216 section 4.1: a playlist is of one kind)."""
    tags = set(_TAG.findall(text))
    media, multivariant = tags & MEDIA_TAGS, tags & MULTIVARIANT_TAGS
    if media and multivariant:
        _report_mixed(context, text)
    return {kind for kind, found in (("media", media), ("multivariant", multivariant)) if found}


def _report_mixed(context: Context, text: str) -> None:
    """At the first tag that does not belong to the kind of the tags before it."""
    first: re.Match[str] | None = None
    for match in _TAG.finditer(text):
        if match[1] in MEDIA_TAGS or match[1] in MULTIVARIANT_TAGS:
            first = first or match
            if (match[1] in MEDIA_TAGS) != (first[1] in MEDIA_TAGS):
                break
    assert first is not None
    one, other = ("a media", "a multivariant") if first[1] in MEDIA_TAGS else ("a multivariant", "a media")
    message = f"{match[1]} belongs to {other} playlist, {first[1]} before it to {one} playlist"
    end = text.find("\n", match.start())
    place = (text[match.start() : end if end >= 0 else None].rstrip("\r"), 0, match.end() - match.start())
    line = text.count("\n", 0, match.start()) + 1
    context.findings.add("HLS_MIXED_TAGS", context.path, line, message, place=place)
