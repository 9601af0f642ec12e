"""What the queue adds to the work itself: packages dropped into the inbox of an `hls-pipeline up --production`.

One line per measurement: seconds from `_READY` to the final document beside the same steps walked in this process, the
wait between launch and worker, small packages per minute and what they cost in seconds of a core (which other work on
the machine does not change), and how memory and costs grow. Root or sudo, PostgreSQL and RabbitMQ are needed.
`python -m bench.queueing --only growth --growth 5000 --minutes 40` takes so long, and says how far it came.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import requests
import sqlalchemy as sa

from hls_pipeline import keys, metadata_store, object_store, tables
from hls_pipeline.local import processes
from hls_pipeline.local.data_folder import settings_of
from hls_pipeline.settings import load
from hls_pipeline.uploads import IN_WORK, State
from tests.services import TO_FINAL, World, package, wait_until

ROOT = Path(__file__).resolve().parents[1]
BESIDE = "beside"
IN_FLIGHT, SHARES = 24, 20
LOOKS = 10
"""At the memory, in each share."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--single", type=int, default=15, help="packages dropped one by one")
    parser.add_argument("--batch", type=int, default=60, help="packages dropped at once")
    parser.add_argument("--growth", type=int, default=120, help="packages whose first share is compared with the last")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which the growth is shown as it is then")
    parser.add_argument("--only", choices=("latency", "throughput", "growth"), help="one measurement, not all")
    chosen = parser.parse_args()
    with production() as (world, data, description):
        one_by_one(world, 3)
        if chosen.only in (None, "latency"):
            by_gateway(world, description, 3)
            latency(world, description, chosen.single)
        if chosen.only in (None, "throughput"):
            throughput(world, data, chosen.batch)
        if chosen.only in (None, "growth"):
            growth(world, data, chosen.growth, chosen.minutes)


