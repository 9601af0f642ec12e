"""Random sequences of drops, crashes, re-drops, withdrawals, clean-ups, collections of garbage and lost blocks.

A worker may die before anything it says, or sleep there: its lease runs out, others do something, and then it goes on.
After each of them every byte of every current revision is on S3, or proven on IPFS by reading it back; the chains of
versions verify. In the end everything that can go on has ended, and S3 and the node hold what is on record and no more.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hls_pipeline import audit, clock, keys, rehydration, replicas, tables, withdrawal, work
from hls_pipeline.errors import Conflict, DropChanged, LeaseLost, NotFound, PipelineError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.metadata_store import PATH
from hls_pipeline.uploads import IN_WORK, State, Upload
from tests import crashes
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import MEDIA, TO_FINAL, Files, World, package

VIDEOS = ("a", "b")
PACKAGES = [package(f"random {number}", segments=2) for number in range(3)]
OPERATIONS = 40


def etag(data: bytes) -> str:
    """What S3 says of an object that was put in one piece."""
    return f'"{hashlib.md5(data).hexdigest()}"'


class Crash(BaseException):
    """The process dies: nothing catches this, as nothing catches a kill."""


def run() -> str:
    """A run's id: whoever wakes up late must not be taken for another."""
    return uuid.uuid4().hex


