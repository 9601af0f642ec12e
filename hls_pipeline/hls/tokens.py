"""The only tokenizer of playlists: tags with their attributes, URI lines, and the places where URIs stand.

Everything that reads or rewrites a playlist starts from `tokenize`. A new tag that carries a URI is one line in
`URI_ATTRIBUTES`; what the tags mean is decided in `media_playlist.py` and `multivariant.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from hls_pipeline.hls.attributes import list_pattern
from hls_pipeline.hls.findings import Findings, shown

_KEY = {"URI": "key"}
URI_ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "EXT-X-MEDIA": {"URI": "playlist"},
    "EXT-X-I-FRAME-STREAM-INF": {"URI": "playlist"},
    "EXT-X-IMAGE-STREAM-INF": {"URI": "playlist"},
    "EXT-X-KEY": _KEY,
    "EXT-X-SESSION-KEY": _KEY,
    "EXT-X-MAP": {"URI": "init"},
    "EXT-X-PART": {"URI": "part"},
    "EXT-X-PRELOAD-HINT": {"URI": "hint"},
    "EXT-X-RENDITION-REPORT": {"URI": "rendition_report"},
    "EXT-X-SESSION-DATA": {"URI": "session_data"},
    "EXT-X-DATERANGE": {"X-ASSET-URI": "asset", "X-ASSET-LIST": "asset_list", "X-URI": "daterange_resource"},
    "EXT-X-CONTENT-STEERING": {"SERVER-URI": "steering"},
}
"""Tag → attribute → kind of reference: RFC 8216, rfc8216bis-22, and EXT-X-IMAGE-STREAM-INF of the field."""

ATTRIBUTE_TAGS = frozenset(URI_ATTRIBUTES) | {
    "EXT-X-STREAM-INF", "EXT-X-START", "EXT-X-DEFINE", "EXT-X-SKIP", "EXT-X-PART-INF", "EXT-X-SERVER-CONTROL",
    "EXT-X-TILES",
}  # fmt: skip
PLAIN_TAGS = frozenset({
    "EXTM3U", "EXT-X-VERSION", "EXT-X-INDEPENDENT-SEGMENTS", "EXTINF", "EXT-X-BYTERANGE", "EXT-X-DISCONTINUITY",
    "EXT-X-PROGRAM-DATE-TIME", "EXT-X-GAP", "EXT-X-BITRATE", "EXT-X-TARGETDURATION", "EXT-X-MEDIA-SEQUENCE",
    "EXT-X-DISCONTINUITY-SEQUENCE", "EXT-X-ENDLIST", "EXT-X-PLAYLIST-TYPE", "EXT-X-I-FRAMES-ONLY",
    "EXT-X-ALLOW-CACHE", "EXT-X-IMAGES-ONLY",
})  # fmt: skip

_KNOWN = {f"#{tag}": tag for tag in ATTRIBUTE_TAGS | PLAIN_TAGS}
_TAG = re.compile(r"#(EXT[A-Z0-9-]*)(?::|$)")
_ATTRIBUTE = re.compile(r'([ \t]*)([A-Za-z0-9_.-]+)=("[^"]*"|[^",]*)(,|$)')
_URI_NAME = re.compile(r"(?:URI|URL|HREF|ASSET-LIST)S?(?:[-_.][A-Z0-9_.-]{0,64})?=", re.IGNORECASE)
"""Bounded, so that a long line of letters does not cost time quadratic in its length."""
make_tuple = tuple.__new__
"""Makes a named tuple without the call in between: a playlist is made of a hundred thousand of them."""


class Attribute(NamedTuple):
    value: str
    """Without quotes."""
    start: int
    """Offset of the value's first character in the text."""
    quoted: bool


class Token(NamedTuple):
    line: int
    start: int
    """Offset of the line in the text."""
    tag: str
    """Name without '#'; empty for a URI line."""
    value: str
    """What follows the colon; of a URI line the URI."""
    value_start: int
    attributes: Mapping[str, Attribute]
    readable: bool = True
    """False where the attribute list is broken; what was read before the fault is there."""
    usual: bool = False
    """Whether nothing in the attribute list is worth a remark."""


class Spot(NamedTuple):
    """A place where a URI stands."""

    line: int
    tag: str
    attr: str | None
    kind: str
    raw: str
    start: int
    quoted: bool


_NO_ATTRIBUTES: Mapping[str, Attribute] = {}


