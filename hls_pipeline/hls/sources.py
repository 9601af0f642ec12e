"""Where a package comes from: a folder, or an archive. Each source lists its files with sizes and streams their bytes.

Names are judged in `paths.py`, the same for every source; zips and tars are read in `archives.py`. Other sources (an S3
prefix) only need the two methods of `Source`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.archives import TarSource, ZipSource, chunks, open_archive
from hls_pipeline.hls.findings import refuse, shown
from hls_pipeline.hls.policy import Limits

__all__ = ["FolderSource", "Source", "TarSource", "ZipSource", "open_archive", "open_source"]


class Source(Protocol):
    def sizes(self) -> Mapping[str, int]:
        """Every regular file, path as the creator spelled it → bytes. Raises PackageRefused for a broken archive."""

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of a file in chunks, at most `limit` of them."""


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
                yield from chunks(file, limit)
        except OSError as error:
            raise UsageError(f"{shown(str(place))} cannot be read: {error.strerror}") from error


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
    with _opened(path) as file:
        yield open_archive(file, limits)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"{shown(str(path))} cannot be read: {error.strerror}") from error
