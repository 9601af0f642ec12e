"""Zips and tars that are damaged, lie about themselves, or hold very many files."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest

from hls_pipeline.errors import PipelineError, UsageError
from hls_pipeline.hls.archives import TarSource, open_archive
from hls_pipeline.hls.gzip_random import RandomGzip
from hls_pipeline.hls.package import check
from tests.hls.conftest import PUBLISH, TS, media
from tests.hls.test_sources import codes, tarred, zipped

GOOD = {"index.m3u8": media().encode(), "seg.ts": TS}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_every_file_of_a_large_archive_is_read_without_listing_it_again(
    make: Callable[[dict[str, bytes]], io.BytesIO],
) -> None:
    """Each read once made the sorted list of all members anew: 20,000 files took minutes."""
    files = {f"{i:05d}.ts": b"%d" % i for i in range(20_000)}
    file = make(files)
    file.seek(0)
    source = open_archive(file)
    assert {path: b"".join(source.read(path)) for path in source.sizes()} == files


def checked(header: bytearray) -> bytes:
    """A tar header with its checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def tar_header(kind: bytes, size: int = 0, name: str = "seg.ts") -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([0xFF if size < 0 else 0x80]) + (size % (1 << 88)).to_bytes(11, "big")
    return checked(header)


def long_names(count: int) -> bytes:
    return (tar_header(b"L", 7, "x") + b"seg.ts\0".ljust(512, b"\0")) * count + tar_header(b"0") + bytes(1024)


def renamed_zip(name: bytes) -> bytes:
    """A zip with an entry A whose name is overwritten in the directory."""
    data = bytearray(zipped({**GOOD, "A": b"x"}).getvalue())
    at = data.rindex(b"PK\x01\x02")
    data[at + 28 : at + 30] = struct.pack("<H", len(name))
    data[at + 46 : at + 47] = name
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", end - data.index(b"PK\x01\x02"))
    return bytes(data)


def boastful_zip(size: int) -> bytes:
    """A zip whose directory gives seg.ts another size than it has."""
    data = bytearray(zipped(GOOD).getvalue())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<L", size)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (long_names(3000), "PKG_BAD_ARCHIVE"),
        *((tar_header(b"0", size) + bytes(2048), "PKG_BAD_ARCHIVE") for size in (1 << 62, 1 << 70, -1, -(1 << 40))),
        (gzip.compress(tar_header(b"0", 1 << 70) + bytes(2048)), "PKG_BAD_ARCHIVE"),
        (renamed_zip(b""), "PKG_PATH_UNSAFE"),
        (renamed_zip(b"\0"), "PKG_PATH_UNSAFE"),
        (b"PK\x03\x04" + zipped(GOOD).getvalue()[300:], "PKG_BAD_ARCHIVE"),
        (boastful_zip(len(TS) - 188), "PKG_BAD_ARCHIVE"),
        (boastful_zip(len(TS) + 188), "PKG_BAD_ARCHIVE"),
    ],
    ids=["name-upon-name", "2^62", "2^70", "-1", "-2^40", "gz", "no-name", "nul", "no-head", "less", "more"],
)
def test_an_archive_that_makes_the_libraries_stumble_is_refused(data: bytes, code: str) -> None:
    assert codes(open_archive(io.BytesIO(data))) == {code}


SEEDS = {
    "zip": zipped({**GOOD, "d/café.ts": TS, "metadata.json": b"{}"}).getvalue(),
    "stored zip": zipped(GOOD, zipfile.ZIP_STORED).getvalue(),
    "tar": tarred({**GOOD, "d/" + "x" * 120 + ".ts": TS, "é.ts": TS}).getvalue()[:8192],
    "tgz": tarred(GOOD, "w:gz").getvalue(),
}


def mutated(kind: str, chance: random.Random) -> bytes:
    data = bytearray(SEEDS[kind])
    for _ in range(chance.randint(1, 4)):
        at, way = chance.randrange(len(data)), chance.random()
        if way < 0.5:
            data[at] = chance.choice([0, 255, 0x80, 0x7F, chance.randrange(256)])
        elif way < 0.7:
            data[at : at + chance.choice([2, 4, 8])] = chance.choice([b"\xff" * 4, bytes(4), chance.randbytes(4)])
        elif way < 0.8:
            del data[at : at + chance.randint(1, 50)]
        elif kind == "tar":  # a header that is consistent and wrong
            header = bytearray(data[:512])
            header[chance.randrange(345)] = chance.randrange(256)
            data[:512] = checked(header)
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 20))
    return bytes(data)


