"""Only the characters of a URI change, in playlists and in side files."""

from __future__ import annotations

import json
from collections.abc import Container

import pytest

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.findings import Findings
from hls_pipeline.hls.model import Playlist, Reference
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.rewriting import relative, rewrite
from tests.hls.conftest import INIT, KEY, PUBLISH, TS, accepted, errors, master, media, warnings

CIPHER = bytes(64)


def to_ipfs(reference: Reference) -> str | None:
    return f"ipfs://cid/{reference.target}?filename=x.ts" if reference.target else None


def test_everything_but_the_uri_survives_to_the_byte() -> None:
    text = (
        '#EXTM3U\r\n#EXT-X-VERSION:6\n## é comment\r\n#EXT-X-TARGETDURATION:6\n#EXT-X-VENDOR:URI="seg.ts"\r\n'
        '#EXT-X-MAP:X=1,BYTERANGE="188@0",URI="seg.ts"\n\n#EXTINF:6.0,title, seg.ts\r\n\t seg.ts \t\r\n#EXT-X-ENDLIST'
    )
    package = accepted({"index.m3u8": text, "seg.ts": TS})
    expected = text.replace('0",URI="seg.ts"', '0",URI="NEW"').replace("\t seg.ts \t", "\t NEW \t")
    assert rewrite(package.playlists["index.m3u8"], lambda _: "NEW") == expected.encode()


def test_all_places_of_a_uri_are_found_and_mapped() -> None:
    package = accepted(
        {
            "index.m3u8": master(
                '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",LANGUAGE="en",URI="audio.m3u8"',
                "media.m3u8",
                '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,CODECS="x",URI="iframes.m3u8"',
                '#EXT-X-SESSION-DATA:DATA-ID="x",URI="data.json"',
                '#EXT-X-SESSION-KEY:METHOD=AES-128,URI="k.key"',
            ),
            "audio.m3u8": media("seg.ts"),
            "iframes.m3u8": media("#EXT-X-I-FRAMES-ONLY", "#EXT-X-BYTERANGE:188@0", "seg.ts"),
            "media.m3u8": media(
                "#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00Z",
                '#EXT-X-MAP:URI="init.mp4"',
                "seg.ts",
                '#EXT-X-PART:DURATION=1,URI="seg.ts",BYTERANGE="188@188"',
                '#EXT-X-DATERANGE:ID="1",X-ASSET-URI="ad.m3u8"',
                '#EXT-X-DATERANGE:ID="2",X-ASSET-LIST="ads.json"',
                '#EXT-X-DATERANGE:ID="3",CLASS="com.apple.hls.preload",X-URI="ad.m3u8"',
            ),
            "ad.m3u8": media("ad.ts"),
            "ads.json": '{"ASSETS": [{"DURATION": 4, "URI": "ad.m3u8"}]}',
            "data.json": "{}",
            **{"init.mp4": INIT, "seg.ts": TS, "ad.ts": TS, "k.key": KEY},
        }
    )
    kinds = [(r.kind, r.target) for p in package.playlists.values() for r in p.references]
    assert kinds == [
        ("playlist", "audio.m3u8"),
        ("playlist", "media.m3u8"),
        ("playlist", "iframes.m3u8"),
        ("session_data", "data.json"),
        ("key", "k.key"),
        ("segment", "seg.ts"),
        ("init", "init.mp4"),
        ("segment", "seg.ts"),
        ("part", "seg.ts"),
        ("asset", "ad.m3u8"),
        ("asset_list", "ads.json"),
        ("daterange_resource", "ad.m3u8"),
        ("segment", "ad.ts"),
        ("segment", "seg.ts"),
    ]
    assert [file.path for file in package.files] == ["seg.ts", "init.mp4", "ad.ts", "ads.json", "data.json", "k.key"]
    assert list(package.playlists) == ["index.m3u8", "audio.m3u8", "media.m3u8", "ad.m3u8", "iframes.m3u8"]
    order = package.rewrite_order
    assert order.index("ad.m3u8") < order.index("ads.json") < order.index("media.m3u8") < order.index("index.m3u8")
    for document in (*package.playlists.values(), *package.side_files.values()):
        assert rewrite(document, to_ipfs).count(b"ipfs://") == len(document.references)


def read(data: bytes, files: Container[str], policy: Policy = PUBLISH) -> Playlist:
    """A playlist by itself, whatever rules it breaks."""
    playlist = parse(Context("index.m3u8", files, policy, Findings()), data)
    assert playlist
    return playlist


def test_drm_keys_stay_even_if_a_name_is_offered() -> None:
    line = '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{}",KEYFORMAT="com.apple.streamingkeydelivery"'
    for uri in ("skd://a", "data:text/plain;base64,AA==", "seg.ts", "https://drm.example/"):
        playlist = accepted({"index.m3u8": media(line.format(uri), "seg.ts"), "seg.ts": TS}).playlists["index.m3u8"]
        assert f'URI="{uri}",KEYFORMAT'.encode() in rewrite(playlist, lambda _: "NEW")


