"""Packages in one file: a zip, a tar, a tar.gz. Each lists its members once and streams their bytes.

Nothing is ever unpacked to disk and no name from an archive is ever used as a path. Archives are judged from their
directory (level L0): links, passwords, duplicates and bombs end the reading with PackageRefused, and so does whatever
else goes wrong with their bytes. Names are judged in `paths.py`, the same for every source.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import BinaryIO, NamedTuple, TypeVar

from hls_pipeline.errors import PipelineError, UsageError
from hls_pipeline.hls.findings import refuse, shown
from hls_pipeline.hls.gzip_random import RandomGzip
from hls_pipeline.hls.policy import Limits

CHUNK = 1 << 20
_HEAD = 256
"""First bytes of a tar's member that are kept while listing: what a file is can be asked without a jump to it."""
_NO_SUCH_PLACE = (errno.EINVAL, errno.EOVERFLOW, None)
_M = TypeVar("_M")


@contextmanager
def _border(path: str, what: str) -> Iterator[None]:
    """To zipfile, tarfile and zlib. Over damaged bytes they raise whatever comes, from IndexError to RecursionError;
    here it becomes PKG_BAD_ARCHIVE. A disk that cannot be read says nothing about the package: UsageError."""
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        if error.errno not in _NO_SUCH_PLACE:  # a seek to an offset that no file can have is the archive's fault
            raise UsageError(f"the archive cannot be read: {error.strerror}") from error
        refuse("PKG_BAD_ARCHIVE", path, f"{what}: {shown(str(error))}")
    except Exception as error:  # noqa: BLE001 - see above
        refuse("PKG_BAD_ARCHIVE", path, f"{what}: {shown(str(error))}")


def chunks(file: BinaryIO, limit: int | None) -> Iterator[bytes]:
    left = limit
    while left is None or left > 0:
        chunk = file.read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        yield chunk
        left = None if left is None else left - len(chunk)