@pytest.mark.parametrize("kind", SEEDS)
def test_a_damaged_archive_is_refused_or_read_and_nothing_else(kind: str) -> None:
    for seed in range(1500):
        data = mutated(kind, random.Random(f"{kind}/{seed}"))
        try:
            package, report = check(open_archive(io.BytesIO(data)), PUBLISH)
        except PipelineError:
            continue
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}") from error
        assert (package is not None) == report.accepted


@pytest.mark.parametrize("kind", ["stored zip", "tar"])
def test_a_disk_that_cannot_be_read_is_no_fault_of_the_package(kind: str) -> None:
    class Disk(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    disk = Disk(SEEDS[kind])
    source = open_archive(disk)
    assert "seg.ts" in source.sizes()
    disk.broken = True
    with pytest.raises(UsageError):
        list(source.read("seg.ts"))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_dot_before_the_names_means_nothing(make: Callable[[dict[str, bytes]], io.BytesIO]) -> None:
    file = make({f"./{path}": data for path, data in GOOD.items()})
    file.seek(0)
    assert codes(open_archive(file)) == set()


@pytest.mark.parametrize("make", [lambda tar: tar, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("spoil", "refused"),
    [
        (lambda tar, end: tar[: end - 1536], True),  # without its last member, which has 1,536 bytes with its header
        (lambda tar, end: tar[:end], True),
        (lambda tar, end: tar[: end + 300], True),
        (lambda tar, end: tar[: end - 1000], True),
        (lambda tar, end: tar[:end] + b"x" * 512, True),
        (lambda tar, end: tar[: end - 1536 + 100] + b"9" + tar[end - 1536 + 101 :], True),  # its checksum is wrong now
        (lambda tar, end: tar[: end + 512], False),
        (lambda tar, end: tar[: end + 1024], False),
        (lambda tar, end: tar[: end + 512] + b"x" * 512, False),
    ],
)
def test_a_tar_without_its_end_is_refused(
    make: Callable[[bytes], bytes], spoil: Callable[[bytes, int], bytes], refused: bool
) -> None:
    """tarfile stops in silence at a header that is damaged or missing: files after it were lost without a word. One of
    the two blocks of zeros at the end is enough, as GNU tar thinks too."""
    files = {**GOOD, "metadata.json": b'{"title": "' + b"t" * 600 + b'"}'}
    tar = tarred(files).getvalue()
    end = len(tar.rstrip(b"\0")) // 512 * 512 + 512
    archive = io.BytesIO(make(spoil(tar, end)))
    assert codes(open_archive(archive)) == ({"PKG_BAD_ARCHIVE"} if refused else set())


@pytest.mark.parametrize("spoil", [lambda data: data[:-8] + b"\1" + data[-7:], lambda data: data[:-12]])
def test_a_gzip_whose_checksum_is_wrong_or_missing_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    """Reading stopped where tar ends, before gzip's checksum: changed media were published as if they were whole."""
    spoilt = io.BytesIO(spoil(tarred(GOOD, "w:gz").getvalue()))
    assert codes(open_archive(spoilt)) == {"PKG_BAD_ARCHIVE"}


def test_a_gzip_may_be_padded_with_zeros() -> None:
    padded = io.BytesIO(tarred(GOOD, "w:gz").getvalue() + bytes(200_000))
    assert check(open_archive(padded), PUBLISH)[1].accepted


def test_what_the_files_of_a_gzip_are_is_asked_without_unpacking_it_again() -> None:
    """Files without a known extension are looked at, in the order of their names: each look once cost a jump."""
    names = [f"{i}.xyz" for i in range(300)]
    random.Random(1).shuffle(names)
    source = TarSource(tarred({name: name.encode() + bytes(20_000) for name in names}, "w:gz"))
    source.sizes()
    file = source._file
    assert isinstance(file, RandomGzip)
    end = file.position_in_stream
    assert all(b"".join(source.read(name, 256)).rstrip(b"\0").decode() == name for name in sorted(names))
    assert file.position_in_stream == end


def test_marks_of_a_gzip_stay_few_however_large_it_is() -> None:
    block, packer = random.Random(1).randbytes(1 << 20), zlib.compressobj(0, wbits=31)
    packed = b"".join([*(packer.compress(block) for _ in range(140)), packer.flush()])
    file = RandomGzip(io.BytesIO(packed), lambda *_: None)
    file.seek(140 << 20)
    assert file.read(1) == b""
    assert len(file._marks) <= 512
    for place in (130 << 20, 3 << 20, 100 << 20):
        file.seek(place)
        assert place - file.position_in_stream <= 1 << 20
        assert file.read(100) == block[:100]
