"""How long a report over 1,000,000 inventory rows takes, and how much memory.

`python -m bench.report` fills a SQLite database with 20,000 videos of 50 files over 60 days, some of them refused or
failed, and runs `hls-pipeline report` over it as a process of its own. Wanted: 20 s and 1 GiB. `--keep FOLDER` leaves
the database and the page there.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, documents, tables
from hls_pipeline.metadata_store import MetadataStore
from tests import services

NOW = datetime.now(UTC)
DAYS = 60
FILES = 50
AT_ONCE = 500  # videos per insert
STATES = ("received", "staged", "pinned", "published", "cleared")
Rows = dict[sa.Table, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-report-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        url = f"sqlite:///{services.migrated_sqlite(folder / 'metadata.sqlite')}"
        store = MetadataStore(url)
        with store.reading() as db:
            empty = db.execute(sa.select(sa.func.count()).select_from(tables.upload)).scalar() == 0
        if empty:
            fill(store, options.videos)
        print(f"{options.videos * FILES:,} files of {options.videos:,} videos")
        measure("nothing to read, for comparison", url, folder, "--days", "0.01", "--help")
        measure("the page", url, folder, "--html", str(folder / "report.html"), "--days", str(DAYS))
        measure("Parquet", url, folder, "--parquet", str(folder / "inventory.parquet"))
        measure("CSV", url, folder, "--csv", str(folder / "inventory.csv"))


def measure(what: str, url: str, folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "HLS_DATABASE_URL": url, "HLS_S3_ENDPOINT": "http://127.0.0.1:1"}
    environment |= {"HLS_IPFS_RPC_URLS": '["http://127.0.0.1:1"]', "HLS_IPFS_GATEWAY_URLS": '["http://127.0.0.1:1"]'}
    began = time.perf_counter()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "hls_pipeline.cli", "report", *arguments],
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(folder / "out"), os.O_WRONLY | os.O_CREAT, 0o600)],
    )
    _, status, usage = os.wait4(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (folder / "out").read_text()
    busy = usage.ru_utime + usage.ru_stime
    took = time.perf_counter() - began
    print(f"  {what:34} {took:6.1f} s ({busy:.1f} s of a core)   {usage.ru_maxrss / 1024:6.0f} MiB")


# ---- filling -----------------------------------------------------------------------------------------------------


def fill(store: MetadataStore, videos: int) -> None:
    chance = random.Random(1)
    for start in range(0, videos, AT_ONCE):
        rows: Rows = {table: [] for table in tables.metadata.sorted_tables}
        for number in range(start, min(start + AT_ONCE, videos)):
            add_video(rows, number, chance)
        with store.writing() as db:
            for table in tables.metadata.sorted_tables:
                if rows[table]:
                    db.execute(sa.insert(table), rows[table])


def add_video(rows: Rows, number: int, chance: random.Random) -> None:
    video_id, upload_id = f"video_{number:06}", f"{chance.getrandbits(128):032x}"
    at = NOW - timedelta(days=DAYS * (1 - chance.betavariate(1.6, 1)))
    size = int(chance.lognormvariate(18.5, 0.8))
    rows[tables.video].append({"video_id": video_id, "created_at": at, "versions": 1, "current_version": 1})
    fate = chance.random()
    if fate < 0.02:
        add_upload(rows, video_id, upload_id, at, "rejected", report=refusal(chance))
        add_changes(rows, upload_id, [("received", at), ("rejected", at + timedelta(seconds=1))])
        return
    times, seconds = [at], (1 + size / 250e6, 0.5 + size / chance.uniform(50e6, 110e6), 0.4, 3 + size / 200e6)
    for usual in seconds:
        times.append(times[-1] + timedelta(seconds=usual * chance.uniform(0.7, 1.6)))
    reached = 2 if fate < 0.024 else 4 if number % 40 == 0 else 5
    state = "failed" if reached == 2 else STATES[reached - 1]
    add_upload(rows, video_id, upload_id, at, state, revision=1, root=f"bafy{upload_id}", size=size)
    changes = list(zip(STATES[:reached], times, strict=False))
    add_changes(rows, upload_id, changes + ([("failed", times[2])] if state == "failed" else []))
    add_document(rows, video_id, times[1], times[1] + timedelta(seconds=2 + size / 75e6))
    if fate < 0.08:
        add_failure(rows, upload_id, times[2], chance)
    add_files(rows, video_id, upload_id, size, waits=reached < 5)
    if reached > 2:
        for peer in ("12D3KooWone", "12D3KooWtwo")[: 2 if chance.random() < 0.9 else 1]:
            proof = {"root": f"bafy{upload_id}", "peer_id": peer, "level": "complete", "node": "n", "at": "now"}
            proven = NOW - (NOW - times[2]) * chance.random()
            rows[tables.receipt].append({"upload_id": upload_id, "kind": "proof", "content": proof, "time": proven})


def add_upload(rows: Rows, video_id: str, upload_id: str, at: datetime, state: str, **more: Any) -> None:
    common = {"created_at": at, "updated_at": at, "launches": 1, "attempts": 0, "drop": {}}
    empty = dict.fromkeys(("revision", "root", "size", "report"))
    rows[tables.upload].append(
        {**common, **empty, **more, "video_id": video_id, "upload_id": upload_id, "state": state}
    )


def add_changes(rows: Rows, upload_id: str, changes: list[tuple[str, datetime]]) -> None:
    rows[tables.state_change] += [{"upload_id": upload_id, "state": state, "time": time} for state, time in changes]


def add_document(rows: Rows, video_id: str, at: datetime, promised: datetime) -> None:
    segments = [f"s3://media/{video_id}/r1/media/bafkrei{n:052}.ts" for n in range(FILES)]
    text = documents.canonical(
        {"estimated_completion": clock.seconds_text(promised), "video_assets": {"segments": segments}}
    )
    about = {"video_id": video_id, "n": 1, "revision": 1, "document": text, "document_sha256": "", "hash": ""}
    rows[tables.version].append({**about, "actor": "inbox", "reason": "staged", "time": at, "shown": True})


def add_failure(rows: Rows, upload_id: str, at: datetime, chance: random.Random) -> None:
    code = chance.choices(("service_unavailable", "proof_missing", "object_changed", "lease_lost"), (60, 25, 5, 10))[0]
    about = {"upload_id": upload_id, "state": "staged", "code": code, "count": chance.randint(1, 4), "message": code}
    rows[tables.failure].append({**about, "first_at": at, "last_at": at})


def add_files(rows: Rows, video_id: str, upload_id: str, size: int, *, waits: bool) -> None:
    for n in range(FILES):
        playlist = n < 2
        cid, own = f"bafkrei{upload_id}{n:020}", 2_000 if playlist else size // (FILES - 2)
        key = f"{video_id}/r1/media/{cid}.ts"
        about = {"role": "playlist", "content_type": "application/vnd.apple.mpegurl", "path": f"{n}/index.m3u8"}
        if not playlist:
            about = {"role": "segment", "content_type": "video/mp2t", "path": f"720p/seg_{n:05}.ts"}
        more = {"upload_id": upload_id, "position": n, "size": own, "cid": cid, "dag_size": own, "dag_blocks": 1}
        rows[tables.inventory].append({**about, **more, "key": None if playlist else key, "source_key": None})
        if waits and not playlist:
            waiting = {"cid": f"s3://media/{key}", "upload_id": upload_id, "size": own, "etag": '"e"'}
            rows[tables.temp_storage].append(waiting)


def refusal(chance: random.Random) -> dict[str, Any]:
    codes = chance.sample(("URI_MISSING_FILE", "MEDIA_UNKNOWN_TYPE", "PKG_NO_PLAYLIST", "KEY_IN_PACKAGE"), 2)
    return {"errors": [{"code": code, "path": "a.m3u8", "line": 1, "message": ""} for code in codes], "warnings": []}


if __name__ == "__main__":
    main()
