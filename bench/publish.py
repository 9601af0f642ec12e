"""From S3 to a pinned, complete directory on IPFS, against the bare tools doing the same: ratios of one run.

The bare way is `s5cmd cp` of the package out of S3 and `ipfs add -r` of the result; ours is `replicas.publish`. Both
end with the same root CID, pinned, on an equal node that syncs to disk. Each goes several times into a fresh node and
the best counts. `python -m bench.publish` needs `ipfs` (Kubo) on PATH for the comparison.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.ipfs import line, seconds
from hls_pipeline import metadata_store, replicas
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import Extent
from hls_pipeline.local import kubo
from hls_pipeline.revisions import Revision
from hls_pipeline.settings import Settings
from tests.contract.nodes import KINDS, running
from tests.services import MEDIA, World, media_playlist, running_s3

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=250, help="size of the package")
    parser.add_argument("--files", type=int, default=100, help="how many files it has")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-publish-") as folder, running_s3(_made(folder, "s3")) as settings:
        work = Path(folder)
        revision = stage(settings, work, options.mib, options.files)
        root = str(revision.directory.root.cid)
        print(f"{options.mib} MiB in {options.files} files, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        bare = 0.0
        if kubo.find():
            bare = min(bare_tools(settings, work / f"bare-{n}", revision) for n in range(options.runs))
            line("s5cmd cp + ipfs add -r, kubo", options.mib, bare)
        for kind in KINDS:
            for streams in (1, 2):
                chosen = settings.model_copy(update={"ipfs_streams": streams})
                tries = [publish(kind, work / f"{kind}-{streams}-{n}", revision, chosen) for n in range(options.runs)]
                note = f"{min(tries) / bare:.2f} of the bare tools (wanted: 0.8)" if bare and kind == "kubo" else ""
                line(f"publish, {kind}, {streams} stream(s)", options.mib, min(tries), note)
        print(f"root {root}")


def stage(settings: Settings, work: Path, mib: int, files: int) -> Revision:
    """A package in the media bucket, staged as the pipeline does it."""
    database = f"sqlite:///{work / 'metadata.sqlite'}"
    metadata_store.migrate(database)
    nowhere = ("http://127.0.0.1:1",)
    world = World.of(
        settings.model_copy(update={"database_url": database, "ipfs_rpc_urls": nowhere, "ipfs_gateway_urls": nowhere})
    )
    names = [f"seg_{number:04d}.ts" for number in range(files)]
    packets = mib * MIB // files // 188
    for name in names:
        data = bytearray(os.urandom(packets * 188))
        data[::188] = b"\x47" * packets
        world.put("bench", {name: bytes(data)})
    upload = world.drop("bench", {"index.m3u8": media_playlist(*names)})
    upload = world.walk(upload, "stage", "write_s3_manifest")
    inventory = world.store.inventory(upload.upload_id)
    return Revision(upload, inventory, world.objects, MEDIA, settings.policy())


def publish(kind: str, repo: Path, revision: Revision, settings: Settings) -> float:
    upload = revision.upload
    expected = Extent(upload.blocks or 0, upload.dag_bytes or 0)
    with running(kind, repo) as node, node.client() as client:
        return seconds(lambda: replicas.publish(client, revision, expected, settings))


def bare_tools(settings: Settings, repo: Path, revision: Revision) -> float:
    """Seconds until the same directory is on a fresh node; its root must be ours."""
    assert settings.s3_secret_key is not None
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": settings.s3_access_key or "",
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        "AWS_REGION": settings.s3_region,
    }
    s5cmd = Path(sys.executable).with_name("s5cmd")
    manifest = repo.with_suffix(".s5cmd")
    folder = _made(str(repo.parent), repo.name + "-files")
    manifest.write_text("".join(f"cp s3://{MEDIA}/{file.key} {folder / file.path}\n" for file in revision.files))
    with running("kubo", repo) as node, node.client() as client:
        start = time.perf_counter()
        copy = [str(s5cmd), "--endpoint-url", settings.s3_endpoint or "", "run", str(manifest)]
        subprocess.run(copy, env=environment, check=True, stdout=subprocess.DEVNULL)
        add = ["ipfs", "add", "-rQ", "--progress=false", str(folder)]
        root = subprocess.run(add, env=kubo.environment(repo), check=True, capture_output=True, text=True).stdout
        taken = time.perf_counter() - start
        if Cid.parse(root.strip()) != revision.directory.root.cid or client.pinned(Cid.parse(root.strip())) is None:
            raise SystemExit(f"the bare tools made {root.strip()}, we {revision.directory.root.cid}")
    return taken


def _made(parent: str, name: str) -> Path:
    path = Path(parent) / name
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
