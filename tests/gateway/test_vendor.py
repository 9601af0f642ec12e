"""hls.js as the set-up gets it, from an npm of ours."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from hls_pipeline.errors import Corruption
from hls_pipeline.gateway.vendor import Vendored, fetch

SCRIPT = b"let player"


@pytest.fixture(autouse=True)
def _npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, archive, npm = tmp_path / "player.js", tmp_path / "player.tgz", tmp_path / "bin" / "npm"
    script.write_bytes(SCRIPT)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(script, "package/player.js")
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\ncp {archive} "$5"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")


def test_two_set_ups_at_once_do_not_write_to_one_file(tmp_path: Path) -> None:
    """The second could put in place what the first had only half written."""
    target = tmp_path / "vendor" / "player.min.js"
    target.parent.mkdir()
    theirs = target.with_suffix(".new")
    theirs.write_bytes(SCRIPT[:3])
    fetch(target, Vendored("player", "package/player.js", hashlib.sha256(SCRIPT).hexdigest()))
    assert target.read_bytes() == SCRIPT
    assert theirs.read_bytes() == SCRIPT[:3]
    assert set(target.parent.iterdir()) == {target, theirs}


def test_another_file_than_the_one_we_know_is_not_installed(tmp_path: Path) -> None:
    target = tmp_path / "vendor" / "player.min.js"
    with pytest.raises(Corruption):
        fetch(target, Vendored("player", "package/player.js", "0" * 64))
    assert not target.exists()