class _Shape(NamedTuple):
    """How attribute lists of one tag are written."""

    pattern: re.Pattern[str]
    """Every list that is written so and in which nothing is worth a remark, with a group for each value."""
    groups: Sequence[tuple[str, int, bool]]
    """Of each attribute its name, its group, and whether it is quoted."""


_NO_SHAPE = _Shape(re.compile("(?!)"), ())
_COMMON = 50
"""So many lists of one shape make it worth a pattern of its own, which costs as much as reading a hundred of them."""


def tokenize(path: str, text: str, findings: Findings) -> Iterator[Token]:
    """Tags and URI lines in order; comments and blank lines are passed over. What cannot be read is a finding."""
    start = 0
    shapes: dict[str, _Shape] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for number, line in enumerate(text.split("\n"), 1):
        after = start + len(line) + 1
        if line and line[-1] == "\r":
            line = line[:-1]
        if not line:
            pass
        elif line[0] != "#":
            uri = line.strip(" \t")
            if len(uri) != len(line):
                _blanks(path, number, line, uri, findings)
            if uri and uri[0] != "#":
                yield make_tuple(Token, (number, start, "", uri, start + line.index(uri), _NO_ATTRIBUTES, True, True))
        else:
            head, _, value = line.partition(":")
            tag = _KNOWN.get(head)
            at = len(head) + 1
            if tag is None:
                if line.startswith("#EXT"):
                    yield _unknown(path, number, start, line, findings)
            elif tag in ATTRIBUTE_TAGS:
                shape = shapes.get(tag, _NO_SHAPE)
                match = shape.pattern.fullmatch(line, at)  # most lists are written like the one before
                readable = usual = match is not None
                if match is not None:
                    attributes = _matched(match, start, shape)
                else:
                    attributes, readable = _attributes(path, number, start, at, line, findings)
                    counts[tag, *attributes] += 1
                    if counts[tag, *attributes] % _COMMON == 0:
                        shapes[tag] = _shape(tag, tuple((name, value.quoted) for name, value in attributes.items()))
                yield make_tuple(Token, (number, start, tag, value, start + at, attributes, readable, usual))
            else:
                yield make_tuple(Token, (number, start, tag, value, start + at, _NO_ATTRIBUTES, True, True))
        start = after


def _unknown(path: str, number: int, start: int, line: str, findings: Findings) -> Token:
    """A tag that is not known, or hardly a tag."""
    match = _TAG.match(line)
    if match is None:
        return _odd_tag(path, number, start, line, findings)
    tag, at = match[1], match.end()
    _unknown_tag(path, number, line, tag, at, findings)
    return make_tuple(Token, (number, start, tag, line[at:], start + at, _NO_ATTRIBUTES, True, False))


def _matched(match: re.Match[str], start: int, shape: _Shape) -> Mapping[str, Attribute]:
    spans = match.regs
    return {
        name: make_tuple(Attribute, (match[group], start + spans[group][0], quoted))
        for name, group, quoted in shape.groups
    }


@lru_cache(maxsize=100)
def _shape(tag: str, written: tuple[tuple[str, bool], ...]) -> _Shape:
    """The shape of the lists that have these attributes in this order, quoted or not."""
    pattern = None if strange_names(tag, tuple(name for name, _ in written)) else list_pattern(tag, written)
    groups = [(name, group, quoted) for group, (name, quoted) in enumerate(written, 1)]
    return _Shape(pattern, groups) if pattern else _NO_SHAPE


def _attributes(
    path: str, number: int, start: int, at: int, line: str, findings: Findings
) -> tuple[Mapping[str, Attribute], bool]:
    """The attribute list from `at` on (RFC 8216 section 4.2). Any other shape is an error: nothing is guessed."""
    found: dict[str, Attribute] = {}
    end = len(line)
    separator = ","
    while separator:
        match = _ATTRIBUTE.match(line, at)
        if match is None:
            message = f"the attribute list cannot be read from {shown(line[at : at + 60])} on"
            findings.add("HLS_BAD_ATTR_LIST", path, number, message, place=(line, at, max(1, min(end - at, 40))))
            return found, False
        blank, name, value, separator = match.groups()
        at = match.end()
        if name in found:
            place = (line, match.start(2), len(name))
            findings.add("HLS_DUPLICATE_ATTR", path, number, f"{shown(name)} stands twice", place=place)
        if value[:1] == '"':
            found[name] = make_tuple(Attribute, (value[1:-1], start + match.start(3) + 1, True))
        else:
            kept = value.rstrip(" \t")
            found[name] = make_tuple(Attribute, (kept, start + match.start(3), False))
            blank = blank or value[len(kept) :]
        if blank:
            findings.add(
                "HLS_WHITESPACE", path, number, f"a blank beside {shown(name)}", place=(line, match.start(), 1)
            )
    return found, True


