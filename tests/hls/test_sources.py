"""Folders, zips and tars give the same result, and hostile ones are refused before they are unpacked."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls_pipeline.errors import PackageRefused, UsageError
from hls_pipeline.hls.findings import Report
from hls_pipeline.hls.gzip_random import RandomGzip
from hls_pipeline.hls.package import check
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.sources import Source, TarSource, ZipSource, open_archive, open_source
from tests.hls.conftest import CORPUS, PUBLISH, TS, media

Folder = Callable[[Mapping[str, str | bytes]], Path]
PACKAGES = [
    CORPUS / "packages" / "shaka-hls-multivideo",
    CORPUS / "ffmpeg" / "names-nasty",
    CORPUS / "ffmpeg" / "fmp4-cmaf",
]


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def tarred(files: Mapping[str, bytes], mode: str = "w:") -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def codes(source: Source) -> set[str]:
    return {finding.code for finding in check(source, PUBLISH)[1].errors}


def report_of(source: Source) -> Report:
    return check(source, PUBLISH)[1]


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: path.name)
def test_every_source_gives_the_same_report_and_package(folder: Path) -> None:
    files = contents(folder)
    with open_source(folder) as source:
        package, report = check(source, PUBLISH)
    assert package is not None
    for file in (zipped(files), zipped(files, zipfile.ZIP_STORED), tarred(files), tarred(files, "w:gz")):
        file.seek(0)
        other, other_report = check(open_archive(file), PUBLISH)
        assert other is not None
        assert other_report == report
        assert (other.files, dict(other.playlists)) == (package.files, dict(package.playlists))


def test_an_archive_is_known_by_what_it_is_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "film.bin"
    path.write_bytes(tarred({"index.m3u8": media().encode(), "seg.ts": TS}, "w:gz").getvalue())
    with open_source(path) as source:
        assert codes(source) == set()


def test_what_is_no_package_at_all_is_told_apart(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("hello")
    with pytest.raises(PackageRefused) as refusal, open_source(text):
        pass
    assert refusal.value.report.errors[0].code == "PKG_BAD_ARCHIVE"
    with pytest.raises(UsageError), open_source(tmp_path / "nothing"):
        pass


def test_a_link_in_a_folder_is_never_followed(folder: Folder) -> None:
    top = folder({"index.m3u8": media(), "real.ts": TS})
    (top / "seg.ts").symlink_to("real.ts")
    with open_source(top) as source:
        assert codes(source) == {"PKG_LINK"}
    (top / "seg.ts").unlink()
    (top / "seg.ts").symlink_to("/etc/passwd")
    with open_source(top) as source:
        assert codes(source) == {"PKG_SYMLINK_ESCAPE"}


def test_a_pipe_in_a_folder_does_not_hang_the_check(folder: Folder) -> None:
    top = folder({"index.m3u8": media()})
    os.mkfifo(top / "seg.ts")
    with open_source(top) as source:
        assert codes(source) == {"PKG_LINK"}


def test_a_folder_reached_through_a_link_is_read(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder({"index.m3u8": media(), "seg.ts": TS}))
    with open_source(tmp_path / "link") as source:
        assert codes(source) == set()


def special_zip(name: str, mode: int) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    return file


def special_tar(kind: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        member = tarfile.TarInfo("seg.ts")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return file


def twice_zip() -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("seg.ts", TS)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("seg.ts", b"other")
    return file


def locked_zip() -> io.BytesIO:
    file = zipped({"seg.ts": TS})
    data = bytearray(file.getvalue())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: special_zip("seg.ts", stat.S_IFLNK | 0o777), "PKG_LINK"),
        (lambda: special_zip("seg.ts", stat.S_IFIFO | 0o777), "PKG_LINK"),
        (lambda: special_zip("folder/", stat.S_IFLNK | 0o777), "PKG_LINK"),
        (lambda: special_tar(tarfile.SYMTYPE), "PKG_LINK"),
        (lambda: special_tar(tarfile.LNKTYPE), "PKG_LINK"),
        (lambda: special_tar(tarfile.CHRTYPE), "PKG_LINK"),
        (lambda: special_tar(tarfile.FIFOTYPE), "PKG_LINK"),
        (twice_zip, "PKG_DUPLICATE_PATH"),
        (lambda: tarred({"a": b"1", "./a": b"2"}), "PKG_DUPLICATE_PATH"),
        (locked_zip, "PKG_ENCRYPTED_ARCHIVE"),
        (lambda: zipped({"../up.ts": TS}), "PKG_PATH_UNSAFE"),
        (lambda: zipped({"/abs.ts": TS}), "PKG_PATH_UNSAFE"),
        (lambda: zipped({"..\\up.ts": TS}), "PKG_PATH_UNSAFE"),
        (lambda: tarred({"../up.ts": TS}), "PKG_PATH_UNSAFE"),
        (lambda: tarred({"/abs.ts": TS}, "w:gz"), "PKG_PATH_UNSAFE"),
        (lambda: zipped({"d/" * 2000 + "x": b""}), "PKG_PATH_UNSAFE"),
        (lambda: zipped({"seg.ts": TS}, zipfile.ZIP_LZMA), "PKG_BAD_ARCHIVE"),
        (lambda: io.BytesIO(zipped({"seg.ts": TS}).getvalue()[:-30]), "PKG_BAD_ARCHIVE"),
        (lambda: io.BytesIO(tarred({"seg.ts": TS}, "w:gz").getvalue()[:-30]), "PKG_BAD_ARCHIVE"),
        (lambda: io.BytesIO(gzip.compress(b"no tar at all" * 100)), "PKG_BAD_ARCHIVE"),
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused(make: Callable[[], io.BytesIO], code: str) -> None:
    file = make()
    file.seek(0)
    assert codes(open_archive(file)) == {code}


def test_damaged_bytes_inside_a_zip_are_found_while_they_are_read() -> None:
    data = zipped({"index.m3u8": media().encode(), "seg.ts": TS}, zipfile.ZIP_STORED).getvalue()
    file = io.BytesIO(data.replace(TS, TS[:-1] + b"!"))
    assert codes(open_archive(file)) == {"PKG_BAD_ARCHIVE"}


def zeros_zip(megabytes: int) -> io.BytesIO:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("seg.ts", "w") as out,
    ):
        for _ in range(megabytes):
            out.write(bytes(1 << 20))
    file.seek(0)
    return file


def zeros_gzip(megabytes: int) -> io.BytesIO:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as out:
        member = tarfile.TarInfo("seg.ts")
        member.size = megabytes << 20
        out.write(member.tobuf())
        for _ in range(megabytes):
            out.write(bytes(1 << 20))
    file.seek(0)
    return file


@pytest.mark.parametrize("make", [zeros_zip, zeros_gzip])
def test_two_hundred_megabytes_of_zeros_are_refused_in_little_memory(make: Callable[[int], io.BytesIO]) -> None:
    file = make(200)
    tracemalloc.start()
    found = codes(open_archive(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"PKG_RATIO"}
    assert peak < 30 << 20


def test_entries_that_share_their_packed_bytes_are_refused() -> None:
    data = zipped({"a.ts": os.urandom(2000), "b.ts": b""}).getvalue()
    central = data.index(b"PK\x01\x02")
    first = data[central : data.index(b"PK\x01\x02", central + 4)]
    end = data.index(b"PK\x05\x06")
    entries = b"".join(first.replace(b"a.ts", b"%04d" % i) for i in range(100))
    tail = data[end : end + 8] + (100).to_bytes(2, "little") * 2 + len(entries).to_bytes(4, "little")
    file = io.BytesIO(data[:central] + entries + tail + central.to_bytes(4, "little") + b"\0\0")
    assert codes(open_archive(file)) == {"PKG_RATIO"}


def test_a_directory_of_too_many_entries_is_refused() -> None:
    data = zipped({f"{i}": b"" for i in range(300)}).getvalue()
    with pytest.raises(PackageRefused) as refusal:
        ZipSource(io.BytesIO(data), Limits(files=50)).sizes()
    assert refusal.value.report.errors[0].code == "PKG_TOO_MANY_FILES"
    with pytest.raises(PackageRefused):
        TarSource(tarred({f"{i}": b"" for i in range(60)}), Limits(files=50)).sizes()


def test_too_much_is_refused_by_its_sizes(folder: Folder) -> None:
    top = folder({"index.m3u8": media(), "seg.ts": TS})
    for limits, code in (
        (Limits(files=1), "PKG_TOO_MANY_FILES"),
        (Limits(total_size=100), "PKG_TOO_LARGE"),
        (Limits(file_size=700), "PKG_TOO_LARGE"),
    ):
        with open_source(top, limits) as source:
            found = check(source, type(PUBLISH)(keys="publish", limits=limits))[1]
        assert {finding.code for finding in found.errors} == {code}


@pytest.mark.parametrize("make", [lambda text: zipped({"index.m3u8": text}), lambda text: tarred({"index.m3u8": text})])
def test_a_playlist_of_two_hundred_thousand_references_is_refused_before_it_is_read(
    make: Callable[[bytes], io.BytesIO],
) -> None:
    names = [f"#EXTINF:6,\n{i:x}.ts" for i in range(200_000)]
    file = make("\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:6", *names, "#EXT-X-ENDLIST", ""]).encode())
    file.seek(0)
    assert codes(open_archive(file)) == {"HLS_TOO_LARGE"}  # and nothing of the files that are not there


@pytest.mark.timeout(60)
@pytest.mark.parametrize("filler", ["A", "URI", "{$a", '"', "a=", "%", ".", "ASSET-LIST"])
def test_long_lines_do_not_cost_time_quadratic_in_their_length(filler: str) -> None:
    """A pattern that begins anew at each place of such a line takes minutes."""
    line = (filler * 64_000)[:63_900]
    text = media(f"#EXT-X-VENDOR:{line}", f"#EXT-X-MAP:URI={line}", line, "seg.ts")
    assert codes(open_archive(zipped_at_start(text))) - {"PKG_NO_PLAYLIST"}


def zipped_at_start(text: str) -> io.BytesIO:
    file = zipped({"index.m3u8": text.encode(), "seg.ts": TS})
    file.seek(0)
    return file


def test_a_mac_zip_with_utf8_names_that_does_not_say_so_is_read_right() -> None:
    data = bytearray(zipped({"caf\u00e9.ts": TS, "index.m3u8": media("caf%C3%A9.ts").encode()}).getvalue())
    for flags in (6, data.index(b"PK\x01\x02") + 8):
        data[flags : flags + 2] = b"\0\0"
    assert codes(open_archive(io.BytesIO(data))) == set()


def test_a_name_in_utf8_beside_another_in_a_zip_is_the_one_that_counts_if_it_belongs_to_it() -> None:
    """As WinRAR writes names that the code page of its computer lacks."""
    spelled = "\u65e5\u672c.ts".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("index.m3u8", media("%E6%97%A5%E6%9C%AC.ts"))
        info = zipfile.ZipInfo("__.ts")
        info.extra = struct.pack("<HHBI", 0x7075, 5 + len(spelled), 1, zlib.crc32(b"__.ts")) + spelled
        archive.writestr(info, TS)
    file.seek(0)
    assert codes(open_archive(file)) == set()
    changed = io.BytesIO(file.getvalue().replace(b"__.ts", b"ab.ts"))
    assert set(open_archive(changed).sizes()) == {"index.m3u8", "ab.ts"}


@given(
    st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 5000)), max_size=8),
)
def test_a_gzip_is_read_at_any_place_like_a_file(parts: list[bytes], jumps: list[tuple[int, int]]) -> None:
    plain = b"".join(parts)
    file = RandomGzip(io.BytesIO(b"".join(gzip.compress(part) for part in parts)), lambda *_: None)
    for place, size in jumps:
        file.seek(place)
        assert file.read(size) == plain[place : place + size]


def test_jumping_back_in_a_large_gzip_does_not_start_over() -> None:
    block = os.urandom(1 << 20)
    plain = b"".join(bytes([i]) * 100 + block[i:] for i in range(24))
    packed = io.BytesIO(gzip.compress(plain, 1))
    file = RandomGzip(packed, lambda *_: None)
    file.seek(len(plain) - 10)
    assert file.read(20) == plain[-10:]
    for place in (20 << 20, 3 << 20, 23 << 20, 9 << 20):
        file.seek(place)
        before = file.position_in_stream
        assert file.read(100) == plain[place : place + 100]
        assert place - before <= 5 << 20


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_files_of_a_tar_can_be_read_by_several_threads_at_once(mode: str) -> None:
    """A package is sent to S3 file by file in parallel; readers once moved the archive under each other."""
    files = {f"seg_{n}.ts": random.Random(n).randbytes(1_000_000) for n in range(16)}
    source = TarSource(tarred(files, mode))
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(files, pool.map(lambda path: b"".join(source.read(path)), files), strict=True))
    assert found == files
