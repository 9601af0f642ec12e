"""Every rule has a package that breaks it, and good packages of other people's tools break none.

One row: the code, how serious it is, and a package small enough to read. A new rule without a row fails the last test.
"""

from __future__ import annotations

import json

import pytest

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.policy import KeyMode, Limits, Policy
from hls_pipeline.hls.rules import RULES
from tests.hls.conftest import (
    AAC,
    FRAGMENT,
    INIT,
    KEY,
    PUBLISH,
    TS,
    VTT,
    accepted,
    errors,
    judge,
    master,
    media,
    warnings,
)

MAP = '#EXT-X-MAP:URI="init.mp4"'
KEY_TAG = '#EXT-X-KEY:METHOD=AES-128,URI="k.key"'
CIPHER = bytes(range(64))
STAMP = b"ID3\4\0\0\0\0\0\77PRIV\0\0\0\65\0\0com.apple.streaming.transportStreamTimestamp\0" + bytes(8)
ONE = {"seg.ts": TS}
TWO = {"master.m3u8": master("media.m3u8"), "seg.ts": TS}


def uri(spelled: str, **files: bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": media("seg.ts", spelled), **ONE, **files}


def tag(*lines: str, **more: bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": media(*lines, "seg.ts"), **ONE, **more}


def top(*lines: str) -> dict[str, str | bytes]:
    return {"index.m3u8": master(*lines, "media.m3u8"), "media.m3u8": media(), **ONE}


def segment(name: str, data: bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": media(name), name: data}


ERRORS: list[tuple[str, dict[str, str | bytes]]] = [
    ("PKG_PATH_UNSAFE", {**tag(), "../up.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "/abs.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "a\\b.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "C:/b.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "a\n.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "a//b.ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "_READY": ""}),
    ("PKG_PATH_UNSAFE", {**tag(), "_REJECTED.json": "{}"}),
    ("PKG_PATH_UNSAFE", {**tag(), "é" * 128 + ".ts": TS}),
    ("PKG_PATH_UNSAFE", {**tag(), "d/" * 40 + "x.ts": TS}),
    ("PKG_DUPLICATE_PATH", {**tag(), "SEG.ts": TS}),
    ("PKG_DUPLICATE_PATH", {**tag(), "\u00e9.ts": TS, "e\u0301.ts": TS}),
    ("PKG_DUPLICATE_PATH", {**tag(), "SEG.ts/a/b.ts": TS}),
    ("PKG_NO_PLAYLIST", {"seg.ts": TS}),
    ("PKG_NO_PLAYLIST", {**tag(), "metadata.json": '{"playlist": "other.m3u8"}'}),
    ("PKG_ROOT_AMBIGUOUS", {"a.m3u8": media(), "b.m3u8": media(), **ONE}),
    (
        "PKG_ROOT_AMBIGUOUS",
        {
            "a.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="b.m3u8"'),
            "b.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="a.m3u8"'),
            **ONE,
        },
    ),
    ("PKG_FORBIDDEN_TYPE", segment("seg.html", TS)),
    (
        "PKG_FORBIDDEN_TYPE",
        {**top('#EXT-X-SESSION-DATA:DATA-ID="x",URI="x.json",FORMAT=RAW'), "x.json": "<svg onload=x>"},
    ),
    ("META_NOT_JSON", {**tag(), "metadata.json": "[1]"}),
    ("META_NOT_JSON", {**tag(), "metadata.json": '{"a": NaN}'}),
    ("META_NOT_JSON", {**tag(), "metadata.json": '{"a": 1, "a": 2}'}),
    ("META_NOT_JSON", {**tag(), "metadata.json": '{"a": 123456789012345678901}'}),
    ("META_NOT_JSON", {**tag(), "metadata.json": '{"a": "\\ud800"}'}),
    ("META_TOO_LARGE", {**tag(), "metadata.json": '{"a": ' + "[" * 40 + "]" * 40 + "}"}),
    ("META_TOO_LARGE", {**tag(), "metadata.json": '{"a": ' + "[" * 90_000 + "]" * 90_000 + "}"}),
    ("META_TOO_LARGE", {**tag(), "metadata.json": '{"a": "' + "x" * 30_000 + '"}'}),
    ("META_TOO_LARGE", {**tag(), "metadata.json": '{"a": "' + "x" * 300_000 + '"}'}),
    ("META_RESERVED_NAME", {**tag(), "metadata.json": '{"status": "ready"}'}),
    ("META_BAD_VALUE", {**tag(), "metadata.json": '{"title": 7}'}),
    ("META_BAD_VALUE", {**tag(), "metadata.json": '{"video_id": "../x"}'}),
    ("META_BAD_VALUE", {**tag(), "metadata.json": '{"video_id": "x\\n"}'}),
    ("HLS_TOO_LARGE", tag("#" + "x" * 64_000)),
    ("HLS_NOT_UTF8", {"index.m3u8": media("#é").encode("latin-1"), **ONE}),
    ("HLS_BOM", {"index.m3u8": "\ufeff" + media(), **ONE}),
    ("HLS_CONTROL_CHAR", tag("# a\u2028b")),
    ("HLS_CONTROL_CHAR", tag("# a\x0bb")),
    ("HLS_CONTROL_CHAR", tag("# a\x00b")),
    ("HLS_BARE_CR", tag("# a\rb")),
    ("HLS_BARE_CR", {"index.m3u8": media().rstrip("\n") + "\r", **ONE}),
    ("HLS_NOT_M3U8", {"index.m3u8": "\n" + media(), **ONE}),
    ("HLS_NOT_M3U8", {"index.m3u8": media().replace("#EXTM3U", "#EXTM3U8"), **ONE}),
    ("HLS_BAD_ATTR_LIST", tag('#EXT-X-MAP:URI="init.mp4')),
    ("HLS_BAD_ATTR_LIST", tag('#EXT-X-MAP:URI="init.mp4",', **{"init.mp4": INIT})),
    ("HLS_BAD_ATTR_LIST", tag('#EXT-X-KEY METHOD=NONE,URI="x"')),
    ("HLS_BAD_ATTR_LIST", top('#EXT-X-MEDIA:TYPE=AUDIO;GROUP-ID="a"')),
    ("HLS_DUPLICATE_ATTR", tag("#EXT-X-START:TIME-OFFSET=1,TIME-OFFSET=2")),
    ("HLS_WHITESPACE", {"index.m3u8": media() + "  #EXT-X-DISCONTINUITY\n", **ONE}),
    ("HLS_MIXED_TAGS", tag("#EXT-X-STREAM-INF:BANDWIDTH=1")),
    ("HLS_MIXED_TAGS", top("#EXT-X-TARGETDURATION:6")),
    ("HLS_DUPLICATE_TAG", tag("#EXT-X-TARGETDURATION:6")),
    ("HLS_DUPLICATE_TAG", tag("#EXT-X-VERSION:7")),
    ("HLS_DUPLICATE_TAG", tag("#EXT-X-BYTERANGE:10@0", "#EXT-X-BYTERANGE:10@0")),
    ("HLS_DUPLICATE_TAG", top(*['#EXT-X-SESSION-DATA:DATA-ID="x",LANGUAGE="en",VALUE="y"'] * 2)),
    ("HLS_DUPLICATE_TAG", top(*['#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="y"'] * 2)),
    ("HLS_BAD_VERSION", {"index.m3u8": media(version=0), **ONE}),
    ("HLS_BAD_VERSION", {"index.m3u8": media().replace("VERSION:7", "VERSION:7.0"), **ONE}),
    ("HLS_BAD_VERSION", {"index.m3u8": media().replace("VERSION:7", "VERSION:٧"), **ONE}),
    ("HLS_NO_TARGETDURATION", {"index.m3u8": media().replace("#EXT-X-TARGETDURATION:6\n", ""), **ONE}),
    ("HLS_BAD_TARGETDURATION", {"index.m3u8": media(target=0), **ONE}),
    ("HLS_BAD_TARGETDURATION", {"index.m3u8": media().replace("DURATION:6", "DURATION:6.0"), **ONE}),
    ("HLS_TARGETDURATION_EXCEEDED", {"index.m3u8": media(target=5), **ONE}),
    *(
        ("HLS_BAD_EXTINF", {"index.m3u8": media().replace("EXTINF:6.0", f"EXTINF:{value}"), **ONE})
        for value in ("nan", "inf", "-1", "+6", "1_000", "９", "6e0", "0x6", "", "6.0.0", "six")
    ),
    ("HLS_MISSING_EXTINF", {"index.m3u8": media("seg.ts") + "seg.ts\n", **ONE}),
    ("HLS_MISSING_EXTINF", {**top(), "index.m3u8": master("media.m3u8") + "media.m3u8\n"}),
    ("HLS_SEGMENT_WITHOUT_URI", tag("#EXTINF:6.0,")),
    ("HLS_EMPTY_MEDIA", {"index.m3u8": media("#EXT-X-DISCONTINUITY")}),
    ("HLS_EMPTY_MULTIVARIANT", {"index.m3u8": master('#EXT-X-SESSION-DATA:DATA-ID="a",VALUE="b"')}),
    (
        "HLS_NO_VARIANT",
        {**top(), "index.m3u8": master('#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="media.m3u8"')},
    ),
    ("HLS_VARIANT_WITHOUT_URI", top('#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="x"', "#EXT-X-STREAM-INF:BANDWIDTH=1")),
    ("HLS_MISSING_ATTR", top('#EXT-X-STREAM-INF:CODECS="x"', "media.m3u8")),
    ("HLS_MISSING_ATTR", top('#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",NAME="s",LANGUAGE="en"')),
    ("HLS_MISSING_ATTR", top('#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="s",NAME="s"')),
    ("HLS_MISSING_ATTR", top('#EXT-X-SESSION-DATA:DATA-ID="x"')),
    ("HLS_MISSING_ATTR", tag("#EXT-X-KEY:METHOD=AES-128")),
    ("HLS_MISSING_ATTR", tag('#EXT-X-KEY:URI="k.key"', **{"k.key": KEY})),
    ("HLS_NO_ENDLIST", {"index.m3u8": media(end=False), **ONE}),
    ("HLS_BAD_NUMBER", tag("#EXT-X-MEDIA-SEQUENCE:x")),
    ("HLS_DELTA_UPDATE", tag("#EXT-X-SKIP:SKIPPED-SEGMENTS=1")),
    ("HLS_BYTERANGE_NO_OFFSET", tag("#EXT-X-BYTERANGE:188")),
    (
        "HLS_BYTERANGE_NO_OFFSET",
        {**tag("#EXT-X-BYTERANGE:188@0", "seg.ts", "#EXT-X-BYTERANGE:188", "b.ts"), "b.ts": TS},
    ),
    ("HLS_BAD_BYTERANGE", tag("#EXT-X-BYTERANGE:0@0")),
    ("HLS_BAD_BYTERANGE", tag("#EXT-X-BYTERANGE:1-2")),
    ("HLS_BAD_DEFINE", tag('#EXT-X-DEFINE:NAME="a"')),
    ("HLS_BAD_DEFINE", tag('#EXT-X-DEFINE:NAME="a",VALUE="1"', '#EXT-X-DEFINE:NAME="a",VALUE="2"')),
    ("HLS_DEFINE_IMPORT", tag('#EXT-X-DEFINE:IMPORT="a"')),
    ("HLS_DEFINE_IMPORT", top('#EXT-X-DEFINE:IMPORT="a"')),
    ("HLS_DEFINE_QUERYPARAM", tag('#EXT-X-DEFINE:QUERYPARAM="a"')),
    ("HLS_MAP_REQUIRED", segment("a.m4s", FRAGMENT)),
    ("HLS_KEY_NONE_ATTRS", tag('#EXT-X-KEY:METHOD=NONE,URI="k.key"', **{"k.key": KEY})),
    (
        "HLS_MAP_IV_MISSING",
        {"index.m3u8": media(KEY_TAG, MAP, "a.m4s"), "init.mp4": CIPHER, "a.m4s": CIPHER, "k.key": KEY},
    ),
    ("HLS_SESSION_KEY_NONE", top("#EXT-X-SESSION-KEY:METHOD=NONE")),
    ("URI_EMPTY", tag('#EXT-X-MAP:URI=""')),
    ("URI_EMPTY", uri("?x=1")),
    ("URI_CONTROL_CHAR", uri("a%0ab.ts")),
    ("URI_CONTROL_CHAR", uri("a%E2%80%A8b.ts")),
    ("URI_CONTROL_CHAR", uri("a\tb.ts")),
    *(("URI_ABSOLUTE_HTTP", uri(one)) for one in ("http://a/b.ts", "HTTPS://a/b.ts", "https:b.ts")),
    ("URI_FILE_SCHEME", uri("file:///etc/passwd")),
    ("URI_DATA_SCHEME", uri("data:video/mp2t;base64,Rw==")),
    *(("URI_SCHEME_FORBIDDEN", uri(one)) for one in ("javascript:1", "ipfs://x", "s3://x/y", "crypto:x", "a+b.c-d:x")),
    ("URI_NETWORK_PATH", uri("//host/a.ts")),
    ("URI_ROOT_RELATIVE", uri("/seg.ts")),
    *(("URI_TRAVERSAL", uri(one)) for one in ("../a.ts", "a/../../b.ts", "%2e%2e/a.ts", "a/%2E./../b/../../c.ts")),
    *(("URI_ENCODED_SEPARATOR", uri(one)) for one in ("a%2fb.ts", "a%5Cb.ts", "a%00.ts", "..%2Fa.ts")),
    ("URI_BACKSLASH", uri("a\\b.ts")),
    ("URI_MISSING_FILE", uri("SEG.ts")),
    ("URI_MISSING_FILE", uri("seg.ts/")),
    ("URI_MISSING_FILE", uri("seg.ts/.")),
    ("URI_MISSING_FILE", uri("seg.ts/x/..")),
    ("URI_MISSING_FILE", uri("a%252fb.ts")),
    ("URI_AMBIGUOUS", uri("a%20b.ts", **{"a b.ts": TS, "a%20b.ts": TS})),
    ("URI_VARIABLE_UNDEFINED", uri("{$x}.ts")),
    ("URI_VARIABLE_UNDEFINED", tag('#EXT-X-MAP:URI="{$x}.mp4"', '#EXT-X-DEFINE:NAME="x",VALUE="seg"')),
    ("URI_KIND_MISMATCH", {**TWO, "media.m3u8": media("master.m3u8")}),
    ("URI_KIND_MISMATCH", {"index.m3u8": master("seg.ts"), **ONE}),
    ("URI_KIND_MISMATCH", {"index.m3u8": media("b.m3u8"), "b.m3u8": media(), **ONE}),
    ("URI_KIND_MISMATCH", {"index.m3u8": media('#EXT-X-MAP:URI="b.m3u8"', "seg.ts"), "b.m3u8": media(), **ONE}),
    ("URI_KIND_MISMATCH", segment("seg.ts", media().encode())),
    ("URI_KIND_MISMATCH", {"index.m3u8": media(KEY_TAG, "k.key"), "k.key": KEY}),
    ("URI_KIND_MISMATCH", {**top('#EXT-X-SESSION-DATA:DATA-ID="x",URI="metadata.json"'), "metadata.json": "{}"}),
    ("HLS_CYCLE", {"index.m3u8": master("index.m3u8")}),
    (
        "HLS_CYCLE",
        {
            "index.m3u8": media('#EXT-X-DATERANGE:ID="a",X-ASSET-URI="ad.m3u8"', "seg.ts"),
            "ad.m3u8": media('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="list.json"', "seg.ts"),
            "list.json": '{"ASSETS": [{"URI": "index.m3u8"}]}',
            **ONE,
        },
    ),
    (
        "HLS_CYCLE",
        {
            "index.m3u8": media('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="list.json"', "seg.ts"),
            "list.json": '{"ASSETS": [{"URI": "ad.m3u8"}]}',
            "ad.m3u8": media('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="list.json"', "seg.ts"),
            **ONE,
        },
    ),
    ("HLS_NESTED_MULTIVARIANT", {"index.m3u8": master("a.m3u8"), "a.m3u8": master(), "media.m3u8": media(), **ONE}),
    ("SIDE_FILE_BROKEN", tag('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="a.json"', **{"a.json": b"{"})),
    ("MEDIA_EMPTY", segment("seg.ts", b"")),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b"<!DOCTYPE html><html>")),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b'{"error": 404}')),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b"\x89PNG\r\n\x1a\n" + TS)),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b"Gone away\n")),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b"Gone away\n" * 40)),
    ("MEDIA_UNKNOWN_TYPE", segment("seg.ts", b"\xff" * 1880)),
    ("MEDIA_UNKNOWN_TYPE", segment("a.vtt", VTT.decode().encode("utf-16"))),
    ("MEDIA_UNKNOWN_TYPE", segment("a.vtt", b"WEBVTTX\n")),
    ("MEDIA_UNKNOWN_TYPE", segment("a.vtt", b"00:00.000 --> 00:01.000\nhello")),
    (
        "MEDIA_UNKNOWN_TYPE",
        {"index.m3u8": media(KEY_TAG, "seg.ts"), "k.key": KEY, "seg.ts": b"<script>alert(1)</script>" + bytes(23)},
    ),
    (
        "MEDIA_UNKNOWN_TYPE",
        {"index.m3u8": media(KEY_TAG, "seg.ts"), "k.key": KEY, "seg.ts": b'<?xml version="1.0"?>\n<Error>404'},
    ),
    ("MEDIA_TS_SYNC", segment("seg.ts", TS + b"x" + TS)),
    ("MEDIA_TS_SYNC", segment("seg.ts", b"x" + TS[1:])),
    ("MEDIA_TS_SYNC", segment("seg.ts", b"\xff" * 100 + TS)),
    ("MEDIA_TS_SYNC", segment("seg.ts", TS[:90] + TS[100:] + TS)),
    ("MEDIA_MP4_BOX", {"index.m3u8": media(MAP, "a.m4s"), "init.mp4": INIT, "a.m4s": FRAGMENT[:-1]}),
    ("MEDIA_MP4_BOX", {"index.m3u8": media(MAP, "a.m4s"), "init.mp4": INIT, "a.m4s": FRAGMENT + b"\0\0\0\1rest"}),
    ("MEDIA_INIT_INVALID", {"index.m3u8": media(MAP, "a.m4s"), "init.mp4": FRAGMENT, "a.m4s": FRAGMENT}),
    ("MEDIA_INIT_INVALID", {"index.m3u8": media(MAP, "seg.ts"), "init.mp4": AAC, **ONE}),
    (
        "MEDIA_INIT_INVALID",
        {
            "index.m3u8": media(f'#EXT-X-MAP:URI="init.mp4",BYTERANGE="{len(INIT) - 1}@0"', "a.m4s"),
            "init.mp4": INIT,
            "a.m4s": FRAGMENT,
        },
    ),
    ("BYTERANGE_BEYOND_EOF", tag("#EXT-X-BYTERANGE:188@700")),
    (
        "BYTERANGE_BEYOND_EOF",
        {
            "index.m3u8": media('#EXT-X-MAP:URI="init.mp4",BYTERANGE="99@0"', "a.m4s"),
            "init.mp4": INIT,
            "a.m4s": FRAGMENT,
        },
    ),
    ("MEDIA_AES_LENGTH", {"index.m3u8": media(KEY_TAG, "seg.ts"), "k.key": KEY, "seg.ts": CIPHER[:-1]}),
    (
        "MEDIA_AES_LENGTH",
        {
            "index.m3u8": media(KEY_TAG, '#EXT-X-PART:DURATION=1,URI="part.ts"', "seg.ts"),
            "k.key": KEY,
            "seg.ts": CIPHER,
            "part.ts": CIPHER[:-1],
        },
    ),
    (
        "MEDIA_AES_LENGTH",
        {"index.m3u8": media(KEY_TAG, "#EXT-X-BYTERANGE:17@0", "seg.ts"), "k.key": KEY, "seg.ts": CIPHER},
    ),
    ("KEY_SIZE", {"index.m3u8": media(KEY_TAG, "seg.ts"), "k.key": KEY + b"\n", "seg.ts": CIPHER}),
    (
        "KEY_SIZE",
        {"index.m3u8": media(KEY_TAG.replace("128", "256"), "seg.ts"), "k.key": KEY, "seg.ts": CIPHER},
    ),
]

