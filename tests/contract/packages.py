"""Small packages to send to a node: their blocks, and the directory that holds them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.unixfs import PROFILES, Directory, FileBuilder, Profile, build_directory

V1 = PROFILES["unixfs-v1-2025"]
ODD_NAMES = ("a+b.ts", "100%41.ts", "été & co.ts", "two  blanks.ts", 'it\'s "quoted".ts', "#1?x=y.ts", "日本/語.ts")
_numbers = itertools.count()


@dataclass(frozen=True)
class Package:
    files: Mapping[str, bytes]
    directory: Directory
    blocks: tuple[Block, ...]
    """All of it: the files' and the directories' blocks, those that repeat each time."""


def package(files: Mapping[str, bytes], profile: Profile = V1) -> Package:
    nodes, blocks = {}, []
    for path, data in files.items():
        builder = FileBuilder(profile)
        blocks += builder.feed(data)
        nodes[path], rest = builder.finish()
        blocks += rest
    directory = build_directory(nodes, profile)
    return Package(files, directory, (*blocks, *directory.blocks))


def fresh(megabytes: int = 3, profile: Profile = V1) -> Package:
    """A package that no test has sent before: a playlist and segments of a megabyte and a half."""
    run = next(_numbers)
    segments = {f"720p/seg {n}+é%.ts": noise(f"{run}/{n}", 1_500_000) for n in range(megabytes * 2 // 3)}
    return package({"master.m3u8": b"#EXTM3U %d" % run, **segments}, profile)


def noise(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


def pieces(blocks: tuple[Block, ...], fail_after: int, error: Exception) -> Iterator[Block]:
    yield from blocks[:fail_after]
    raise error
