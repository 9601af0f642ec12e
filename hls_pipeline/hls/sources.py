"""Where a package comes from: a folder, a zip, a tar. Each lists its files with sizes and streams their bytes.

Nothing is ever unpacked to disk and no name from an archive is ever used as a path. Archives are judged from their
directory (level L0): links, passwords, duplicates and bombs end the reading with PackageRefused. Names are judged in
`paths.py`, the same for every source; other sources (an S3 prefix) only need the two methods of `Source`.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.findings import refuse, shown
from hls_pipeline.hls.gzip_random import RandomGzip
from hls_pipeline.hls.policy import Limits

CHUNK = 1 << 20


class Source(Protocol):
    def sizes(self) -> Mapping[str, int]:
        """Every regular file, path as the creator spelled it → bytes. Raises PackageRefused for a broken archive."""

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of a file in chunks, at most `limit` of them."""


def _chunks(file: BinaryIO, limit: int | None) -> Iterator[bytes]:
    left = limit
    while left is None or left > 0:
        chunk = file.read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        yield chunk
        left = None if left is None else left - len(chunk)


class FolderSource:
    """A folder. Links are not followed: what they point to may be anything on this computer."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self._top = folder.resolve()
        self._limits = limits or Limits()

    def sizes(self) -> Mapping[str, int]:
        try:
            return dict(sorted(self._scan()))
        except OSError as error:
            raise UsageError(f"{shown(str(self._top))} cannot be read: {error.strerror}") from error

    def _scan(self) -> Iterator[tuple[str, int]]:
        pending, count = [""], 0
        while pending:
            folder = pending.pop()
            with os.scandir(self._top / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if path.count("/") >= self._limits.depth:
                            refuse("PKG_PATH_UNSAFE", path, "the folders are nested too deep")
                        pending.append(path)
                        continue
                    count += 1
                    if count > self._limits.files:
                        refuse("PKG_TOO_MANY_FILES", "", f"more than {self._limits.files:,} files")
                    yield path, self._size(path, entry.stat(follow_symlinks=False))

    def _size(self, path: str, status: os.stat_result) -> int:
        if stat.S_ISLNK(status.st_mode):
            inside = (self._top / path).resolve().is_relative_to(self._top)
            refuse("PKG_LINK" if inside else "PKG_SYMLINK_ESCAPE", path, "it is a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            refuse("PKG_LINK", path, "it is no plain file")
        return status.st_size

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        place = self._top / path
        if not place.parent.resolve().is_relative_to(self._top):
            refuse("PKG_SYMLINK_ESCAPE", path, "it lies outside the package")
        try:
            with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
                yield from _chunks(file, limit)
        except OSError as error:
            raise UsageError(f"{shown(str(place))} cannot be read: {error.strerror}") from error


class ZipSource:
    """A zip, judged from its central directory before any of it is unpacked."""

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._file = file
        self._limits = limits or Limits()
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._zip: zipfile.ZipFile | None = None

    def sizes(self) -> Mapping[str, int]:
        if self._zip is None:
            packed = self._file.seek(0, os.SEEK_END)
            self._check_directory(packed)
            try:
                self._zip = zipfile.ZipFile(self._file)
            except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
                refuse("PKG_BAD_ARCHIVE", "", f"the zip cannot be read: {shown(str(error))}")
            self._members = self._check_members(self._zip.infolist(), packed)
        return {name: member.file_size for name, member in sorted(self._members.items())}

    def _check_directory(self, packed: int) -> None:
        """Refuses a central directory that takes long to read, from the record at the end that gives its size."""
        self._file.seek(max(0, packed - 65_557))
        tail = self._file.read(65_557)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            refuse("PKG_BAD_ARCHIVE", "", "the zip has no directory; it may be cut off")
        entries, size = struct.unpack("<HL", tail[at + 10 : at + 16])
        wide = tail.rfind(b"PK\x06\x06", 0, at)
        if 0xFFFF in (entries,) or size == 0xFFFFFFFF:
            if wide < 0 or len(tail) < wide + 48:
                refuse("PKG_BAD_ARCHIVE", "", "the zip's directory cannot be found")
            size = struct.unpack("<Q", tail[wide + 40 : wide + 48])[0]
        if size > self._limits.files * 46 * 4 or size // 46 > self._limits.files * 4:
            refuse("PKG_TOO_MANY_FILES", "", f"the directory of the zip has {size:,} bytes")
        self._file.seek(0)

    def _check_members(self, infos: list[zipfile.ZipInfo], packed: int) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        if len(infos) > self._limits.files:
            refuse("PKG_TOO_MANY_FILES", "", f"{len(infos):,} entries; at most {self._limits.files:,} are allowed")
        for info in infos:
            name = _zip_name(info)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                refuse("PKG_LINK", name, "it is a link or no plain file")
            if info.flag_bits & 0x41:
                refuse("PKG_ENCRYPTED_ARCHIVE", name, "it needs a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                refuse("PKG_BAD_ARCHIVE", name, "it is packed by a method other than deflate")
            if name in members:
                refuse("PKG_DUPLICATE_PATH", name, "it is in the archive twice")
            _check_ratio(name, info.file_size, info.compress_size, self._limits)
            members[name] = info
        if sum(info.compress_size for info in infos) > packed:
            refuse("PKG_RATIO", "", "its entries overlap: the same packed bytes stand for many files")
        _check_ratio("", sum(info.file_size for info in infos), packed, self._limits)
        return members

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        self.sizes()
        assert self._zip is not None
        try:
            with self._zip.open(self._members[path]) as file:
                yield from _chunks(file, limit)  # type: ignore[arg-type]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            refuse("PKG_BAD_ARCHIVE", path, f"it cannot be unpacked: {shown(str(error))}")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as the creator spelled it: some programs (macOS) write UTF-8 and do not say so."""
    name = info.orig_filename
    if not name.isascii() and not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


