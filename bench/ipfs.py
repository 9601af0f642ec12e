"""How fast content ids are computed and blocks go to a node and come back, as ratios measured in one run.

`python -m bench.ipfs` writes a package of random files to a temporary folder, and measures against `hashlib` over the
same bytes and, where `ipfs` is on PATH, `ipfs add -r` into an equal node that syncs to disk. Absolute numbers depend
on the machine and on what else it does; compare the ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES, Extent, FileBuilder, Node, build_directory, hash_tree
from hls_pipeline.local import kubo
from tests.contract.nodes import KINDS, running

MIB = 1024 * 1024
PROFILE = PROFILES["unixfs-v1-2025"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=250, help="size of the package")
    parser.add_argument("--files", type=int, default=100, help="how many files it has")
    parser.add_argument("--streams", type=int, default=2, help="import streams per node")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-ipfs-") as folder:
        work = Path(folder)
        package = write_package(work / "package", options.mib, options.files)
        print(f"{options.mib} MiB in {options.files} files, {os.cpu_count()} cores")
        compare_hashing(work / "package", options.mib)
        baseline = add_with_ipfs(work, options.mib) if kubo.find() else None
        for kind in KINDS:
            publish(kind, work, package, options.mib, options.streams, baseline)


def write_package(folder: Path, mib: int, files: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"seg_{number:04d}.ts" for number in range(files)]
    for path in paths:
        path.write_bytes(os.urandom(mib * MIB // files))
    return paths


def compare_hashing(folder: Path, mib: int) -> None:
    plain = min(seconds(lambda: hash_plainly(folder)) for _ in range(3))
    line("hashlib.sha256 over the files", mib, plain)
    for profile in PROFILES.values():
        tree = min(seconds(lambda chosen=profile: hash_tree(folder, chosen)) for _ in range(3))  # type: ignore[misc]
        line(f"cid, {profile.name}", mib, tree, f"{plain / tree:.2f} of hashlib (wanted: 0.8)")


def hash_plainly(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")


def add_with_ipfs(work: Path, mib: int) -> float:
    """Seconds of `ipfs add -r` into a running node of its own."""
    repo = work / "baseline"
    with running("kubo", repo):
        command = ["ipfs", "add", "-rQ", "--progress=false", str(work / "package")]
        taken = seconds(lambda: subprocess.run(command, env=kubo.environment(repo), check=True, stdout=-3))
    line("ipfs add -r into kubo, synced", mib, taken)
    return taken


def publish(kind: str, work: Path, paths: list[Path], mib: int, streams: int, baseline: float | None) -> None:
    with running(kind, work / kind) as node, node.client() as client:
        print(f"{kind} {client.version()}")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        root, extent = import_package(client, paths, streams)
        imported = time.perf_counter() - start
        line(f"  hash and import, {streams} streams", mib, imported)
        pinned = seconds(lambda: client.pin(root.cid, "bench", root.tsize))
        complete = seconds(lambda: expect(client.dag_stat(root.cid, root.tsize), extent))
        total = imported + pinned + complete
        against = f"{total / baseline:.2f} of ipfs add -r" if baseline and kind == "kubo" else ""
        line("  … pinned and complete", mib, total, against)
        line("  read back", mib, seconds(lambda: expect(client.read_back(root.cid), extent)), "wanted: 1.5 s for 250")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        print(f"  memory of this process grew by {grown / 1024:.0f} MiB")


def import_package(client: Kubo, paths: list[Path], streams: int) -> tuple[Node, Extent]:
    with ThreadPoolExecutor(streams) as pool:
        parts = pool.map(lambda share: import_files(client, share), [paths[n::streams] for n in range(streams)])
        nodes = {path: node for part in parts for path, node in part.items()}
    directory = build_directory(nodes, PROFILE)
    client.import_blocks(directory.blocks)
    return directory.root, directory.extent


def import_files(client: Kubo, paths: Sequence[Path]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}

    def blocks() -> Iterator[Block]:
        for path in paths:
            builder = FileBuilder(PROFILE)
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(MIB):
                    yield from builder.feed(chunk)
            nodes[path.name], rest = builder.finish()
            yield from rest

    client.import_blocks(blocks())
    return nodes


def expect(found: Extent, wanted: Extent) -> None:
    if found != wanted:
        raise SystemExit(f"found {found}, wanted {wanted}")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def line(what: str, mib: int, taken: float, note: str = "") -> None:
    print(f"{what:40} {taken:6.2f} s {mib / taken:7.0f} MiB/s   {note}")


if __name__ == "__main__":
    main()