def _odd_tag(path: str, number: int, start: int, line: str, findings: Findings) -> Token:
    """#EXT followed by characters that no tag name has, such as '#EXT-X-KEY METHOD=…'."""
    name = re.split(r"[^A-Za-z0-9-]", line[1:], maxsplit=1)[0]
    if name in ATTRIBUTE_TAGS or name in PLAIN_TAGS - {"EXTM3U"}:
        findings.add(
            "HLS_BAD_ATTR_LIST", path, number, f"{name} is not followed by ':'", place=(line, 0, len(name) + 1)
        )
    elif name == "EXTM3U":
        findings.add("HLS_EXTM3U_TRAILING", path, number, f"after #EXTM3U comes {shown(line[7:])}")
    else:
        _unknown_tag(path, number, line, name, len(name) + 1, findings)
    return Token(number, start, name, "", start + len(line), _NO_ATTRIBUTES, readable=False)


def _unknown_tag(path: str, number: int, line: str, tag: str, at: int, findings: Findings) -> None:
    if not findings.is_full("HLS_UNKNOWN_TAG", path):
        text = f"#{shown(tag)[1:-1]} is not known"
        findings.add("HLS_UNKNOWN_TAG", path, number, text, place=(line, 0, len(tag) + 1))
    match = _URI_NAME.search(line, at)
    if match or tag.endswith("PREFETCH"):
        place = (line, match.start(), len(match.group()) - 1) if match else (line, at, len(line) - at)
        findings.add("URI_UNKNOWN_ATTR", path, number, "a URI in a tag that is not known stays as it is", place=place)


def _blanks(path: str, number: int, line: str, uri: str, findings: Findings) -> None:
    """Blanks around a line. Before '#' they are an error: some readers see a tag there, others a URI."""
    disputed = uri.startswith("#EXT")
    message = "a tag after blanks: programs disagree on what it is" if disputed else "blanks around the line"
    severity = "error" if disputed else None
    findings.add("HLS_WHITESPACE", path, number, message, severity=severity, place=(line, 0, 1))  # type: ignore[arg-type]


def spots(token: Token, in_multivariant: bool) -> Sequence[Spot]:
    """The URIs of one token, in the order of the text."""
    tag = token.tag
    if not tag:
        kind = "playlist" if in_multivariant else "segment"
        return (make_tuple(Spot, (token.line, "", None, kind, token.value, token.value_start, False)),)
    kinds = URI_ATTRIBUTES.get(tag)
    if kinds is None:
        return ()
    if tag == "EXT-X-SESSION-DATA" and _is_raw(token):
        kinds = {"URI": "raw_data"}
    found = []
    for name, kind in kinds.items():
        attribute = token.attributes.get(name)
        if attribute is not None and (name != "X-URI" or _apple_class(token)):
            found.append(make_tuple(Spot, (token.line, tag, name, kind, *attribute)))
    return found if len(found) < 2 else sorted(found, key=lambda spot: spot.start)


def _is_raw(token: Token) -> bool:
    """Whether session data is no JSON (bis 4.4.6.4: FORMAT is JSON unless it says RAW)."""
    return "FORMAT" in token.attributes and token.attributes["FORMAT"].value == "RAW"


def _apple_class(token: Token) -> bool:
    """X-URI is a reference in Apple's own date range classes (bis appendix F); elsewhere it is anybody's."""
    return token.attributes.get("CLASS", Attribute("", 0, False)).value.startswith("com.apple.hls.")


@lru_cache(maxsize=100)
def strange_names(tag: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of a tag's attributes look as if they held a URI, but are in no specification, or in some cases only.

    Remembered: the attribute lists of a playlist have few shapes.
    """
    known = URI_ATTRIBUTES.get(tag, _NO_ATTRIBUTES)
    return tuple(name for name in names if (name not in known or name == "X-URI") and _URI_NAME.search(name + "="))


def is_unknown_uri(token: Token, name: str) -> bool:
    """Whether one of the `strange_names` is unknown in this place."""
    return name not in URI_ATTRIBUTES.get(token.tag, _NO_ATTRIBUTES) or not _apple_class(token)


def place_of(token: Token, name: str) -> tuple[int, int]:
    """Start in its line and length of an attribute's value."""
    attribute = token.attributes[name]
    return attribute.start - token.start, max(1, len(attribute.value))
