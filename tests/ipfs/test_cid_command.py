"""`hls-pipeline cid` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hls_pipeline.commands.cid import cid

EMPTY = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

app = typer.Typer()
app.command()(cid)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_root_alone_is_printed(tmp_path: Path) -> None:
    assert run(str(tmp_path)) == EMPTY + "\n"


def test_the_profile_is_an_option_or_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\n"
    assert run(str(tmp_path), "--profile", "unixfs-v0-2015") == old
    monkeypatch.setenv("HLS_IPFS_PROFILE", "unixfs-v0-2015")
    assert run(str(tmp_path)) == old
    assert run(str(tmp_path), "--profile", "unixfs-v1-2025") == EMPTY + "\n"


def test_json_names_every_file(tmp_path: Path) -> None:
    (tmp_path / "é").mkdir()
    (tmp_path / "é/+.ts").write_bytes(b"hello world")
    (tmp_path / "void").mkdir()
    answer = json.loads(run(str(tmp_path), "--json"))
    assert answer["files"] == [{"path": "é/+.ts", "cid": HELLO, "size": 11}]
    assert answer["cid"] == run(str(tmp_path)).strip()
    assert (answer["profile"], answer["size"]) == ("unixfs-v1-2025", 11)
    file = json.loads(run(str(tmp_path / "é/+.ts"), "--json"))
    assert file["files"] == [{"path": "+.ts", "cid": HELLO, "size": 11}]
    assert file["cid"] == HELLO
