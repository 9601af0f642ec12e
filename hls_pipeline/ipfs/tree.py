"""The content id of a file or folder on a disk, as `ipfs add -rnQ` of it would answer.

Like that command it leaves out names that begin with a dot below the path given, keeps empty directories and
stores symbolic links as links. Nothing is written and nothing is sent. Packages are never read through here:
they are staged from S3, where there are no links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hls_pipeline.errors import UsageError
from hls_pipeline.ipfs import dagpb
from hls_pipeline.ipfs.cid import DAG_PB, Cid
from hls_pipeline.ipfs.directories import Directory, Extent, build_directory
from hls_pipeline.ipfs.files import FileBuilder, Node, Profile


def hash_tree(path: Path, profile: Profile) -> Directory:
    """Hash `path`, several files at once. UsageError for what cannot be read or is no file, folder or link."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            node = _hash(path, profile)
            return Directory(node, (), {path.name: node}, {"": node}, Extent(node.blocks, node.tsize))
        files, empty = _scan(path)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            nodes = pool.map(lambda name: _hash(path / name, profile), files)
            return build_directory(dict(zip(files, nodes, strict=True)), profile, empty)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _scan(top: Path) -> tuple[list[str], list[str]]:
    """Paths of the files and links below `top`, and of all directories."""
    files: list[str] = []
    directories: list[str] = []
    for folder, entry in _walk(top):
        name = folder + entry.name
        (directories if entry.is_dir(follow_symlinks=False) else files).append(name)
    return files, directories


def _walk(top: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(top / folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                yield folder, entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}{entry.name}/")


def _hash(path: Path, profile: Profile) -> Node:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return _symlink(os.fsencode(path.readlink()), profile)
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is neither a file, a folder nor a symbolic link")
    builder = FileBuilder(profile)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(profile.chunk_size):  # so that no chunk is pieced together
            builder.feed(chunk)
    return builder.finish()[0]


def _symlink(target: bytes, profile: Profile) -> Node:
    block = dagpb.encode(b"\x08\x04" + dagpb.encode_bytes(2, target), ())
    return Node(Cid.of(block, DAG_PB, profile.version), len(target), len(block), 1)