@contextmanager
def production() -> Iterator[tuple[World, Path, dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="bench-queue-") as folder:
        data = Path(folder) / "data"
        command = (sys.executable, "-m", "hls_pipeline.cli", "up", "--production", "--data", str(data))
        process = processes.start(command, os.environ, ROOT, Path(folder) / "log")
        try:
            wait_until(lambda: (data / "stack.json").exists() or process.poll() is not None, "the stack", 180)
            description = json.loads((data / "stack.json").read_text())
            settings = settings_of(load(data=data, ipfs_grace_seconds=0.0))
            yield World.of(settings), data, description
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def one_by_one(world: World, count: int) -> list[float]:
    """Seconds from `_READY` to the final document of each, none of which waits for another."""
    took = []
    for _ in range(count):
        video_id = new_video(world)
        began = time.monotonic()
        world.mark(video_id)
        wait_until(lambda: published(world, [video_id]), "the final document", 120)  # noqa: B023
        took.append(time.monotonic() - began)
        wait_until(lambda: quiet(world, [video_id]), "the clean-up", 120)  # noqa: B023
    return took


def latency(world: World, description: dict[str, Any], count: int) -> None:
    since = time.time()
    alone = beside(world)
    dropped, sent, whole, rest = [], [], [], []
    for _ in range(count):  # in turns, so that what else the machine does meets all of them
        dropped += one_by_one(world, 1)
        sent += by_gateway(world, description, 1)
        took, staged = walked(alone)
        whole.append(took)
        rest.append(took - staged)
    waits = queueing(description, since)
    for what, total, work in (("_READY", dropped, whole), ("202 of the gateway", sent, rest)):
        print(
            f"{what} to final: median {statistics.median(total):.2f} s, "
            f"the steps alone {statistics.median(work):.2f} s, "
            f"added {statistics.median(total) - statistics.median(work):.2f} s"
        )
    print(f"launch to worker: median {1000 * statistics.median(waits):.0f} ms, most {1000 * max(waits):.0f} ms")


def by_gateway(world: World, description: dict[str, Any], count: int) -> list[float]:
    """Seconds from the gateway's 202 to the final document of each, none of which waits for another."""
    took = []
    for _ in range(count):
        video_id = f"bench-{secrets.token_hex(6)}"
        files = [("files", (path, data)) for path, data in package(video_id).items()]
        answer = requests.post(
            f"{description['gateway']}/v1/videos?video_id={video_id}",
            files=files,
            headers={"Authorization": f"Bearer {description['api_key']}"},
            timeout=60,
        )
        assert answer.status_code == 202, answer.text
        began = time.monotonic()
        wait_until(lambda: published(world, [video_id]), "the final document", 120)  # noqa: B023
        took.append(time.monotonic() - began)
        wait_until(lambda: quiet(world, [video_id]), "the clean-up", 120)  # noqa: B023
    return took


def beside(world: World) -> World:
    """The same services with an inbox and a database that no sensor looks at."""
    server, _, _ = world.settings.database_url.rpartition("/")
    connection = psycopg2.connect(server.replace("+psycopg2", "") + "/postgres")
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE beside")
    connection.close()
    object_store.client(world.settings).create_bucket(Bucket=BESIDE)
    metadata_store.migrate(f"{server}/beside")
    return world.having(database_url=f"{server}/beside", s3_inbox=BESIDE)


def walked(world: World) -> tuple[float, float]:
    """Seconds that the same steps take in this process, without Dagster and without a queue: all of them, and those
    that the gateway takes before it answers."""
    video_id = f"beside-{secrets.token_hex(6)}"
    for path, data in {**package(video_id), keys.READY: b""}.items():
        world.objects.put(BESIDE, keys.inbox(video_id, path), data, "application/octet-stream")
    upload = world.take_up()
    began = time.monotonic()
    for step in TO_FINAL[:2]:
        world.step(step, upload)
    staged = time.monotonic() - began
    world.walk(upload)
    took = time.monotonic() - began
    world.step("clear_temp_storage", upload, "hand:clear")
    return took, staged


def queueing(description: dict[str, Any], since: float) -> Sequence[float]:
    """Seconds from Dagster's launch of a run to its start in a worker, as Dagster's own events say."""
    url = description["database"].replace("+psycopg2", "").rpartition("/")[0] + "/dagster"
    query = """
        SELECT extract(epoch FROM began.timestamp - launched.timestamp)
        FROM event_logs launched JOIN event_logs began USING (run_id)
        WHERE launched.dagster_event_type = 'PIPELINE_STARTING' AND began.dagster_event_type = 'PIPELINE_START'
          AND launched.timestamp > to_timestamp(%s) AT TIME ZONE 'UTC'
    """
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(query, (since,))
        return [float(row[0]) for row in cursor.fetchall()]


def throughput(world: World, data: Path, batch: int) -> None:
    before = cores(data)
    videos = [new_video(world) for _ in range(batch)]
    began = time.monotonic()
    for video_id in videos:
        world.mark(video_id)
    wait_until(lambda: published(world, videos), f"{batch} final documents", 600)
    seconds = time.monotonic() - began
    print(f"small packages per minute: {60 * batch / seconds:.0f} ({batch} in {seconds:.0f} s, dropped at once)")
    wait_until(lambda: quiet(world, videos), "the clean-up", 600)
    each = {role: (spent - before.get(role, 0.0)) / batch for role, spent in cores(data).items()}
    shown = ", ".join(f"{role} {spent:.2f}" for role, spent in sorted(each.items(), key=lambda item: -item[1]))
    print(f"seconds of a core per package: {sum(each.values()):.2f} ({shown}); 60 a minute on two cores leave 2")


def growth(world: World, data: Path, count: int, minutes: float) -> None:
    """Drops `count` packages, `IN_FLIGHT` at a time, and compares the first share of them with the last. What was found
    until `minutes` are over, or Ctrl-C or SIGTERM came, is shown too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    feed = Feed(world)
    feed.until(cleared=IN_FLIGHT)  # every process has worked before anything is measured
    deadline, size = time.monotonic() + 60 * minutes, max(2 * IN_FLIGHT, count // SHARES)
    shares: list[Share] = []
    with contextlib.suppress(KeyboardInterrupt):
        while len(shares) < count // size and time.monotonic() < deadline:
            share = measured(feed, data, size, deadline)
            if share is None:
                break
            shares.append(share)
            print(f"  {size * len(shares)} of {count} packages: {share}", flush=True)
    print(f"{feed.cleared - IN_FLIGHT} packages are published and cleared, {feed.lost} came to nothing")
    if len(shares) > 1:
        compare(shares[0], shares[-1])
    else:
        print(f"there is nothing to compare: a share is {size} packages, and {len(shares)} were complete")


@dataclass
class Feed:
    """Keeps `IN_FLIGHT` packages on their way."""

    world: World
    cleared: int = 0
    lost: int = 0
    on_their_way: set[str] = field(default_factory=set)

    def until(self, cleared: int, deadline: float = math.inf) -> bool:
        """Whether so many are cleared before the deadline."""
        while self.cleared < cleared:
            if time.monotonic() > deadline:
                return False
            while len(self.on_their_way) < IN_FLIGHT:
                video_id = new_video(self.world)
                self.world.mark(video_id)
                self.on_their_way.add(video_id)
            time.sleep(0.25)
            self.look()
        return True

    def drain(self) -> None:
        while self.on_their_way:
            time.sleep(0.25)
            self.look()

    def look(self) -> None:
        upload = tables.upload.c
        query = sa.select(upload.video_id, upload.state).where(upload.video_id.in_(self.on_their_way))
        with self.world.store.reading() as db:
            ended = [row for row in db.execute(query) if row.state not in {*IN_WORK, State.PUBLISHED}]
        self.on_their_way -= {row.video_id for row in ended}
        self.cleared += sum(row.state == State.CLEARED for row in ended)
        self.lost += sum(row.state != State.CLEARED for row in ended)


@dataclass(frozen=True)
class Share:
    """Of each package: seconds of the clock and, by role, of a core. Of each role: bytes, the median of many looks."""

    clock: float
    cores: dict[str, float]
    memory: dict[str, int]

    def __str__(self) -> str:
        sizes = ", ".join(f"{role} {size >> 20} MB" for role, size in self.memory.items())
        return f"{60 / self.clock:.0f} a minute, {sum(self.cores.values()):.2f} s of a core each; {sizes}"


def measured(feed: Feed, data: Path, size: int, deadline: float) -> Share | None:
    """None when the deadline came first."""
    before, began, first = cores(data), time.monotonic(), feed.cleared
    looks = [memory(data)]
    for part in range(1, LOOKS + 1):
        if not feed.until(first + size * part // LOOKS, deadline):
            return None
        looks.append(memory(data))
    done = feed.cleared - first
    spent = {role: (now - before.get(role, 0.0)) / done for role, now in cores(data).items()}
    sizes = {role: int(statistics.median(look[role] for look in looks)) for role in looks[0]}
    return Share((time.monotonic() - began) / done, spent, sizes)


def compare(first: Share, last: Share) -> None:
    for role, size in first.memory.items():
        grown = 100 * (last.memory[role] / size - 1)
        print(
            f"memory of {role}: first {size >> 20} MB, last {last.memory[role] >> 20} MB: {grown:+.1f} % (wanted: 10)"
        )
    costs = [("s of a core, all roles", sum(first.cores.values()), sum(last.cores.values()))]
    costs += [(f"s of a core, {role}", spent, last.cores.get(role, 0.0)) for role, spent in first.cores.items()]
    costs += [("s of the clock", first.clock, last.clock)]
    for what, early, late in costs:
        if early >= 0.01:
            print(f"a package costs {what}: first {early:.3f}, last {late:.3f}: {100 * (late / early - 1):+.1f} %")


ROLES = ("weed", "worker", "daemon", "code-server", "ui", "postgres", "rabbitmq", "ipfs_node", "gateway")
"""Words of their command lines, in the order in which they are looked for: weed has an option with `ui`."""


def memory(data: Path) -> dict[str, int]:
    """Resident bytes of the largest process of each role. What forked processes share becomes their own one by one, so
    that a sum would grow when a child is replaced."""
    sizes: dict[str, int] = {}
    for role, process in processes_of(data):
        if role in ("worker", "daemon", "code-server"):
            sizes[role] = max(sizes.get(role, 0), process.memory_info().rss)
    return sizes


def cores(data: Path) -> dict[str, float]:
    """Seconds of a core that each role has used so far."""
    spent: dict[str, float] = {}
    for role, process in processes_of(data):
        spent[role] = spent.get(role, 0.0) + sum(process.cpu_times())
    return spent


def processes_of(data: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Those of the stack, each with its role. PostgreSQL's children write their titles over their environment."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        if (process.info["environ"] or {}).get("HLS_DATA") == str(data):
            words = " ".join(process.info["cmdline"] or [])
            role = next((role for role in ROLES if role in words), "others")
            with contextlib.suppress(psutil.NoSuchProcess):
                yield role, process
                if role == "postgres":
                    yield from ((role, child) for child in process.children())


def new_video(world: World) -> str:
    """In the inbox, but for the mark."""
    video_id = f"bench-{secrets.token_hex(6)}"
    world.put(video_id, package(video_id))
    return video_id


def published(world: World, videos: Sequence[str]) -> bool:
    return all(state(world, video_id) in (State.PUBLISHED, State.CLEARED) for video_id in videos)


def quiet(world: World, videos: Sequence[str]) -> bool:
    return all(state(world, video_id) is State.CLEARED for video_id in videos)


def state(world: World, video_id: str) -> State | None:
    latest = world.store.latest_upload(video_id)
    return latest.state if latest else None


if __name__ == "__main__":
    main()
