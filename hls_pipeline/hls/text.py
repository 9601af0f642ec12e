"""Playlist bytes to text: the rules of encoding, line ends and size (level L1).

Lines end at LF and nowhere else. `str.splitlines` also splits at U+0085, U+2028 and others, so two programs that differ
in this see different segments; every such character is refused here, before anything looks at tags.
"""

from __future__ import annotations

import re

from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.policy import Limits

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_BARE_CR = re.compile(r"\r(?!\n)")
_URI_LINE = re.compile(rb"(?m)^[ \t]*+[^#\s]")
_HEAD = re.compile(r"#EXTM3U(?=[ \t\r\n]|$)")


def looks_like_playlist(head: bytes) -> bool:
    """Whether the first bytes of a file say that it means to be a playlist, whatever its name."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"#EXTM3U")


def decode(path: str, data: bytes, limits: Limits, findings: Findings) -> str | None:
    """The text of a playlist, or None where it cannot be read with certainty (RFC 8216 section 4.1)."""
    if not _fits(path, data, limits, findings):
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.add("HLS_NOT_UTF8", path, line, f"byte {error.start} is not UTF-8: {data[error.start : error.end]!r}")
        return None
    if text.startswith("\ufeff"):
        findings.add("HLS_BOM", path, 1, "the playlist begins with a byte order mark")
        return None
    if not _HEAD.match(text):
        findings.add(
            "HLS_NOT_M3U8", path, 1, f"the first line is {shown(text[:60].partition(chr(10))[0])}, not #EXTM3U"
        )
        return None
    return text if _has_certain_lines(path, text, findings) else None


def _fits(path: str, data: bytes, limits: Limits, findings: Findings) -> bool:
    too_large = _excess(data, limits)
    if too_large:
        findings.add("HLS_TOO_LARGE", path, None, too_large)
    return not too_large


def _excess(data: bytes, limits: Limits) -> str | None:
    """What is too large, found by counting alone: a bomb must not be parsed to be recognised."""
    if len(data) > limits.playlist_size:
        return f"the playlist is larger than {limits.playlist_size:,} bytes"
    lines = data.count(b"\n")
    if lines >= limits.lines:
        return f"the playlist has {lines:,} lines; fewer than {limits.lines:,} are allowed"
    if max(map(len, data.split(b"\n"))) >= limits.line_length:
        return f"a line has {limits.line_length:,} bytes or more"
    attributes = data.count(b"URI=") + data.count(b"X-ASSET-LIST=")
    if lines + 1 - data.count(b"\n#") + attributes >= limits.references:  # blank lines are still among them
        count = sum(1 for _ in _URI_LINE.finditer(data)) + attributes
        if count >= limits.references:
            return f"the playlist has {count:,} references; fewer than {limits.references:,} are allowed"
    return None


def _has_certain_lines(path: str, text: str, findings: Findings) -> bool:
    certain = True
    for code, pattern, what in (
        ("HLS_CONTROL_CHAR", _CONTROL, "the character U+{:04X} is not allowed; some programs end a line there"),
        ("HLS_BARE_CR", _BARE_CR, "a carriage return without line feed; some programs end a line there"),
    ):
        for match in pattern.finditer(text):
            certain = False
            if findings.is_full(code, path):
                break
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.start())
            line = text[start : end if end >= 0 else None]
            findings.add(
                code,
                path,
                text.count("\n", 0, match.start()) + 1,
                what.format(ord(match.group())),
                place=(line, match.start() - start, 1),
            )
    return certain
