"""Rewriting over generated and mutated playlists: identity, skeleton, back-mapping, re-scan, and no foreign errors.

The number of cases is chosen so that an ordinary run tries more than 20,000; `HLS_HYPOTHESIS_FACTOR` multiplies it.
"""

from __future__ import annotations

import os
import random
import re
import zlib
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hls_pipeline.errors import PipelineError
from hls_pipeline.hls.findings import Findings
from hls_pipeline.hls.media import MediaProbe, Uses
from hls_pipeline.hls.model import Playlist
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.rewriting import list_spots, relative, rewrite, skeleton
from hls_pipeline.hls.rules import RULES
from hls_pipeline.hls.tokens import tokenize
from hls_pipeline.hls.uris import relative_uri, repaired, resolve
from tests.hls.conftest import AAC, CORPUS, FRAGMENT, INIT, PUBLISH, TS, VTT, judge

FACTOR = int(os.environ.get("HLS_HYPOTHESIS_FACTOR", "1"))
CASES = settings(max_examples=1000 * FACTOR, deadline=None, suppress_health_check=list(HealthCheck), database=None)

NAME = st.from_regex(r"[a-zA-Z0-9é %+~._-]{1,12}(/[a-z0-9]{1,4})?\.(ts|m4s|m3u8)", fullmatch=True)
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"], exclude_characters='"'), max_size=12
)
VALUE = st.one_of(TEXT.map(lambda text: f'"{text}"'), st.from_regex(r"[A-Za-z0-9@.-]{0,8}", fullmatch=True))
ATTRIBUTE = st.from_regex(r"[A-Z][A-Z0-9-]{0,9}", fullmatch=True).filter(
    lambda name: name not in ("URI", "METHOD", "BYTERANGE")
)
EOL = st.sampled_from(["\n", "\n", "\r\n"])


@st.composite
def attribute_list(draw: st.DrawFn, uri: str) -> str:
    names = draw(st.lists(ATTRIBUTE, max_size=3, unique=True))
    pairs = [f"{name}={draw(VALUE)}" for name in names]
    pairs.insert(draw(st.integers(0, len(pairs))), f'{uri}="{draw(NAME)}"')
    return ",".join(pairs)


@st.composite
def playlist_text(draw: st.DrawFn) -> str:
    """A media playlist with everything that carries a URI, comments, unknown tags, mixed line ends."""
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:6"]
    for _ in range(draw(st.integers(0, 8))):
        what = draw(st.sampled_from(["segment", "segment", "map", "key", "part", "date", "comment", "vendor", "blank"]))
        if what == "segment":
            lines += [f"#EXTINF:{draw(st.integers(0, 6))}.0,{draw(TEXT)}", draw(NAME).strip() or "x.ts"]
        elif what == "map":
            lines.append(f"#EXT-X-MAP:{draw(attribute_list('URI'))}")
        elif what == "key":
            lines.append(f"#EXT-X-KEY:METHOD=AES-128,{draw(attribute_list('URI'))}")
        elif what == "part":
            lines.append(f"#EXT-X-PART:{draw(attribute_list('URI'))}")
        elif what == "date":
            lines.append(f"#EXT-X-DATERANGE:{draw(attribute_list('X-ASSET-URI'))}")
        elif what == "comment":
            lines.append(f"#{draw(TEXT)}")
        elif what == "vendor":
            lines.append(f"#EXT-X-{draw(ATTRIBUTE)}:{draw(TEXT)}")
        else:
            lines.append("")
    return "".join(line + draw(EOL) for line in lines) + draw(st.sampled_from(["#EXT-X-ENDLIST", "#EXT-X-ENDLIST\n"]))


def read(data: bytes) -> Playlist | None:
    """The playlist if its text is certain: what `hls-pipeline rewrite` would accept."""
    findings = Findings()
    playlist = parse(Context("dir/a.m3u8", frozenset(), Policy(keys="publish"), findings), data)
    assert playlist is not None or findings.failed
    return playlist


