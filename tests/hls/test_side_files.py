"""Asset lists, chapters and thumbnail tracks that are hostile, broken, or only look like what they are not."""

from __future__ import annotations

import json

import pytest

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.policy import Limits, Policy
from hls_pipeline.hls.rewriting import rewrite
from tests.hls.conftest import PUBLISH, TS, accepted, errors, judge, master, media, warnings

JPEG = b"\xff\xd8\xff\xe0"
LIST = '#EXT-X-DATERANGE:ID="a",START-DATE="2026-01-01T00:00:00Z",X-ASSET-LIST="a.json"'
CHAPTERS = '#EXT-X-SESSION-DATA:DATA-ID="com.apple.hls.chapters",URI="c.json"'
THUMBNAILS = '#EXT-X-SESSION-DATA:DATA-ID="thumbnails",FORMAT=RAW,URI="t.vtt"'


def asset_list(text: str | bytes, **more: str | bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": media(LIST, "seg.ts"), "seg.ts": TS, "a.json": text, **more}


def session(line: str, **more: str | bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": master(line, "media.m3u8"), "media.m3u8": media(), "seg.ts": TS, **more}


def cue(line: str) -> str:
    return f"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:0,MPEGTS:0\n\n00:00.000 --> 00:05.000\n{line}\n"


def subtitles(line: str, **more: str | bytes) -> dict[str, str | bytes]:
    return {"index.m3u8": media("t.vtt"), "t.vtt": cue(line), **more}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", ['"' + '\\"' * 500_000, "[" * 1_000_000, '{"URL":"x",' * 90_000, '["' * 500_000])
def test_a_megabyte_that_is_no_json_is_refused_at_once(bomb: str) -> None:
    """Strings without end were looked for again from each of their quotes: 48 kB took many seconds."""
    assert errors(asset_list(bomb)) == {"SIDE_FILE_BROKEN"}
    small = {"index.m3u8": media(), "seg.ts": TS, "metadata.json": bomb[: 256 << 10]}
    assert errors(small) <= {"META_NOT_JSON", "META_TOO_LARGE"}
    assert errors(small)


@pytest.mark.timeout(60)
def test_a_megabyte_of_references_is_read_in_one_pass() -> None:
    """The line of each was counted from the top of the file."""
    items = ",\n".join(['{"URI":"ad.m3u8","X-URL":"x"}'] * 40_000)
    files = asset_list(f'{{"ASSETS":[{items}]}}', **{"ad.m3u8": media()})
    package = accepted(files)
    assert [r.line for r in package.side_files["a.json"].references][-1] == 40_000
    assert "SIDE_FILE_OPAQUE" in warnings(files)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("line", ["a.jpg?" * 200_000 + " x", "a.jpg" * 200_000 + " x", "#xywh=" * 200_000])
def test_a_megabyte_in_one_line_of_webvtt_is_no_picture(line: str) -> None:
    assert errors(session(THUMBNAILS, **{"t.vtt": cue(line)})) == set()


def test_many_side_files_with_many_references_each_are_refused_together() -> None:
    """Each was within its limit, and a zip of 10 MB could hold a thousand of them, of 15 MB of memory each."""
    few = Policy(keys="publish", limits=Limits(references=8))
    tags = [f'#EXT-X-DATERANGE:ID="{n}",X-ASSET-LIST="{n}.json"' for n in range(6)]
    assets = {"ASSETS": [{"URI": "ad.m3u8"}] * 7}
    lists: dict[str, str | bytes] = {f"{n}.json": json.dumps(assets) for n in range(6)}
    package = {"index.m3u8": media(*tags, "seg.ts"), "ad.m3u8": media(), "seg.ts": TS, **lists}
    assert errors(package, few) == {"HLS_TOO_LARGE"}
    assert errors(package) == set()


def test_a_side_file_with_too_many_references_is_refused() -> None:
    few = type(PUBLISH)(keys="publish", limits=type(PUBLISH.limits)(references=20))
    files = session(THUMBNAILS, **{"t.vtt": cue("\n".join(["a.jpg"] * 20)), "a.jpg": JPEG})
    assert errors(files, few) == {"HLS_TOO_LARGE"}


@pytest.mark.parametrize(
    "files",
    [
        asset_list('{"ASSETS":[{"URI":"\\ud800.m3u8"}]}'),
        session(CHAPTERS, **{"c.json": '[{"images":[{"url":"\\udfff.jpg"}]}]'}),
    ],
)
def test_half_a_character_in_a_uri_is_refused_like_any_control_character(files: dict[str, str | bytes]) -> None:
    """JSON can spell what has no UTF-8; it ended in a traceback."""
    assert errors(files) == {"URI_CONTROL_CHAR"}


def test_half_a_character_is_not_written_either() -> None:
    package = accepted(asset_list('{"ASSETS":[{"URI":"ad.m3u8"}]}', **{"ad.m3u8": media()}))
    for document in (package.playlists["index.m3u8"], package.side_files["a.json"]):
        with pytest.raises(UsageError):
            rewrite(document, lambda _: "\ud800.ts")


def test_an_asset_list_may_begin_with_a_byte_order_mark() -> None:
    """It was broken for us, though not for browsers."""
    text = '\ufeff{"ASSETS":[{"URI":"ad.m3u8"}]}'
    package = accepted(asset_list(text, **{"ad.m3u8": media()}))
    renamed = rewrite(package.side_files["a.json"], lambda _: "new.m3u8")
    assert renamed.decode() == text.replace("ad.m3u8", "new.m3u8")


def test_a_broken_asset_list_is_told_beside_the_second_root_that_it_makes() -> None:
    files = asset_list('{"ASSETS":[{"URI":"ad.m3u8"', **{"ad.m3u8": media()})
    assert errors(files) == {"PKG_ROOT_AMBIGUOUS", "SIDE_FILE_BROKEN"}
    files["master.m3u8"] = master("index.m3u8")
    assert errors(files) == {"PKG_ROOT_AMBIGUOUS", "SIDE_FILE_BROKEN"}


def test_an_error_page_in_place_of_an_asset_list_is_one_finding() -> None:
    assert errors(asset_list("<html>gone</html>")) == {"PKG_FORBIDDEN_TYPE"}
    assert errors(asset_list("")) == {"MEDIA_EMPTY"}


@pytest.mark.parametrize("page", ["<!-- x --><script>alert(1)</script>", "\n<p>hello", "%PDF-1.7"])
def test_a_page_that_hides_as_session_data_is_refused(page: str) -> None:
    raw = '#EXT-X-SESSION-DATA:DATA-ID="x",FORMAT=RAW,URI="x.bin"'
    assert errors(session(raw, **{"x.bin": page})) == {"PKG_FORBIDDEN_TYPE"}


def test_a_picture_is_a_picture() -> None:
    chapters = '[{"images":[{"url":"a.jpg"}]}]'
    assert errors(session(CHAPTERS, **{"c.json": chapters, "a.jpg": "plain text"})) == {"MEDIA_UNKNOWN_TYPE"}
    for picture in (JPEG, b"RIFF\0\0\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif" + bytes(16)):
        assert errors(session(CHAPTERS, **{"c.json": chapters, "a.jpg": picture})) == set()


@pytest.mark.parametrize("tag", [THUMBNAILS, THUMBNAILS.replace(",FORMAT=RAW", "")])
def test_a_thumbnail_track_without_its_pictures_is_refused(tag: str) -> None:
    """It passed where the package has no picture at all, because then nobody looked into WebVTT."""
    assert errors(session(tag, **{"t.vtt": cue("sprite.jpg#xywh=0,0,160,90")})) == {"URI_MISSING_FILE"}
    assert errors(subtitles("sprite.jpg#xywh=0,0,160,90")) == {"URI_MISSING_FILE"}
    package = accepted(session(tag, **{"t.vtt": cue("sprite#xywh=0,0,160,90"), "sprite": JPEG}))
    assert "sprite" in {file.path for file in package.files}


def test_what_people_say_is_no_missing_picture() -> None:
    files = subtitles("IMG_1234.JPG", **{"poster.png": b"\x89PNG\r\n"})
    accepted(files)
    assert "URI_MISSING_FILE" in warnings(files)


def test_segments_of_subtitles_are_not_read_twice_when_the_first_names_no_picture() -> None:
    from hls_pipeline.hls.package import survey
    from tests.hls.conftest import VTT, Memory

    source = Memory({"index.m3u8": media(*(f"{i}.vtt" for i in range(9))), **{f"{i}.vtt": VTT for i in range(9)}})
    survey(source, PUBLISH)
    assert {path for path in source.was_read if path.endswith(".vtt")} == {"0.vtt"}


def test_fields_that_mean_nothing_to_us_are_kept_as_they_were_sent() -> None:
    package, _ = judge({"index.m3u8": media(), "seg.ts": TS, "metadata.json": '{"tags":"a,b","duration":"00:10:00"}'})
    assert package is not None
    assert package.metadata == {"tags": "a,b", "duration": "00:10:00"}
