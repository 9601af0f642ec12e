"""Real packages and playlists, and small ones that break one rule each."""

from __future__ import annotations

import json

import pytest

from hls_pipeline.errors import PipelineError
from hls_pipeline.hls.findings import Findings
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.rewriting import relative, rewrite
from tests.hls.conftest import CORPUS, check_folder

EXPECTED = json.loads((CORPUS / "synthetic" / "EXPECTED.json").read_bytes())
REAL = sorted(
    path
    for path in (*(CORPUS / "packages").iterdir(), *(CORPUS / "ffmpeg").iterdir())
    if path.name != "bad-iframes-offsets"
)
LOOSE = sorted(path for path in (CORPUS / "playlists").rglob("*.m3u8"))


def test_the_corpus_is_all_there() -> None:
    assert (len(EXPECTED), len(REAL), len(LOOSE)) == (47, 22, 93)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_synthetic_package_gives_exactly_the_expected_codes(name: str) -> None:
    expected = EXPECTED[name]
    package, report = check_folder(CORPUS / "synthetic" / name)
    assert sorted({finding.code for finding in report.errors}) == sorted(expected["errors"])
    assert set(expected["warnings"]) <= {finding.code for finding in report.warnings}
    assert report.root == expected["root"]
    assert (package is not None) == (not expected["errors"])


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_package_is_accepted(path) -> None:  # type: ignore[no-untyped-def]
    root = "main.m3u8" if path.name == "shaka-hls-interstitial" else None
    package, report = check_folder(path, playlist=root)
    assert report.errors == ()
    assert package is not None


def test_an_interstitial_package_with_two_roots_needs_one_named() -> None:
    _, report = check_folder(CORPUS / "packages" / "shaka-hls-interstitial")
    assert [finding.code for finding in report.errors] == ["PKG_ROOT_AMBIGUOUS"]


def test_the_empty_ranges_that_ffmpeg_writes_for_single_file_i_frames_are_refused() -> None:
    _, report = check_folder(CORPUS / "ffmpeg" / "bad-iframes-offsets")
    assert {finding.code for finding in report.errors} == {"HLS_BAD_BYTERANGE"}


def test_clear_keys_are_refused_unless_somebody_says_otherwise() -> None:
    _, report = check_folder(CORPUS / "ffmpeg" / "aes128", Policy())
    assert [finding.code for finding in report.errors] == ["KEY_IN_PACKAGE"]
    assert report.errors[0].line == 6


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_clean_package_is_published_with_its_own_bytes(path) -> None:  # type: ignore[no-untyped-def]
    root = "main.m3u8" if path.name == "shaka-hls-interstitial" else None
    package, _ = check_folder(path, playlist=root)
    assert package is not None
    for document in (*package.playlists.values(), *package.side_files.values()):
        if path.name == "names-nasty":
            assert b"part%2000%20%C3%A9+%25%2525.ts" in relative(document)
        else:
            assert relative(document) == document.data


@pytest.mark.parametrize("path", LOOSE, ids=lambda path: f"{path.parts[-2]}/{path.name}")
def test_a_loose_playlist_is_rewritten_byte_exact_or_refused_with_a_code(path) -> None:  # type: ignore[no-untyped-def]
    findings = Findings()
    data = path.read_bytes()
    playlist = parse(Context(path.name, frozenset(), Policy(keys="publish"), findings), data)
    if playlist is None:
        assert findings.failed
        return
    assert rewrite(playlist, lambda _: None) == data
    try:
        renamed = rewrite(playlist, lambda reference: f"ipfs://cid/{reference.line}.ts")
    except PipelineError:
        pytest.fail("a playlist that could be read cannot be rewritten")
    for reference in reversed(playlist.references):
        if reference.kind != "drm":
            renamed = renamed.replace(f"ipfs://cid/{reference.line}.ts".encode(), reference.raw.encode(), 1)
    assert len(renamed) == len(data)