WARNINGS: list[tuple[str, dict[str, str | bytes]]] = [
    ("PKG_UNREFERENCED_FILE", {**tag(), ".DS_Store": b"x", "__MACOSX/._index.m3u8": b"\0\5\x16\7"}),
    ("HLS_WHITESPACE", top("#EXT-X-STREAM-INF:PROGRAM-ID=1, BANDWIDTH=9", "media.m3u8")),
    ("HLS_WHITESPACE", uri("seg.ts ")),
    ("HLS_EXTM3U_TRAILING", {"index.m3u8": media().replace("#EXTM3U", '#EXTM3U x="y"'), **ONE}),
    ("HLS_UNKNOWN_TAG", tag("#EXT-X-CUE-OUT:30")),
    ("HLS_VERSION_LOW", {"index.m3u8": media(version=2), **ONE}),
    ("HLS_VERSION_LOW", {"index.m3u8": media(MAP, "a.m4s", version=5), "init.mp4": INIT, "a.m4s": FRAGMENT}),
    ("HLS_EXTINF_NO_COMMA", {"index.m3u8": media().replace("6.0,", "6.0"), **ONE}),
    ("HLS_ZERO_DURATION", {"index.m3u8": media().replace("6.0,", "0,"), **ONE}),
    ("HLS_BAD_ATTR_VALUE", top('#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=wide,CODECS="x"', "media.m3u8")),
    (
        "HLS_BAD_ATTR_VALUE",
        top('#EXT-X-DEFINE:NAME="b",VALUE="1"', '#EXT-X-STREAM-INF:BANDWIDTH={$b},CODECS="x"', "media.m3u8"),
    ),
    ("HLS_GROUP_UNDEFINED", top('#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="x",AUDIO="none"', "media.m3u8")),
    ("HLS_NO_CODECS", top("#EXT-X-STREAM-INF:BANDWIDTH=1", "media.m3u8")),
    ("HLS_BAD_PLAYLIST_TYPE", tag("#EXT-X-PLAYLIST-TYPE:vod")),
    ("HLS_BAD_DATE", tag("#EXT-X-PROGRAM-DATE-TIME:yesterday")),
    ("HLS_LIVE_TAG", tag('#EXT-X-PART:DURATION=1,URI="seg.ts"')),
    ("HLS_MAP_REQUIRED", segment("a.mp4", INIT + FRAGMENT)),
    ("HLS_DATERANGE_NO_DATE", tag('#EXT-X-DATERANGE:ID="a"')),
    (
        "HLS_VARIANTS_DIFFER",
        {"index.m3u8": master("a.m3u8", "b.m3u8"), "a.m3u8": media(), "b.m3u8": media(target=9), **ONE},
    ),
    *(
        (
            "HLS_VARIANTS_DIFFER",
            {"index.m3u8": master("a.m3u8", "b.m3u8"), "a.m3u8": media("seg.ts", "seg.ts"), "b.m3u8": other, **ONE},
        )
        for other in (
            media("#EXT-X-DISCONTINUITY-SEQUENCE:1", "seg.ts", "seg.ts"),
            media("seg.ts", "#EXT-X-DISCONTINUITY", "seg.ts"),
        )
    ),
    (
        "HLS_DEFAULT_TWICE",
        top(*(f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="{n}",LANGUAGE="en",DEFAULT=YES' for n in "12")),
    ),
    ("HLS_NO_LANGUAGE", top('#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a"')),
    ("HLS_SECOND_OPINION", tag('#EXT-X-RENDITION-REPORT:URI="index.m3u8"')),
    ("URI_QUERY", uri("seg.ts?a=b")),
    ("URI_FRAGMENT", uri("seg.ts#t=1")),
    ("URI_NOT_ENCODED", uri("a b.ts", **{"a b.ts": TS})),
    ("URI_NOT_ENCODED", uri("\u00e9.ts", **{"e\u0301.ts": TS})),
    ("URI_NOT_ENCODED", uri("what?.ts", **{"what?.ts": TS})),
    ("URI_NOT_ENCODED", uri("%E9.ts", **{"%E9.ts": TS})),
    ("URI_BAD_PERCENT", uri("100%.ts", **{"100%.ts": TS})),
    ("URI_UNKNOWN_ATTR", tag('#EXT-X-DATERANGE:ID="a",X-AD-URL="https://ads.example/beacon"')),
    ("URI_UNKNOWN_ATTR", tag("#EXT-X-PREFETCH:https://live.example/next.ts")),
    ("URI_MISSING_LIVE", tag('#EXT-X-PRELOAD-HINT:TYPE=PART,URI="next.ts"')),
    ("STEERING_EXTERNAL", top('#EXT-X-CONTENT-STEERING:SERVER-URI="https://s.example/m.json"')),
    (
        "SIDE_FILE_OPAQUE",
        tag('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="a.json"', **{"a.json": b'{"ASSETS": [], "X-URL": "x.m3u8"}'}),
    ),
    ("MEDIA_TS_LENGTH", segment("seg.ts", TS + TS[:9])),
    ("MEDIA_NO_MOOF", {"index.m3u8": media(MAP, "a.m4s"), "init.mp4": INIT, "a.m4s": INIT}),
    ("MEDIA_NO_MOOF", {"index.m3u8": media(MAP, "a.m4s"), "init.mp4": INIT, "a.m4s": FRAGMENT[:-108]}),
    ("MEDIA_NO_TIMESTAMP", {"index.m3u8": media("a.vtt", "b.vtt"), "a.vtt": b"WEBVTT\n\n", "b.vtt": VTT}),
    ("MEDIA_NO_TIMESTAMP", {"index.m3u8": media("a.aac", "b.aac"), "a.aac": AAC, "b.aac": AAC}),
    ("KEY_IN_PACKAGE", {"index.m3u8": media(KEY_TAG, "seg.ts"), "k.key": KEY, "seg.ts": CIPHER}),
    ("KEY_DATA_URI", tag('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="data:text/plain;base64,AAAA"')),
]

ELSEWHERE = {
    "PKG_LINK", "PKG_SYMLINK_ESCAPE", "PKG_TOO_MANY_FILES", "PKG_TOO_LARGE", "PKG_RATIO", "PKG_ENCRYPTED_ARCHIVE",
    "PKG_BAD_ARCHIVE",
}  # fmt: skip
"""Found in archives and folders: test_sources.py."""


@pytest.mark.parametrize(("code", "files"), ERRORS, ids=[f"{i}-{code}" for i, (code, _) in enumerate(ERRORS)])
def test_a_broken_package_is_refused_for_what_is_wrong_with_it(code: str, files: dict[str, str | bytes]) -> None:
    assert errors(files) == {code}


@pytest.mark.parametrize(("code", "files"), WARNINGS, ids=[f"{i}-{code}" for i, (code, _) in enumerate(WARNINGS)])
def test_a_doubtful_package_is_accepted_with_a_warning(code: str, files: dict[str, str | bytes]) -> None:
    accepted(files)
    assert code in warnings(files)


def test_every_rule_is_tried_here_or_on_archives() -> None:
    tried = {code for code, _ in (*ERRORS, *WARNINGS)}
    assert tried | ELSEWHERE | {"URI_VARIABLE_QUERYPARAM"} == set(RULES)


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("EVENT that has ended", tag("#EXT-X-PLAYLIST-TYPE:EVENT")),
        ("a tab as title, as Apple's old examples have it", {"index.m3u8": media().replace("6.0,", "6.0,\t"), **ONE}),
        ("a missing file behind a gap", {"index.m3u8": media("#EXT-X-GAP", "gone.ts", "seg.ts"), **ONE}),
        (
            "a range that goes on in the same file, spelled otherwise",
            tag("#EXT-X-BYTERANGE:188@0", "seg.ts", "#EXT-X-BYTERANGE:188", "./seg.ts"),
        ),
        ("a duration that rounds to the target", {"index.m3u8": media().replace("6.0,", "6.5,"), **ONE}),
        ("a whole number of seconds", {"index.m3u8": media(version=1).replace("6.0,", "6,"), **ONE}),
        ("a point without digits after it", {"index.m3u8": media().replace("6.0,", "6.,"), **ONE}),
        ("captions", top('#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="c",NAME="c",INSTREAM-ID="CC1"')),
        (
            "session data in two languages",
            top(*(f'#EXT-X-SESSION-DATA:DATA-ID="x",LANGUAGE="{one}",VALUE="y"' for one in ("en", "de"))),
        ),
        ("no captions", top('#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="x",CLOSED-CAPTIONS=NONE', "media.m3u8")),
        ("codecs with a blank inside the quotes", top('#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="a, b"', "media.m3u8")),
        ("a date with ffmpeg's zone", tag("#EXT-X-PROGRAM-DATE-TIME:2026-01-05T15:05:00.000+0000")),
        ("FairPlay", tag('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="com.apple.streamingkeydelivery"')),
        (
            "a DRM system that likes relative or web addresses",
            tag('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="https://drm.example/x",KEYFORMAT="com.example"'),
        ),
        (
            "packed audio with a tag of its own after the time stamp",
            {
                "index.m3u8": media("a.mp3", "b.aac"),
                "a.mp3": STAMP + b"ID3\4\0\0\0\0\0\1\0" + b"\xff\xfb" + bytes(100),
                "b.aac": STAMP[:5] + b"\x10" + STAMP[6:] + b"3DI" + STAMP[3:10] + AAC,
            },
        ),
        ("TS in MP4 clothes: a map of packets", tag('#EXT-X-MAP:URI="init.ts"', **{"init.ts": TS})),
        ("a root by another name", {"play.txt": media(), **ONE}),
        ("a root without extension", {"stream": media(), **ONE}),
        ("the .m4u8 of some", {"index.m4u8": media(), **ONE}),
        ("a package inside one folder", {"video/index.m3u8": media(), "video/seg.ts": TS}),
        (
            "cut I-frames",
            {"index.m3u8": media("#EXT-X-I-FRAMES-ONLY", MAP, "a.mp4"), "init.mp4": INIT, "a.mp4": FRAGMENT[:-9]},
        ),
        (
            "I-frame ranges of encrypted segments, which end anywhere",
            {
                "index.m3u8": media("#EXT-X-I-FRAMES-ONLY", KEY_TAG, "#EXT-X-BYTERANGE:17@0", "seg.ts"),
                "seg.ts": CIPHER,
                "k.key": KEY,
            },
        ),
        (
            "one MP4 with its index inside, used by ranges",
            {
                "index.m3u8": media(
                    f'#EXT-X-MAP:URI="a.mp4",BYTERANGE="{len(INIT)}@0"',
                    f"#EXT-X-BYTERANGE:{len(FRAGMENT)}@{len(INIT)}",
                    "a.mp4",
                ),
                "a.mp4": INIT + FRAGMENT,
            },
        ),
        (
            "pictures for scrubbing",
            {
                "index.m3u8": master("media.m3u8", '#EXT-X-IMAGE-STREAM-INF:BANDWIDTH=1,URI="img.m3u8"'),
                "media.m3u8": media(),
                "img.m3u8": media("#EXT-X-IMAGES-ONLY", "#EXT-X-TILES:LAYOUT=5x3", "a.jpg"),
                "a.jpg": b"\xff\xd8\xff\xe0" + bytes(50),
                **ONE,
            },
        ),
        (
            "siblings that report on each other",
            {
                "index.m3u8": master("a.m3u8", "b.m3u8"),
                "a.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="b.m3u8"'),
                "b.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="a.m3u8"'),
                **ONE,
            },
        ),
        (
            "a sibling that a report alone names",
            {
                "index.m3u8": master("a.m3u8"),
                "a.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="b.m3u8"'),
                "b.m3u8": media("seg.ts", '#EXT-X-RENDITION-REPORT:URI="a.m3u8"'),
                **ONE,
            },
        ),
        ("a long value in which no variable stands", tag(f'#EXT-X-DEFINE:NAME="a",VALUE="{"x" * 9000}"')),
        (
            "a variable from the parent",
            {
                "index.m3u8": master('#EXT-X-DEFINE:NAME="dir",VALUE="media"', "{$dir}.m3u8"),
                "media.m3u8": media('#EXT-X-DEFINE:IMPORT="dir"', "{$dir}/seg.ts"),
                "media/seg.ts": TS,
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_other_tools_rightly_make_is_accepted(what: str, files: dict[str, str | bytes]) -> None:
    accepted(files)


def test_a_variable_whose_value_is_in_a_url_is_refused_where_it_is_defined_and_where_it_is_used() -> None:
    package = {"index.m3u8": media('#EXT-X-DEFINE:QUERYPARAM="x"', "{$x}.ts"), **ONE}
    assert errors(package) == {"HLS_DEFINE_QUERYPARAM", "URI_VARIABLE_QUERYPARAM"}


@pytest.mark.parametrize("line", [
    '#EXT-X-MAP:URI="{$x}.mp4"',
    '#EXT-X-KEY:METHOD=AES-128,URI="{$x}.key"',
    '#EXT-X-KEY:METHOD=AES-128,URI="seg.ts",KEYFORMATVERSIONS="{$x}"',
    '#EXT-X-KEY:METHOD=NONE,IV={$x}',
    "#EXT-X-MAP:URI={$x}.mp4",
    '#EXT-X-DATERANGE:ID="a",START-DATE="2026-01-05T15:05:00Z",X-OWN="{$x}"',
])  # fmt: skip
def test_a_variable_without_value_is_told_once_for_each_line_wherever_it_stands(line: str) -> None:
    told = [f.line for f in judge(tag(line))[1].errors if f.code == "URI_VARIABLE_UNDEFINED"]
    assert len(told) == 1


def test_of_very_many_files_with_one_fault_the_first_are_named_and_the_others_counted_by_folder() -> None:
    """100,000 files that no playlist reaches made a report of 30 MB."""
    names = [*(f"raw/take {i:04}.mov" for i in range(1000)), *(f"{i}.txt" for i in range(50))]
    package, report = judge({**tag(), **dict.fromkeys(names, b"x")})
    assert package is not None
    assert set(package.unreferenced) == set(names)
    assert len(report.warnings) == 101
    last = report.warnings[-1]
    assert (last.code, last.path) == ("PKG_UNREFERENCED_FILE", "")
    assert last.message == "950 more like the 100 above: 900 in 'raw', 50 in the top folder"


@pytest.mark.timeout(30)
def test_every_key_may_be_of_a_format_of_its_own() -> None:
    """For each key all keys in force were gone through: a playlist of 4 MB took minutes."""
    keys = [f'#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://{i}",KEYFORMAT="f{i}"' for i in range(50_000)]
    accepted(tag(*keys))


def test_a_playlist_for_key_frames_that_does_not_say_so_is_a_remark() -> None:
    frames = '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,CODECS="x",URI="frames.m3u8"'
    package = {"index.m3u8": master("media.m3u8", frames), "media.m3u8": media(), **ONE}
    assert "HLS_BAD_ATTR_VALUE" in warnings({**package, "frames.m3u8": media()})
    assert "HLS_BAD_ATTR_VALUE" not in warnings({**package, "frames.m3u8": media("#EXT-X-I-FRAMES-ONLY", "seg.ts")})
    assert "HLS_BAD_ATTR_VALUE" in warnings({**top(), "media.m3u8": media("#EXT-X-I-FRAMES-ONLY", "seg.ts")})


def test_a_severity_can_be_raised_or_eased() -> None:
    package = {"index.m3u8": media(target=5), **ONE}
    eased = Policy(keys="publish", severities={"HLS_TARGETDURATION_EXCEEDED": "warning"})
    assert errors(package) == {"HLS_TARGETDURATION_EXCEEDED"}
    assert errors(package, eased) == set()
    raised = Policy(keys="publish", severities={"HLS_UNKNOWN_TAG": "error"})
    assert errors(tag("#EXT-X-CUE-IN"), raised) == {"HLS_UNKNOWN_TAG"}


def test_a_rule_that_later_steps_rely_on_cannot_be_eased() -> None:
    with pytest.raises(UsageError):
        Policy(severities={"URI_TRAVERSAL": "warning"})
    with pytest.raises(UsageError):
        Policy(severities={"NO_SUCH_RULE": "warning"})


def test_slash_can_mean_the_top_of_the_package_and_is_then_published_as_relative() -> None:
    package = accepted({"v/index.m3u8": media("/m/seg.ts"), "m/seg.ts": TS}, Policy(root_relative=True))
    assert package.playlists["v/index.m3u8"].references[0].target == "m/seg.ts"


def test_a_finding_names_line_column_section_and_advice() -> None:
    _, report = judge(tag('#EXT-X-MAP:URI="../init.mp4"'))
    (finding,) = report.errors
    assert (finding.code, finding.path, finding.line, finding.column) == ("URI_TRAVERSAL", "index.m3u8", 4, 17)
    assert finding.excerpt == '#EXT-X-MAP:URI="../init.mp4"'
    assert finding.section == "RFC 3986 §5.2.4"
    assert finding.advice


def test_a_strangers_text_is_escaped_and_cut() -> None:
    _, report = judge(uri("javascript:\x1b" + "x" * 5000))
    assert report.errors[0].code == "HLS_CONTROL_CHAR"
    _, report = judge(uri("javascript:\u202e" + "x" * 5000))
    assert "\u202e" not in report.errors[0].message
    assert len(report.errors[0].message) < 300
    assert len(report.errors[0].excerpt or "") < 300


def test_what_variants_differ_in_is_a_strangers_text_too() -> None:
    odd = media("#EXT-X-PLAYLIST-TYPE:\u202e" + "x" * 5000)
    renditions = [f'#EXT-X-MEDIA:TYPE=\u202e{"x" * 5000},GROUP-ID="a",NAME="{n}",DEFAULT=YES' for n in "12"]
    _, report = judge({"index.m3u8": master(*renditions, "a.m3u8", "b.m3u8"), "a.m3u8": media(), "b.m3u8": odd, **ONE})
    assert {"HLS_VARIANTS_DIFFER", "HLS_DEFAULT_TWICE"} <= {finding.code for finding in report.findings}
    assert all(finding.message.isprintable() and len(finding.message) < 300 for finding in report.findings)


def test_one_rule_broken_a_thousand_times_is_reported_twenty_times_and_counted() -> None:
    _, report = judge({"index.m3u8": media(*(f"gone{i}.ts" for i in range(1000))), **ONE})
    missing = [finding for finding in report.errors if finding.code == "URI_MISSING_FILE"]
    assert len(missing) == 21
    assert missing[-1].message.startswith("980 more")


def test_a_name_that_differs_in_case_is_pointed_out() -> None:
    _, report = judge(uri("SEG.TS"))
    assert "there is 'seg.ts'" in report.errors[0].message


def test_too_many_references_are_refused_without_reading_them() -> None:
    few = Policy(keys="publish", limits=Limits(references=8))
    assert errors({"index.m3u8": media(*["seg.ts"] * 9), **ONE}, few) == {"HLS_TOO_LARGE"}
    assert errors({"index.m3u8": media(*["seg.ts"] * 7), **ONE}, few) == set()


def test_variables_cannot_stand_for_gigabytes() -> None:
    bomb = [f'#EXT-X-DEFINE:NAME="v{i}",VALUE="{f"{{$v{i - 1}}}" * 40}"' for i in range(1, 9)]
    assert "HLS_TOO_LARGE" in errors(tag('#EXT-X-DEFINE:NAME="v0",VALUE="lol"', *bomb))


def test_the_policy_of_the_corpus_allows_keys() -> None:
    assert PUBLISH.keys == "publish"


def test_a_key_format_behind_a_variable_hides_no_clear_key() -> None:
    key = '#EXT-X-KEY:METHOD=AES-128,KEYFORMAT="{$form}",URI="k.key"'
    package = {"index.m3u8": media('#EXT-X-DEFINE:NAME="form",VALUE="identity"', key, "seg.ts", version=8)}
    assert "KEY_IN_PACKAGE" in errors({**package, "k.key": KEY, "seg.ts": CIPHER}, Policy())


@pytest.mark.parametrize("keys", ["reject", "external"])
def test_a_clear_key_inside_the_playlist_is_a_key_and_no_report_repeats_it(keys: KeyMode) -> None:
    """It was a remark only, so that the key went to IPFS inside the playlist although keys were to be refused."""
    written = "AAECAwQFBgcICQoLDA0ODw=="
    package = tag(f'#EXT-X-KEY:METHOD=AES-128,URI="data:text/plain;base64,{written}"', **{"seg.ts": CIPHER})
    _, report = judge(package, Policy(keys=keys, key_service_url="https://keys.example"))
    assert [finding.code for finding in report.errors] == ["KEY_IN_PACKAGE"]
    assert written not in json.dumps(report.to_json())
    assert errors(package) == set()


@pytest.mark.parametrize(
    "line",
    [
        '#EXT-X-KEY:METHOD=AES-128,URI="data:text/plain;base64,AAECAwQFBgcICQoLDA0ODw==',
        '#EXT-X-KEY:METHOD=AES-128,URI="x",IV="data:text/plain;base64,AAECAwQFBgcICQoLDA0ODw=="',
        "data:text/plain;base64,AAECAwQFBgcICQoLDA0ODw==",
    ],
)
def test_no_report_repeats_a_key_in_a_line_that_is_broken(line: str) -> None:
    """The message showed where an attribute list cannot be read, key and all; it goes to S3 and to the database."""
    _, report = judge(tag(line), Policy())
    assert report.errors
    assert "AAECAwQF" not in json.dumps(report.to_json())


@pytest.mark.parametrize("name", ["X-AD-URI", "X-AD-URLS", "X-HREF", "X-URI-LIST"])
def test_an_attribute_that_looks_like_a_uri_is_named_however_it_is_spelled(name: str) -> None:
    package = tag(f'#EXT-X-DATERANGE:ID="a",{name}="https://ads.example/beacon"')
    assert "URI_UNKNOWN_ATTR" in warnings(package)


def test_a_cut_segment_is_refused_although_an_i_frame_playlist_names_it_too() -> None:
    frames = media("#EXT-X-I-FRAMES-ONLY", MAP, "#EXT-X-BYTERANGE:10@0", "a.m4s")
    package = {
        "index.m3u8": master("media.m3u8", '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="frames.m3u8"'),
        "media.m3u8": media(MAP, "a.m4s"),
        "frames.m3u8": frames,
        "init.mp4": INIT,
        "a.m4s": FRAGMENT[:-20],
    }
    assert "MEDIA_MP4_BOX" in errors(package)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("URI_MISSING_FILE", "vidoe/index.m3u8"),
        ("URI_ABSOLUTE_HTTP", "https://cdn.example/video/index.m3u8"),
        ("HLS_VARIANT_WITHOUT_URI", '#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="x"'),
    ],
)
def test_a_master_that_misses_its_variant_is_told_so_although_the_variant_then_looks_like_a_root(
    code: str, line: str
) -> None:
    files = {"master.m3u8": master(line), "video/index.m3u8": media(), "video/seg.ts": TS}
    _, report = judge(files)
    assert (report.root, [finding.code for finding in report.errors]) == ("master.m3u8", [code])


def test_a_playlist_named_through_a_variable_of_its_grandparent_is_no_second_root() -> None:
    """The child was read without its parent's variables when the root was looked for."""
    spot = ['#EXT-X-DEFINE:IMPORT="ad"', '#EXT-X-DATERANGE:ID="a",X-ASSET-URI="{$ad}/index.m3u8"']
    package = accepted({
        "master.m3u8": master('#EXT-X-DEFINE:NAME="ad",VALUE="ads"', "media.m3u8"),
        "media.m3u8": media(*spot, "seg.ts", version=8),
        "ads/index.m3u8": media("../seg.ts"),
        **ONE,
    })  # fmt: skip
    assert (package.root, len(package.playlists)) == ("master.m3u8", 3)


def test_a_file_that_is_only_called_a_playlist_is_not_published_and_does_no_harm() -> None:
    package = accepted({"index.m3u8": media(), "notes.m3u8": "call the studio\n", "empty.m3u8": "", **ONE})
    assert (package.root, {*package.unreferenced}) == ("index.m3u8", {"empty.m3u8", "notes.m3u8"})


@pytest.mark.parametrize("broken", ["", "<html>", "#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n", "\ufeff" + master()])
def test_a_broken_master_is_refused_for_what_is_wrong_with_it_and_its_variants_are_no_tie(broken: str) -> None:
    _, report = judge({"master.m3u8": broken, "a.m3u8": media(), "b.m3u8": media(), **ONE})
    assert (report.root, [finding.path for finding in report.errors]) == ("master.m3u8", ["master.m3u8"])


def test_a_value_of_another_form_than_the_tag_asks_for_is_a_remark() -> None:
    package = top('#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT="YES",URI="media.m3u8"')
    assert "HLS_BAD_ATTR_VALUE" in warnings(package)