def hold(data: bytes) -> None:
    """What must be true of every playlist that can be read at all."""
    playlist = read(data)
    if playlist is None:
        return
    text = data.decode()
    spots = list_spots(text, playlist.kind == "multivariant")
    assert [(s.start, s.raw) for s in spots] == [(r.start, r.raw) for r in playlist.references]
    assert all(text[r.start : r.end] == r.raw for r in playlist.references)
    try:
        assert rewrite(playlist, lambda _: None) == data
        renamed = rewrite(playlist, lambda reference: f"ipfs://cid/{reference.start}?filename=a.ts")
    except PipelineError:
        # An ambiguous attribute list was refused already; then nobody asks for a rewrite.
        assert_refused(data)
        return
    back = read(renamed)
    assert back is not None
    assert skeleton(text, spots) == skeleton(
        renamed.decode(), list_spots(renamed.decode(), playlist.kind == "multivariant")
    )
    raws = iter([reference.raw for reference in playlist.references])
    try:
        assert rewrite(back, lambda _: next(raws)) == data or any(r.kind == "drm" for r in playlist.references)
    except PipelineError:
        assert any(not r.raw or re.search(r"^\s|\s$|\t|\{\$|[\"#]", r.raw) for r in playlist.references)


def assert_refused(data: bytes) -> None:
    findings = Findings()
    parse(Context("dir/a.m3u8", frozenset(), Policy(keys="publish"), findings), data)
    assert findings.failed


LISTS = [
    'METHOD=AES-128,URI="k.key",IV=0x0123',
    'METHOD=AES-128,URI="k.key",IV=0x01g3',
    'METHOD=AES-129,URI="k.key",IV=0x0123',
    'METHOD=AES-128,URI="a,URI=",IV=0x0123',
    'METHOD=AES-128,URI="k.key",IV=0x0123,',
    'METHOD=AES-128,URI="k.key", IV=0x0123',
    'METHOD=AES-128,URI="k.key",IV=0x0123 ',
    "METHOD=AES-128,URI=k.key,IV=0x0123",
    'METHOD="AES-128",URI="k.key",IV=0x0123',
    'METHOD=AES-128,URI="k.key",IV=0x0123,X-KEY-URL="k"',
    'METHOD=AES-128,URI="k.key",IV=0x0123,IV=0x0123',
    'METHOD=AES-128,IV=0x0123,URI="k.key"',
    'METHOD=AES-128,URI="{$k}",IV={$iv}',
]