def test_equal_uris_stay_equal_so_that_byte_ranges_still_continue() -> None:
    text = media("#EXT-X-BYTERANGE:188@0", "a.ts", "#EXT-X-BYTERANGE:188", "a.ts")
    playlist = accepted({"index.m3u8": text, "a.ts": TS}).playlists["index.m3u8"]
    again = read(rewrite(playlist, lambda _: "b.ts"), {"b.ts"})
    assert [reference.byterange for reference in again.references] == [r.byterange for r in playlist.references]


def test_a_variable_is_replaced_as_a_whole_and_left_alone_in_the_relative_form() -> None:
    text = media('#EXT-X-DEFINE:NAME="d",VALUE="x"', "{$d}/seg.ts")
    playlist = accepted({"index.m3u8": text, "x/seg.ts": TS}).playlists["index.m3u8"]
    assert relative(playlist) == text.encode()
    assert b"\nipfs://cid/x/seg.ts?filename=x.ts\n" in rewrite(playlist, to_ipfs)


@pytest.mark.parametrize(
    ("name", "spelled", "published"),
    [
        ("a b.ts", "a b.ts", "a%20b.ts"),
        ("é.ts", "é.ts", "%C3%A9.ts"),
        ("100%.ts", "100%.ts", "100%25.ts"),
        ("a#1.ts", "a#1.ts", "a%231.ts"),
        ("what?.ts", "what?.ts", "what%3F.ts"),
        ("e\u0301.ts", "%C3%A9.ts", "e%CC%81.ts"),
        ("a%20b.ts", "a%20b.ts", "a%2520b.ts"),
        ("%E9.ts", "%E9.ts", "%25E9.ts"),
        ("d/x.ts", "d//x.ts", "d/x.ts"),
        ("a b.ts", "a b.ts?t=1", "a%20b.ts?t=1"),
        ("ab:c.ts", "ab%3Ac.ts", "ab%3Ac.ts"),
        ("a+b.ts", "a+b.ts", "a+b.ts"),
        ("d/x.ts", "./d/../d/x.ts", "./d/../d/x.ts"),
    ],
)
def test_a_name_that_only_some_players_find_is_repaired(name: str, spelled: str, published: str) -> None:
    playlist = accepted({"index.m3u8": media(spelled), name: TS}).playlists["index.m3u8"]
    assert relative(playlist) == media(published).encode()


@pytest.mark.parametrize("new", ["", "a\nb", "a\rb", '"', "#x", " x", "x ", "a\u2028b", "{$x}"])
def test_a_name_that_would_break_out_of_its_place_is_not_written(new: str) -> None:
    playlist = accepted({"index.m3u8": media('#EXT-X-MAP:URI="init.mp4"', "seg.ts"), "seg.ts": TS, "init.mp4": INIT})
    with pytest.raises(UsageError):
        rewrite(playlist.playlists["index.m3u8"], lambda _: new)


def test_a_comma_cannot_enter_an_unquoted_value() -> None:
    playlist = read(media("#EXT-X-MAP:URI=init.mp4", "seg.ts").encode(), {"init.mp4", "seg.ts"})
    assert b"URI=b.mp4\n" in rewrite(playlist, lambda r: "b.mp4" if r.kind == "init" else None)
    with pytest.raises(UsageError):
        rewrite(playlist, lambda r: "a,b" if r.kind == "init" else None)


ADS = {
    "index.m3u8": media('#EXT-X-DATERANGE:ID="a",X-ASSET-LIST="x/ads.json"', "s.ts"),
    "x/ad.m3u8": media("ad.ts"),
    "x/ad.ts": TS,
    "s.ts": TS,
}  # fmt: skip


def test_an_asset_list_is_rewritten_like_a_playlist() -> None:
    text = (
        '{ "ASSETS":[ {"URI" : "ad.m\\u0033u8", "DURATION": 1.50}, {"URI":"ad.m3u8"} ],\n "note": "ad.m3u8 \\"x\\"" }'
    )
    package = accepted({**ADS, "x/ads.json": text})
    side = package.side_files["x/ads.json"]
    assert relative(side) == text.encode()
    new = rewrite(side, lambda reference: f'q"{reference.target}')
    assert new.decode() == text.replace('"ad.m\\u0033u8"', '"q\\"x/ad.m3u8"').replace('"ad.m3u8"}', '"q\\"x/ad.m3u8"}')
    assert json.loads(new)["ASSETS"][0] == {"URI": 'q"x/ad.m3u8', "DURATION": 1.5}
    assert "x/ad.ts" in {file.path for file in package.files}
    assert "x/ads.json" in {file.path for file in package.files}