class ZipSource:
    """A zip, judged from its central directory before any of it is unpacked."""

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._file = file
        self._limits = limits or Limits()

    def sizes(self) -> Mapping[str, int]:
        return {name: member.file_size for name, member in self._members.items()}

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        with _border("", "the zip cannot be read"):
            return dict(sorted(self._check_members(self._zip.infolist()).items()))

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        self._check_directory()
        return zipfile.ZipFile(self._file)

    @cached_property
    def _packed(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def _check_directory(self) -> None:
        """Refuses a central directory that takes long to read, from the record at the end that gives its size."""
        self._file.seek(max(0, self._packed - 65_557))
        tail = self._file.read(65_557)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            refuse("PKG_BAD_ARCHIVE", "", "the zip has no directory; it may be cut off")
        entries, size = struct.unpack("<HL", tail[at + 10 : at + 16])
        wide = tail.rfind(b"PK\x06\x06", 0, at)
        if entries == 0xFFFF or size == 0xFFFFFFFF:
            if wide < 0 or len(tail) < wide + 48:
                refuse("PKG_BAD_ARCHIVE", "", "the zip's directory cannot be found")
            size = struct.unpack("<Q", tail[wide + 40 : wide + 48])[0]
        if size > self._limits.files * 46 * 4 or size // 46 > self._limits.files * 4:
            refuse("PKG_TOO_MANY_FILES", "", f"the directory of the zip has {size:,} bytes")
        self._file.seek(0)

    def _check_members(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        if len(infos) > self._limits.files:
            refuse("PKG_TOO_MANY_FILES", "", f"{len(infos):,} entries; at most {self._limits.files:,} are allowed")
        for info in infos:
            name = _zip_name(info)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                refuse("PKG_LINK", name, "it is a link or no plain file")
            if name.endswith("/") or kind == stat.S_IFDIR:
                continue
            if info.flag_bits & 0x41:
                refuse("PKG_ENCRYPTED_ARCHIVE", name, "it needs a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                refuse("PKG_BAD_ARCHIVE", name, "it is packed by a method other than deflate")
            _check_ratio(name, info.file_size, info.compress_size, self._limits)
            _add(members, name, info)
        if sum(info.compress_size for info in infos) > self._packed:
            refuse("PKG_RATIO", "", "its entries overlap: the same packed bytes stand for many files")
        _check_ratio("", sum(info.file_size for info in infos), self._packed, self._limits)
        return members

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        member = self._members[path]
        left = member.file_size if limit is None else min(limit, member.file_size)
        with _border(path, "it cannot be unpacked"), self._zip.open(member) as file:
            for chunk in chunks(file, limit):  # type: ignore[arg-type]
                left -= len(chunk)
                yield chunk
        if left:
            refuse("PKG_BAD_ARCHIVE", path, f"the zip's directory promises {left:,} bytes more than there are")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as the creator spelled it: some programs (macOS) write UTF-8 and do not say so, others (WinRAR) write it
    beside a name of their own (APPNOTE 4.6.9)."""
    name = info.orig_filename
    if info.flag_bits & 0x800:
        return name
    with suppress(UnicodeError):
        spelled = name.encode("cp437")
        return (_unicode_path(info.extra, zlib.crc32(spelled)) or spelled).decode("utf-8")
    return name


def _unicode_path(extra: bytes, checksum: int) -> bytes | None:
    """From the extra fields of an entry, where it belongs to a name with this checksum."""
    at = 0
    while at + 9 <= len(extra):
        kind, size, version, belongs_to = struct.unpack_from("<HHBI", extra, at)
        if kind == 0x7075 and (version, belongs_to) == (1, checksum):
            return extra[at + 9 : at + 4 + size]
        at += 4 + size
    return None


class _Member(NamedTuple):
    offset: int
    size: int
    head: bytes


class TarSource:
    """A tar, packed by gzip or not. Reading jumps to a member; for gzip through marks kept while listing. Several
    threads may read at once."""

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._file: BinaryIO | RandomGzip = _open_gzip(file, self._limits) if _is_gzip(file) else file
        self._turn = threading.Lock()

    def sizes(self) -> Mapping[str, int]:
        return {name: member.size for name, member in self._members.items()}

    @cached_property
    def _members(self) -> dict[str, _Member]:
        with self._turn, _border("", "the tar cannot be read"):
            return dict(sorted(self._list().items()))

    def _list(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        with tarfile.open(fileobj=_Headers(self._file), mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
            for count, member in enumerate(archive):
                if count > self._limits.files:
                    refuse("PKG_TOO_MANY_FILES", "", f"more than {self._limits.files:,} entries")
                archive.members.clear()  # tarfile keeps them all
                if member.size < 0:
                    refuse("PKG_BAD_ARCHIVE", member.name, "its size is negative")
                if not member.isdir():
                    _add(members, member.name, self._look(member))
            self._check_end(archive.offset)
        if isinstance(self._file, RandomGzip):
            self._file.exhaust()
        return members

    def _check_end(self, at: int) -> None:
        """tarfile stops without a word where a header is damaged or missing: then files would be lost unnoticed. POSIX
        ends a tar by two blocks of zeros; one is enough, as for GNU tar, because nothing comes after the first. None
        is no tar of a tool that finished, and looks like one that was cut between two files."""
        self._file.seek(at)
        block = self._file.read(tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE):
            what = f"there is no file header at byte {at:,}" if block.strip(b"\0") else "its end is missing"
            refuse("PKG_BAD_ARCHIVE", "", f"the tar is damaged or cut off: {what}")

    def _look(self, member: tarfile.TarInfo) -> _Member:
        if member.issparse() or member.type == tarfile.GNUTYPE_SPARSE:
            refuse("PKG_BAD_ARCHIVE", member.name, "it is stored as a sparse file")
        if not member.isreg():
            refuse("PKG_LINK", member.name, "it is a link or no plain file")
        self._file.seek(member.offset_data)
        return _Member(member.offset_data, member.size, self._file.read(min(_HEAD, member.size)))

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        member = self._members[path]
        at, left = member.offset, member.size if limit is None else min(limit, member.size)
        if 0 < left <= len(member.head):
            yield member.head[:left]
            return
        while left:
            with self._turn, _border(path, "it cannot be unpacked"):
                self._file.seek(at)  # another reader may have moved it
                chunk = self._file.read(min(CHUNK, left))
            if not chunk:
                refuse("PKG_BAD_ARCHIVE", path, "the archive ends inside this file")
            yield chunk
            at, left = at + len(chunk), left - len(chunk)


class _Headers:
    """What tarfile reads from while listing: a header that wants megabytes (a name, a comment) is an attack."""

    def __init__(self, file: BinaryIO | RandomGzip) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.HeaderError("a header is too large")
        return self._file.read(size)


def _add(members: dict[str, _M], spelled: str, member: _M) -> None:
    """`./x` is x: tar writes it so when it packs the folder it stands in."""
    name = spelled.removeprefix("./")
    if name in members:
        refuse("PKG_DUPLICATE_PATH", name, "it is in the archive twice")
    members[name] = member


def _check_ratio(name: str, size: int, packed: int, limits: Limits) -> None:
    if size > limits.ratio_from and size > packed * limits.ratio:
        refuse("PKG_RATIO", name, f"{packed:,} packed bytes would become {size:,}")


def _is_gzip(file: BinaryIO) -> bool:
    file.seek(0)
    magic = file.read(2)
    file.seek(0)
    return magic == b"\x1f\x8b"


def _open_gzip(file: BinaryIO, limits: Limits) -> RandomGzip:
    def check(size: int, packed: int) -> None:
        _check_ratio("", size, packed, limits)
        if size > limits.total_size:
            refuse("PKG_TOO_LARGE", "", f"unpacked it has more than {limits.total_size:,} bytes")

    return RandomGzip(file, check)


def open_archive(file: BinaryIO, limits: Limits | None = None) -> ZipSource | TarSource:
    """The source for an open, seekable archive. Raises PackageRefused (PKG_BAD_ARCHIVE) if it is none."""
    with _border("", "the archive cannot be read"):
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
