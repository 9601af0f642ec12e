"""How fast playlists are scanned and rewritten, beside m3u8, and how fast a package streams past the checks.

Run it from the project: `.venv/bin/python -m bench.hls [--megabytes 1000]`. Numbers are the best of three runs.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import m3u8
from rich.console import Console
from rich.table import Table

from hls_pipeline.hls.findings import Findings
from hls_pipeline.hls.model import Playlist
from hls_pipeline.hls.package import check
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.rewriting import rewrite
from hls_pipeline.hls.sources import open_archive, open_source

MEGABYTE = 1 << 20


def playlist(segments: int, *, keys: bool = False, ranges: bool = False) -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:6", "#EXT-X-TARGETDURATION:6"]
    for number in range(segments):
        if keys:
            lines.append(f'#EXT-X-KEY:METHOD=AES-128,URI="key_{number:06d}.key",IV=0x{number:032x}')
        lines.append("#EXTINF:6.000,")
        if ranges:
            lines.append(f"#EXT-X-BYTERANGE:188000@{number * 188000}")
        lines.append("all.ts" if ranges else f"seg_{number:06d}.ts")
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()


def read(data: bytes, files: set[str]) -> Playlist:
    playlist = parse(Context("a.m3u8", files, Policy(keys="publish"), Findings()), data)
    assert playlist
    return playlist


def best(work: Callable[[], object], times: int = 3) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(times))


def playlists(console: Console) -> None:
    table = Table("playlist", "references", "scan", "rewrite", "m3u8.loads", "loads+dumps", title="seconds")
    cases = [
        ("10,000 segments", playlist(10_000)),
        ("10,000 byte ranges", playlist(10_000, ranges=True)),
        ("20,000 segments", playlist(20_000)),
        ("10,000 keys, 10,000 segments", playlist(10_000, keys=True)),
        ("100,000 segments", playlist(100_000)),
    ]
    for name, data in cases:
        files = {f"seg_{n:06d}.ts" for n in range(100_000)} | {f"key_{n:06d}.key" for n in range(10_000)} | {"all.ts"}
        scanned = read(data, files)
        numbers = _measure(data, scanned, files, 1 if "keys" in name else 3)
        table.add_row(name, f"{len(scanned.references):,}", *(f"{seconds:.3f}" for seconds in numbers))
    console.print(table)


def _measure(data: bytes, scanned: Playlist, files: set[str], times: int) -> list[float]:
    text = data.decode()
    return [
        best(lambda: read(data, files)),
        best(lambda: rewrite(scanned, lambda reference: f"s3://media/v/r1/media/{reference.target}")),
        best(lambda: m3u8.loads(text), times),
        best(lambda: m3u8.loads(text).dumps(), times),
    ]


def streaming(console: Console, megabytes: int) -> None:
    """A package of real transport stream packets in 10 MB segments, from disk."""
    with tempfile.TemporaryDirectory() as folder:
        packet = b"\x47" + os.urandom(187)
        count = max(1, megabytes // 10)
        for number in range(count):
            (Path(folder) / f"seg_{number:06d}.ts").write_bytes(packet * (10 * MEGABYTE // 188))
        (Path(folder) / "index.m3u8").write_bytes(playlist(count))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open_source(Path(folder)) as source:
            start = time.perf_counter()
            package, report = check(source, Policy())
            seconds = time.perf_counter() - start
        assert package is not None, report.errors
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    console.print(f"checking {count * 10:,} MB: {count * 10 / seconds:,.0f} MB/s, {grown:.0f} MiB over the start")


def bombs(console: Console) -> None:
    def zeros() -> io.BytesIO:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("seg.ts", bytes(200 * MEGABYTE))
        return file

    def packed(text: bytes, name: str = "index.m3u8") -> io.BytesIO:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
        return file

    for name, file in (
        ("200 MB of zeros", zeros()),
        ("200,000 references", packed(playlist(200_000))),
        ("a line of 64 kB", packed(b"#EXTM3U\n#" + b"x" * 65_536)),
        ("1,000 folders deep", packed(b"x", "d/" * 1000 + "x.ts")),
    ):
        file.seek(0)
        start = time.perf_counter()
        _, report = check(open_archive(file), Policy())
        console.print(f"{name}: {report.errors[0].code} after {time.perf_counter() - start:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the package that streams past the checks")
    arguments = parser.parse_args()
    console = Console()
    streaming(console, arguments.megabytes)
    playlists(console)
    bombs(console)


if __name__ == "__main__":
    main()
