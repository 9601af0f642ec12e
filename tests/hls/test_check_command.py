"""`hls-pipeline check` and `rewrite` as a shell sees them: output and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from hls_pipeline.cli import main
from tests.hls.conftest import CORPUS, TS, media

Folder = Callable[[Mapping[str, str | bytes]], Path]
SINGLE = CORPUS / "ffmpeg" / "fmp4-byterange" / "index.m3u8"


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: object, **environment: str) -> Result:
        """What a shell sees of the program."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process: a Python of its own for each would take a second of nothing but imports."""

    def run(*arguments: object, **environment: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["hls-pipeline", *map(str, arguments)])
        for name, value in {"NO_COLOR": "1", **environment}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return run


def test_good_packages_end_with_0_and_one_refused_package_with_1(run: Run) -> None:
    good, bad = CORPUS / "ffmpeg" / "ts-single", CORPUS / "synthetic" / "bad-html"
    assert run("check", good).returncode == 0
    result = run("check", good, bad)
    assert result.returncode == 1
    assert "✔ accepted" in result.stdout
    assert "HLS_NOT_M3U8" in result.stdout


def test_the_report_shows_the_line_and_points_at_the_place(run: Run) -> None:
    result = run("check", CORPUS / "synthetic" / "bad-extinf-nan")
    assert "index.m3u8:4:9" in result.stdout
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "#EXTINF:nan," in line)
    assert lines[at + 1].index("^") == lines[at].index("nan")
    assert "RFC 8216 §4.3.2.1" in result.stdout


def test_json_is_one_line_per_package(run: Run) -> None:
    paths = [CORPUS / "ffmpeg" / "names-nasty", CORPUS / "synthetic" / "bad-live"]
    result = run("check", "--json", *paths)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["package"], first["accepted"], first["root"], first["errors"]) == (
        str(paths[0]),
        True,
        "index.m3u8",
        [],
    )
    assert {"code", "path", "line", "message"} <= first["warnings"][0].keys()
    assert [error["code"] for error in second["errors"]] == ["HLS_NO_ENDLIST"]
    assert not second["accepted"]


def test_of_many_places_of_one_rule_a_person_is_told_how_many_there_are(run: Run, folder: Folder) -> None:
    """What a report counts without naming each was not counted here."""
    top = folder({"index.m3u8": media(), "seg.ts": TS, **{f"{i}.tmp": b"" for i in range(1200)}})
    told = run("check", top).stdout
    assert "1,200 warnings" in told
    assert "… and 1,199 more PKG_UNREFERENCED_FILE" in told
    assert len(json.loads(run("check", "--json", top).stdout)["warnings"]) == 101


def test_keys_are_allowed_by_the_environment(run: Run) -> None:
    path = CORPUS / "ffmpeg" / "aes128"
    assert run("check", path).returncode == 1
    published = run("check", path, HLS_KEYS="publish")
    assert published.returncode == 0
    assert "encrypted: AES-128 · unprotected: its keys are published" in published.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "/no/such/package"],
        ["check", "--colour", "x"],
        ["rewrite", SINGLE],
        ["rewrite", "/none", "--list"],
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[object]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr


def test_a_stranger_cannot_write_to_the_terminal(run: Run, folder: Folder) -> None:
    top = folder({"index.m3u8": media("[bold]javascript:\u202e[/bold].ts", "a\u009b31m.ts"), "evil\x1b[31m.ts": TS})
    result = run("check", top)
    assert result.returncode == 1
    assert not {"\x1b", "\u202e", "\u009b"} & set(result.stdout)


def test_references_are_listed_for_people_and_for_programs(run: Run) -> None:
    plain = run("rewrite", SINGLE, "--list").stdout.splitlines()
    assert plain[0].split("\t") == ["6", "EXT-X-MAP", "URI", "init", "all.m4s", "1368@0"]
    first = json.loads(run("rewrite", SINGLE, "--list", "--json").stdout.splitlines()[0])
    assert (first["line"], first["kind"], first["uri"], first["byterange"]) == (6, "init", "all.m4s", "1368@0")


def test_a_playlist_is_rewritten_by_a_map_to_standard_output(tmp_path: Path) -> None:
    """By the real program, in a process of its own."""
    names = tmp_path / "map.json"
    names.write_text('{"all.m4s": "ipfs://cid?filename=all.m4s"}')
    program = [sys.executable, "-c", "from hls_pipeline.cli import main; main()"]
    result = subprocess.run([*program, "rewrite", SINGLE, "--map", names], capture_output=True, timeout=60, check=False)
    assert result.returncode == 0
    assert result.stdout == SINGLE.read_bytes().replace(b"all.m4s", b"ipfs://cid?filename=all.m4s")


def test_a_percent_encoded_uri_is_found_by_the_name_it_means(run: Run, tmp_path: Path) -> None:
    playlist, names = tmp_path / "a.m3u8", tmp_path / "map.json"
    playlist.write_bytes(media("a%20b.ts").replace("\n", "\r\n").encode())
    names.write_text('{"a b.ts": "new.ts"}')
    result = run("rewrite", playlist, "--map", names)
    assert result.stdout == media("new.ts").replace("\n", "\r\n")


def test_a_playlist_that_cannot_be_read_with_certainty_is_refused(run: Run, tmp_path: Path) -> None:
    names = tmp_path / "map.json"
    names.write_text("{}")
    result = run("rewrite", CORPUS / "synthetic" / "bad-attr-list" / "index.m3u8", "--map", names)
    assert (result.returncode, result.stdout) == (1, "")
    assert "HLS_BAD_ATTR_LIST" in result.stderr


@pytest.mark.parametrize("text", ["[]", "{", '{"all.m4s": 7}', '{"all.m4s": "a\\nb"}', '{"all.m4s": "\\ud800"}'])
def test_a_map_that_is_none_is_wrong_usage(run: Run, tmp_path: Path, text: str) -> None:
    names = tmp_path / "map.json"
    names.write_text(text)
    assert run("rewrite", SINGLE, "--map", names).returncode == 2