@settings(CASES, max_examples=150 * FACTOR)
@given(st.sampled_from(LISTS), st.integers(0, 100), st.text('AESMTHODURIV128-=",0xk. ', max_size=3))
def test_a_list_after_many_like_it_is_read_as_it_is_alone(written: str, at: int, put: str) -> None:
    """What most lists of a playlist look like is read by one pattern of their own."""
    at %= len(written)
    odd = written[:at] + put + written[at + len(put) // 2 :]
    assert read_last([odd]) == read_last([LISTS[0]] * 60 + [odd])
    assert read_last([odd])[0] == read_last([written] * 60 + [odd])[0]


def read_last(lists: list[str]) -> tuple[object, object]:
    """Attributes of the last list with their places in its line, and what there is to say of it."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:13", *(f"#EXT-X-KEY:{written}" for written in lists)]
    text, findings = "\n".join(lines), Findings()
    parse(Context("a.m3u8", {"k.key"}, Policy(keys="external"), findings), text.encode())
    token = list(tokenize("", text, Findings()))[-1]
    attributes = [(name, a.value, a.start - token.start, a.quoted) for name, a in token.attributes.items()]
    found = [(f.code, f.message, f.column, f.length) for f in findings.result() if f.line == len(lines)]
    return (attributes, token.readable), found


@settings(CASES, max_examples=400 * FACTOR)  # making one takes ten times as long as trying it
@given(playlist_text())
def test_a_generated_playlist_keeps_all_but_its_uris(text: str) -> None:
    hold(text.encode())


SEEDS = [path.read_bytes() for path in sorted((CORPUS / "playlists").rglob("*.m3u8")) if path.stat().st_size < 4000]
PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b",",
    b"#",
    b"=",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x0b",
    b"\xff",
    b"{$x}",
    b" ",
    b"\0",
]
PIECES += [b"URI=", b"#EXTINF:6,\n", b"#EXT-X-KEY:METHOD=NONE\n", b"nan", b"1_000", b"%2f", b"://", b"\xef\xbb\xbf"]


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 4)):
        at, kind = chance.randrange(len(data) + 1), chance.random()
        if kind < 0.4:
            data[at:at] = chance.choice(PIECES)
        elif kind < 0.6:
            del data[at : at + chance.randint(1, 20)]
        elif kind < 0.8:
            data[at : at + 1] = bytes([chance.randrange(256)])
        else:
            other = chance.choice(SEEDS)
            data[at:at] = other[chance.randrange(len(other)) :][:200]
    return bytes(data)


@pytest.mark.parametrize("block", range(8))
def test_a_mutated_real_playlist_keeps_all_but_its_uris_or_is_refused(block: int) -> None:
    for case in range(2700 * FACTOR):
        hold(mutated(zlib.crc32(f"{block}/{case}".encode())))


PART = st.sampled_from(["a", "b c", "é", "e\u0301", "%", "100%25", "+", "x?y", "x#y", "..", ".", "d", "", "a:b"])
FOLDER = st.sampled_from(["", "d", "d/é"])
FILES = {"a", "d/a", "b c", "d/b c", "é", "100%25", "d/100%", "x?y", "d/x#y", "d/é/a", "a/a", "d/a:b"}


@CASES
@given(st.lists(PART, min_size=1, max_size=5), FOLDER)
def test_what_resolves_is_published_under_a_uri_that_resolves_to_the_same(parts: list[str], base: str) -> None:
    uri = "/".join(parts)
    target, problems = resolve(uri, base, FILES)
    assert target is not None or any(RULES[problem.code].severity == "error" for problem in problems)
    if target is not None:
        published = repaired(uri, base, target) or uri
        assert resolve(published.split("?")[0].split("#")[0], base, {target}) == (target, ())
        assert re.fullmatch(r"[!-~]+", published)


LETTER = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"], exclude_characters="/\\")
PATH = st.lists(st.text(LETTER, min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)


@CASES
@given(PATH, FOLDER)
def test_every_name_has_a_relative_uri_that_leads_back_to_it(path: str, base: str) -> None:
    is_folder = f"{base}/".startswith(f"{path}/")
    if not is_folder and not any(part in (".", "..") for part in path.split("/")):
        assert resolve(relative_uri(path, base), base, {path}) == (path, ())


@settings(max_examples=500 * FACTOR, deadline=None)
@given(st.sampled_from([TS, TS + b"x", INIT + FRAGMENT, FRAGMENT[:-3], VTT, AAC * 90, b"<html>", bytes(9000), b""]),
       st.lists(st.integers(0, 9000), max_size=6))  # fmt: skip
def test_a_probe_does_not_care_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    uses = Uses(frozenset({"segment"}), unmapped=True, segmented=True)
    whole, pieces = MediaProbe(), MediaProbe()
    whole.feed(data)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        pieces.feed(data[start:end])
    assert whole.findings("x", uses, PUBLISH) == pieces.findings("x", uses, PUBLISH)
    assert whole.format == pieces.format


@settings(max_examples=1500 * FACTOR, deadline=None)
@given(st.integers(), st.integers(0, 2))
def test_a_package_of_damaged_playlists_never_raises(seed: int, sides: int) -> None:
    files = {f"{i}.m3u8": mutated(seed + i) for i in range(sides + 1)} | {
        "seg.ts": TS,
        "x/a.json": b'{"ASSETS":[{"URI":"0.m3u8"}]}',
    }
    package, report = judge(files)
    assert (package is None) == (not report.accepted)
    if package is not None:
        for document in package.playlists.values():
            relative(document)
