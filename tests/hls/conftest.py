"""Small packages that can be read on the screen, and the way to the shared corpus."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hls_pipeline.hls.findings import Report
from hls_pipeline.hls.package import Package, check
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.sources import FolderSource

CORPUS = Path(__file__).resolve().parents[2] / ".." / "shared" / "corpus"
PUBLISH = Policy(keys="publish")

TS = (b"\x47" + bytes(187)) * 4
VTT = b"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000\n\n00:00.000 --> 00:01.000\nhello\n"
AAC = b"\xff\xf1" + bytes(100)
KEY = bytes(range(16))


def box(kind: str, body: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


INIT = box("ftyp", b"isom") + box("moov", bytes(20))
FRAGMENT = box("styp", b"msdh") + box("moof", bytes(20)) + box("mdat", bytes(100))


def media(*lines: str, target: int = 6, version: int = 7, end: bool = True) -> str:
    """A media playlist; each line is a tag, or a URI that gets its EXTINF."""
    text = ["#EXTM3U", f"#EXT-X-VERSION:{version}", f"#EXT-X-TARGETDURATION:{target}"]
    for line in lines or ("seg.ts",):
        text += [line] if line.startswith("#") else ["#EXTINF:6.0,", line]
    return "\n".join([*text, *(["#EXT-X-ENDLIST"] if end else []), ""])


def master(*lines: str) -> str:
    """A multivariant playlist; a line that is no tag is a variant and gets its EXT-X-STREAM-INF."""
    text = ["#EXTM3U", "#EXT-X-VERSION:7"]
    for line in lines or ("media.m3u8",):
        if not line.startswith("#") and not text[-1].startswith("#EXT-X-STREAM-INF"):
            text.append('#EXT-X-STREAM-INF:BANDWIDTH=1000,CODECS="avc1.4d400c"')
        text.append(line)
    return "\n".join([*text, ""])


class Memory:
    """A source that holds a package in memory: what an S3 prefix looks like to the checks."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        self.files = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        self.was_read: list[str] = []

    def sizes(self) -> Mapping[str, int]:
        return {name: len(data) for name, data in self.files.items()}

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        self.was_read.append(path)
        data = self.files[path][:limit]
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]


def judge(files: Mapping[str, str | bytes], policy: Policy = PUBLISH) -> tuple[Package | None, Report]:
    return check(Memory(files), policy)


def errors(files: Mapping[str, str | bytes], policy: Policy = PUBLISH) -> set[str]:
    return {finding.code for finding in judge(files, policy)[1].errors}


def warnings(files: Mapping[str, str | bytes], policy: Policy = PUBLISH) -> set[str]:
    return {finding.code for finding in judge(files, policy)[1].warnings}


def accepted(files: Mapping[str, str | bytes], policy: Policy = PUBLISH) -> Package:
    package, report = judge(files, policy)
    assert package is not None, [finding.message for finding in report.errors]
    return package


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Path]:
    """Writes files below a fresh folder and returns it."""

    def write(files: Mapping[str, str | bytes]) -> Path:
        top = tmp_path / "package"
        for name, data in files.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return top

    return write


def check_folder(path: Path, policy: Policy = PUBLISH, playlist: str | None = None) -> tuple[Package | None, Report]:
    return check(FolderSource(path), policy, playlist)