def test_an_asset_list_that_names_a_web_server_is_refused() -> None:
    outside = '{"ASSETS":[{"URI":"ad.m3u8"},{"URI":"https://ads.example/a.m3u8"}]}'
    assert errors({**ADS, "x/ads.json": outside}) == {"URI_ABSOLUTE_HTTP"}


def test_chapter_pictures_are_published_and_rewritten() -> None:
    chapters = '[{"chapter": 1, "images": [{"url": "img/1.jpg"}, {"url": "https://elsewhere.example/2.jpg"}]}]'
    files = {
        "index.m3u8": master('#EXT-X-SESSION-DATA:DATA-ID="com.apple.hls.chapters",URI="chapters.json"', "media.m3u8"),
        "media.m3u8": media(),
        "seg.ts": TS,
        "chapters.json": chapters,
        "img/1.jpg": b"\xff\xd8\xff\xe0",
    }
    package = accepted(files)
    assert [(file.path, file.role) for file in package.files][1:] == [("img/1.jpg", "image"), ("seg.ts", "segment")]
    assert b'"url": "NEW"}, {"url": "https://else' in rewrite(
        package.side_files["chapters.json"], lambda r: "NEW" if r.target else None
    )
    assert "URI_ABSOLUTE_HTTP" in warnings(files)


def test_thumbnail_cues_keep_their_fragment() -> None:
    track = "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:0,MPEGTS:0\n\n00:00.000 --> 00:05.000\r\nsprite.jpg#xywh=0,0,160,90\r\n"
    package = accepted({"index.m3u8": media("t.vtt"), "t.vtt": track, "sprite.jpg": b"\xff\xd8\xff\xe0"})
    new = rewrite(package.side_files["t.vtt"], lambda _: "ipfs://c?filename=s.jpg")
    assert new.decode() == track.replace("sprite.jpg", "ipfs://c?filename=s.jpg")


KEYED = {
    "index.m3u8": media('#EXT-X-KEY:METHOD=AES-128,URI="k/1 2.key",IV=0x01', "seg.ts"),
    "k/1 2.key": KEY,
    "seg.ts": CIPHER,
}


def test_a_key_is_published_only_when_somebody_says_so() -> None:
    assert errors(KEYED, Policy()) == {"KEY_IN_PACKAGE"}
    package = accepted(KEYED)
    assert [file.path for file in package.files] == ["k/1 2.key", "seg.ts"]
    assert package.keys == ()


def test_a_key_for_a_key_service_is_named_there_and_published_nowhere() -> None:
    policy = Policy(keys="external", key_service_url="https://keys.example/v1", video_id="a")
    package = accepted(KEYED, policy)
    assert [file.path for file in package.files] == ["seg.ts"]
    assert [file.path for file in package.keys] == ["k/1 2.key"]
    playlist = package.playlists["index.m3u8"]
    for form in (relative(playlist), rewrite(playlist, to_ipfs), rewrite(playlist, lambda _: None)):
        assert b'URI="https://keys.example/v1/a/k/1%202.key",IV=0x01' in form
    again = read(playlist.data, KEYED, policy)
    assert relative(again) == relative(playlist)


@pytest.mark.parametrize(
    ("service", "address"),
    [
        ("https://k.example", "https://k.example/a/k/1%202.key"),
        ("https://k.example/get?key={path}", "https://k.example/get?key=a/k/1%202.key"),
        ("https://k.example/{video_id}/keys/{path}", "https://k.example/a/keys/k/1%202.key"),
        ("https://{video_id}.k.example/", "https://a.k.example/k/1%202.key"),
    ],
)
def test_two_videos_with_keys_of_one_name_have_two_addresses(service: str, address: str) -> None:
    policy = Policy(keys="external", key_service_url=service)
    assert policy.of("a").key_url("k/1 2.key") == address
    assert policy.of("b").key_url("k/1 2.key") != address


def test_a_key_is_never_read_unless_it_is_published() -> None:
    from hls_pipeline.hls.package import check
    from tests.hls.conftest import Memory

    for policy, seen in ((Policy(), False), (Policy(keys="external"), False), (Policy(keys="publish"), True)):
        source = Memory(KEYED)
        check(source, policy)
        assert ("k/1 2.key" in source.was_read) == seen


def test_a_key_service_without_https_is_no_key_service() -> None:
    with pytest.raises(UsageError):
        Policy(keys="external", key_service_url="http://keys.example")


def test_a_web_address_of_a_clear_key_is_refused_unless_allowed() -> None:
    files = {"index.m3u8": media('#EXT-X-KEY:METHOD=AES-128,URI="https://k.example/1"', "seg.ts"), "seg.ts": CIPHER}
    assert errors(files) == {"URI_ABSOLUTE_HTTP"}
    playlist = accepted(files, Policy(allow_external_keys=True)).playlists["index.m3u8"]
    assert relative(playlist) == playlist.data