class _Member(NamedTuple):
    offset: int
    size: int


class TarSource:
    """A tar, packed by gzip or not. Reading jumps to a member; for gzip through marks kept while listing. Several
    threads may read at once."""

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._file = _open_gzip(file, self._limits) if _is_gzip(file) else file
        self._members: dict[str, _Member] | None = None
        self._turn = threading.Lock()

    def sizes(self) -> Mapping[str, int]:
        with self._turn:
            if self._members is None:
                self._members = self._list()
        return {name: member.size for name, member in sorted(self._members.items())}

    def _list(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        try:
            with tarfile.open(fileobj=_Headers(self._file), mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
                for count, member in enumerate(archive):
                    if count > self._limits.files:
                        refuse("PKG_TOO_MANY_FILES", "", f"more than {self._limits.files:,} entries")
                    archive.members.clear()  # tarfile keeps them all
                    if not member.isdir():
                        self._add(members, member)
        except (tarfile.TarError, EOFError, ValueError, zlib.error, OSError) as error:
            refuse("PKG_BAD_ARCHIVE", "", f"the tar cannot be read: {shown(str(error))}")
        return members

    def _add(self, members: dict[str, _Member], member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        if member.issparse() or member.type == tarfile.GNUTYPE_SPARSE:
            refuse("PKG_BAD_ARCHIVE", name, "it is stored as a sparse file")
        if not member.isreg():
            refuse("PKG_LINK", name, "it is a link or no plain file")
        if name in members:
            refuse("PKG_DUPLICATE_PATH", name, "it is in the archive twice")
        members[name] = _Member(member.offset_data, member.size)

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        self.sizes()
        assert self._members is not None
        member = self._members[path]
        at, left = member.offset, member.size if limit is None else min(limit, member.size)
        while left:
            with self._turn:
                self._file.seek(at)  # another reader may have moved it
                chunk = self._file.read(min(CHUNK, left))
            if not chunk:
                refuse("PKG_BAD_ARCHIVE", path, "the archive ends inside this file")
            yield chunk
            at, left = at + len(chunk), left - len(chunk)


class _Headers:
    """What tarfile reads from while listing: a header that wants megabytes (a name, a comment) is an attack."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.HeaderError("a header is too large")
        return self._file.read(size)


def _check_ratio(name: str, size: int, packed: int, limits: Limits) -> None:
    if size > limits.ratio_from and size > packed * limits.ratio:
        refuse("PKG_RATIO", name, f"{packed:,} packed bytes would become {size:,}")


def _is_gzip(file: BinaryIO) -> bool:
    file.seek(0)
    magic = file.read(2)
    file.seek(0)
    return magic == b"\x1f\x8b"


def _open_gzip(file: BinaryIO, limits: Limits) -> BinaryIO:
    def check(size: int, packed: int) -> None:
        _check_ratio("", size, packed, limits)
        if size > limits.total_size:
            refuse("PKG_TOO_LARGE", "", f"unpacked it has more than {limits.total_size:,} bytes")

    return RandomGzip(file, check)  # type: ignore[return-value]


@contextmanager
def open_source(path: Path, limits: Limits | None = None) -> Iterator[Source]:
    """The source for a folder, a zip or a tar, chosen by what it is, not by its name.

    Raises UsageError if there is nothing, PackageRefused (PKG_BAD_ARCHIVE) for any other file.
    """
    if path.is_dir():
        yield FolderSource(path, limits)
        return
    if not path.is_file():
        raise UsageError(f"{shown(str(path))}: there is no such folder, zip or tar")
    with open(path, "rb") as file:
        yield open_archive(file, limits)


def open_archive(file: BinaryIO, limits: Limits | None = None) -> Source:
    """The source for an open, seekable archive. Raises PackageRefused (PKG_BAD_ARCHIVE) if it is none."""
    head = file.read(512)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return ZipSource(file, limits)
    if not (head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" or _is_old_tar(head)):
        refuse("PKG_BAD_ARCHIVE", "", "this is neither a folder nor a zip, tar or tar.gz")
    return TarSource(file, limits)


def _is_old_tar(head: bytes) -> bool:
    """A tar from before 1988 has no magic, only a checksum."""
    try:
        return len(head) == 512 and bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False
