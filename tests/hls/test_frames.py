"""ffmpeg decodes a rewritten package to the same frames as the creator's own (only packages made for this project)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hls_pipeline.hls.content_types import extension
from hls_pipeline.hls.model import Reference
from hls_pipeline.hls.rewriting import relative, rewrite
from hls_pipeline.hls.uris import folder_of, relative_uri
from tests.hls.conftest import CORPUS, check_folder

PACKAGES = sorted(path for path in (CORPUS / "ffmpeg").iterdir() if path.name != "bad-iframes-offsets")


def frames(playlist: Path) -> str:
    """The checksum of every decoded frame of every stream."""
    ffmpeg = shutil.which("ffmpeg")
    assert ffmpeg, "this test needs ffmpeg: apt-get install ffmpeg"
    command = [ffmpeg, "-v", "error", "-protocol_whitelist", "file,crypto", "-allowed_extensions", "ALL"]
    result = subprocess.run(
        [*command, "-i", str(playlist), "-map", "0", "-f", "framemd5", "-"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
def test_a_rewritten_package_decodes_to_equal_frames(path: Path, tmp_path: Path) -> None:
    package, _ = check_folder(path)
    assert package is not None
    names = {file.path: f"c{number}{extension(file.path)}" for number, file in enumerate(package.files)}
    names |= {name: f"p{number}.m3u8" for number, name in enumerate(package.playlists)}
    for file in package.files:
        shutil.copyfile(path / file.path, tmp_path / names[file.path])
    for playlist in package.playlists.values():

        def rename(reference: Reference) -> str | None:
            return names[reference.target] if reference.target else None

        (tmp_path / names[playlist.path]).write_bytes(rewrite(playlist, rename))
    original = frames(path / package.root)
    assert original.count("\n") > 15
    assert frames(tmp_path / names[package.root]) == original


def test_the_repaired_names_are_what_a_browser_asks_for(tmp_path: Path) -> None:
    path = CORPUS / "ffmpeg" / "names-nasty"
    package, _ = check_folder(path)
    assert package is not None
    playlist = package.playlists["index.m3u8"]
    lines = relative(playlist).decode().split("\n")
    for file in package.files:
        assert relative_uri(file.path, folder_of(playlist.path)) in lines