@dataclass
class History:
    """One world, what was sent to it, and what happens next."""

    world: World
    node: EmbeddedNode
    repo: Path
    chance: random.Random
    sleeps: bool
    """Workers fall asleep instead of dying."""
    sent: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """(inbox key, ETag) → what the creator put there."""
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fuse = crashes.Fuse(self.strike)
        self.fuse.in_transactions = not self.sleeps  # who sleeps in one has the database locked
        self.fuse.lay(self.world)

    def operate(self) -> None:
        self.fuse.left = self.chance.randint(1, 20) if self.chance.random() < 0.6 else None
        self.do_something()
        self.fuse.left = None
        self.world.store.release_all()
        self.check()

    def do_something(self) -> None:
        operation = self.chance.choices(
            [self.drop, self.go_on, self.clear, self.withdraw, self.rehydrate, self.collect_garbage, self.lose_a_block],
            weights=[
                4,
                12,
                4,
                1,
                1,
                2,
                0 if self.sleeps else 3,
            ],  # who sleeps on a proof cannot know what is lost since
        )[0]
        self.told.append(operation.__name__)
        try:
            operation()
        except Crash:
            self.told.append("it dies")
        except PipelineError as error:
            self.told.append(repr(error))

    def strike(self) -> None:
        if not self.sleeps:
            raise Crash
        self.told.append("it falls asleep")
        for _ in range(self.chance.randint(1, 3)):
            self.world.store.release_all()
            self.do_something()
            self.check()
        self.told.append("it wakes up")

    # what may happen

    def drop(self) -> None:
        """A creator whose folder is not marked yet, because they died, sends the package again."""
        video_id = self.chance.choice(VIDEOS)
        if keys.inbox(video_id, keys.READY) not in self.world.inbox():
            self.send(video_id, self.chance.choice(PACKAGES))
        self.world.receive()

    def send(self, video_id: str, files: Files) -> None:
        for path, data in files.items():
            self.sent[keys.inbox(video_id, path), etag(data)] = data
        self.world.put(video_id, files)
        self.world.mark(video_id)

    def go_on(self) -> None:
        if ready := self.ready():
            upload = self.chance.choice(ready)
            steps = self.chance.randint(1, len(TO_FINAL))
            self.world.walk(upload, *self.next_steps(upload)[:steps], holder=PATH + run())

    def clear(self) -> None:
        if due := self.world.store.due(clock.now() + timedelta(hours=1)):
            self.world.step("clear_temp_storage", self.chance.choice(due), f"hand:{run()}")

    def withdraw(self) -> None:
        world = self.world
        with suppress(NotFound, Conflict):
            withdrawal.withdraw(
                self.chance.choice(VIDEOS),
                actor="person",
                reason="at random",
                objects=world.objects,
                nodes=world.nodes,
                store=world.store,
                settings=world.settings,
            )

    def rehydrate(self) -> None:
        upload = self.world.store.current_upload(self.chance.choice(VIDEOS))
        if upload and self.chance.random() < 0.5:
            self.give_up(upload)
        elif upload:
            world = self.world
            with work.holding(upload, f"hand:{run()}", world.store, world.settings, last=True) as lease:
                rehydration.rehydrate(upload, lease, world.objects, world.nodes, world.store, world.settings)

    def give_up(self, upload: Upload) -> None:
        with work.holding(upload, f"hand:{run()}", self.world.store, self.world.settings, last=True) as lease:
            rehydration.give_up(lease, self.world.store)

    def collect_garbage(self) -> None:
        self.node.call("repo/gc")

    def lose_a_block(self) -> None:
        """The node's disk fails where S3 has the same bytes still, and on record, of every video that needs them."""
        there = {(keys.s3_uri(MEDIA, item.key), item.etag) for item in self.world.objects.listing(MEDIA)}
        safe, needed = set[str](), set[str]()
        uploads = (upload for name in filter(self.knows, VIDEOS) for upload in self.world.store.uploads_of(name))
        for upload in uploads:
            if upload.state in (State.PUBLISHED, State.CLEARED):
                on_record = {(item.cid, item.etag) for item in self.world.store.temp_objects(upload.upload_id)}
                originals = self.originals(upload)
                for file in self.world.store.inventory(upload.upload_id):
                    copy = (keys.s3_uri(MEDIA, file.key or ""), etag(originals[file.path]))
                    (safe if copy in there & on_record else needed).add(file.cid)
        if lost := sorted(safe - needed):
            ipfs_node_fixture.block_file(self.repo, Cid.parse(self.chance.choice(lost))).unlink(missing_ok=True)

    # how it goes on

    def ready(self) -> list[Upload]:
        return list(self.world.store.ready_to_run(clock.now() + timedelta(hours=1)))

    @staticmethod
    def next_steps(upload: Upload) -> tuple[str, ...]:
        """A run does the whole path, however far the upload has come."""
        return TO_FINAL if upload.state in IN_WORK else TO_FINAL[-1:]

    def end(self) -> None:
        """Everything that can go on does."""
        store = self.world.store
        for _ in range(20):
            for video_id in {key.split("/")[0] for key in self.world.inbox()}:
                self.send(video_id, PACKAGES[0])
            self.world.receive()
            for video_id in VIDEOS:
                for upload in store.uploads_of(video_id) if self.knows(video_id) else ():
                    if upload.state is State.FAILED:
                        store.resume(upload.upload_id, clock.now())
                    elif upload.state is State.CLEARED:
                        self.give_up(upload)
            for upload in self.ready():
                with suppress(DropChanged):
                    self.world.walk(upload, *self.next_steps(upload))
            for upload in store.due(clock.now() + timedelta(hours=1)):
                with suppress(LeaseLost):
                    self.world.step("clear_temp_storage", upload, f"hand:{run()}")
            self.check()
            if not self.ready() and not store.due(clock.now() + timedelta(days=2)) and not self.world.inbox():
                return
        raise AssertionError("it does not come to an end", self.told)

    # what must be so

    def knows(self, video_id: str) -> bool:
        return self.world.store.latest_upload(video_id) is not None

    def check(self) -> None:
        assert audit.verify(audit.on_record(self.world.store)).holds, self.told
        etags = {item.key: item.etag for item in self.world.objects.listing(MEDIA)}
        for video_id in filter(self.knows, VIDEOS):
            current = self.world.store.current(video_id)
            if current is None or json.loads(current.document)["status"] == "withdrawn":
                continue
            (upload,) = (u for u in self.world.store.uploads_of(video_id) if u.revision == current.revision)
            originals = self.originals(upload)
            files = self.world.store.inventory(upload.upload_id)
            if any(etags.get(file.key or "") != etag(originals[file.path]) for file in files):
                assert upload.state in (State.PUBLISHED, State.CLEARED), self.told
                self.check_proven(upload, originals)

    def originals(self, upload: Upload) -> Files:
        """What the creator sent."""
        drop = upload.drop
        return {drop.path(item): self.sent[item.key, item.etag] for item in drop.objects}

    def check_proven(self, upload: Upload, originals: Files) -> None:
        for root in (upload.root, upload.record):
            replicas.read_back(self.world.nodes[0], root or "")
        for file in self.world.store.inventory(upload.upload_id):
            original = f"{upload.record}/{keys.record_original(file.path)}"
            address = original if file.is_playlist else f"{upload.root}/{file.path}"
            assert self.world.from_gateway(address) == originals[file.path], self.told

    def check_nothing_is_over(self) -> None:
        """S3 has what is on record and the mirrored documents; the node has pinned what is claimed."""
        with self.world.store.reading() as db:
            rows = set(db.execute(sa.select(tables.temp_storage.c.cid)).scalars())
            claimed = set(db.execute(sa.select(tables.claim.c.root)).scalars())
        documents = {f"s3://{MEDIA}/{keys.current_document(video_id)}" for video_id in VIDEOS}
        there = {keys.s3_uri(MEDIA, key) for key in self.world.media()}
        assert there - documents == rows, self.told
        assert self.node.names_of_pins().keys() == claimed, self.told
        for video_id in filter(self.knows, VIDEOS):
            current = self.world.store.current(video_id)
            withdrawn = current is None or json.loads(current.document)["status"] == "withdrawn"
            assert (keys.s3_uri(MEDIA, keys.current_document(video_id)) in there) is not withdrawn, self.told


@pytest.fixture
def history(world: World, tmp_path: Path) -> Iterator[Callable[[int, bool], History]]:
    with ipfs_node_fixture.running(tmp_path / "ipfs") as node:
        own = world.having(ipfs_rpc_urls=(f"http://{node.rpc}",), ipfs_gateway_urls=(f"http://{node.gateway}",))
        yield lambda seed, sleeps: History(own, node, tmp_path / "ipfs", random.Random(seed), sleeps)


@pytest.mark.parametrize("sleeps", [False, True], ids=["workers die", "workers wake up late"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_no_byte_of_a_current_revision_is_missing(
    history: Callable[[int, bool], History], seed: int, sleeps: bool
) -> None:
    happening = history(seed, sleeps)
    for _ in range(OPERATIONS):
        happening.operate()
    happening.end()
    happening.check_nothing_is_over()
    assert {"it dies", "it wakes up"} & {*happening.told}
