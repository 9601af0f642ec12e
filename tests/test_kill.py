"""`kill -9` in the middle of each of the six steps: another process finishes, with nothing lost and nothing doubled.

A process of its own walks the path over the session's real services; one function of a step is wrapped so that it does
half of its work, or all of it, and then the process kills itself. Only the tests know of these points. Every single
statement of finalize and of the clean-up is in `test_finalize.py` and `test_cleanup.py`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from hls_pipeline import clock, drops, keys, metadata_store, steps, work
from hls_pipeline.hls.content_types import content_type
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.metadata_store import PATH, MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.staging import Reading
from hls_pipeline.uploads import Drop, State, Upload
from tests import crashes
from tests.services import MEDIA, TO_FINAL, Files, World, package, published, wait_until


def files_of(point: str) -> dict[str, bytes]:
    """Bytes that only this test has: the session's node keeps those of the others."""
    return {**package(point, segments=5), "notes.txt": b"kept"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_call(owner: Any, name: str, number: int = 1) -> None:
    """Dies when `name` has done its work for the `number`-th time."""
    work, calls = getattr(owner, name), iter(range(1, 1000))

    def wrapped(*args: Any, **options: Any) -> Any:
        result = work(*args, **options)
        if next(calls) == number:
            die()
        return result

    setattr(owner, name, wrapped)


def before_call(owner: Any, name: str) -> None:
    setattr(owner, name, lambda *_, **__: die())


def die_at_rename(number: int) -> None:
    """One rename after the other, so that so many are done and no more; the first of all is only a try."""
    ObjectStore.each = lambda _, work, items: [work(item) for item in items]  # type: ignore[method-assign]
    after_call(ObjectStore, "rename", number + 1)


def half_of_the_deletes() -> None:
    work = ObjectStore.delete

    def wrapped(self: ObjectStore, bucket: str, objects: Any) -> Any:
        wanted = list(objects)
        work(self, bucket, wanted[: len(wanted) // 2])
        die()

    ObjectStore.delete = wrapped  # type: ignore[method-assign,assignment]


def half_of_the_blocks() -> None:
    work = Kubo.import_blocks

    def wrapped(self: Kubo, blocks: Any, *args: Any) -> Any:
        def half() -> Any:
            for number, block in enumerate(blocks):
                if number == 2:
                    die()
                yield block

        return work(self, half(), *args)

    Kubo.import_blocks = wrapped  # type: ignore[method-assign]


POINTS: dict[str, tuple[str, Callable[[], None]]] = {
    "stage, accepted and nothing copied": ("stage", lambda: after_call(MetadataStore, "accept")),
    "stage, three files copied": ("stage", lambda: after_call(ObjectStore, "copy", 3)),
    "stage, everything copied": ("stage", lambda: before_call(drops, "take_out")),
    "stage, half of the inbox deleted": ("stage", half_of_the_deletes),
    "s3 manifest, one playlist put": ("write_s3_manifest", lambda: after_call(ObjectStore, "put")),
    "s3 manifest, version written": ("write_s3_manifest", lambda: after_call(MetadataStore, "staged")),
    "publish, some blocks sent": ("publish", half_of_the_blocks),
    "publish, pinned and not noted": ("publish", lambda: after_call(Kubo, "pin")),
    "ipfs manifest, some blocks sent": ("write_ipfs_manifest", half_of_the_blocks),
    "ipfs manifest, pinned and not noted": (
        "write_ipfs_manifest",
        lambda: before_call(MetadataStore, "record_published"),
    ),
    "finalize, inside its transaction": ("finalize", lambda: before_call(metadata_store.rows, "mark_due")),
    "finalize, document not mirrored": ("finalize", lambda: after_call(MetadataStore, "finalize")),
    "clean-up, half of the objects deleted": ("clear_temp_storage", half_of_the_deletes),
    "clean-up, rows not deleted": ("clear_temp_storage", lambda: before_call(MetadataStore, "objects_removed")),
}


def test_each_step_is_killed_at_least_twice() -> None:
    killed = [step for step, _ in POINTS.values()]
    assert {step for step in killed if killed.count(step) >= 2} == {*TO_FINAL, "clear_temp_storage"}
    assert all(hasattr(steps, step) for step in killed)


def killed_in(world: World, upload: Upload, point: str) -> None:
    """The path walked by another process, which dies at `point`."""
    assert crashes.exit_code(die_in, world.settings, upload.upload_id, point) == -signal.SIGKILL


def finish(world: World, upload: Upload) -> None:
    """What the two sensors start once the dead process's lease has run out, until nothing is left to do."""
    world.store.release_all()
    while world.store.upload(upload.upload_id).state is not State.CLEARED:
        if world.store.ready_to_run(clock.now()):
            world.walk(upload, holder=PATH + "second")
        else:
            assert world.store.due(clock.now())
            world.step("clear_temp_storage", upload, "hand:second")
    assert world.store.ready_to_run(clock.now()) + world.store.due(clock.now()) == ()


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_in(world: World, point: str) -> None:
    files = files_of(point)
    upload = world.drop("v", files)
    killed_in(world, upload, point)
    finish(world, upload)

    done = world.store.upload(upload.upload_id)
    assert (done.state, done.revision) == (State.CLEARED, 1)
    statuses = [json.loads(version.document)["status"] for version in world.store.versions("v")]
    assert statuses == ["processing", "ready"]
    assert [state for state, _, _ in world.store.history(upload.upload_id)] == [
        State.RECEIVED,
        State.STAGED,
        State.PINNED,
        State.PUBLISHED,
        State.CLEARED,
    ]
    inventory = [file.path for file in world.store.inventory(upload.upload_id)]
    assert sorted(inventory) == sorted(path for path in published(files) if path != "notes.txt")
    for path in inventory:
        assert world.from_gateway(f"{done.root}/{path}") == files[path]
    assert world.inbox() == set()
    assert world.media() == {"v/metadata.json", "v/r1/unreferenced/notes.txt"}
    assert world.read("v/r1/unreferenced/notes.txt") == b"kept"
    assert json.loads(world.read("v/metadata.json")) == world.document("v")
    assert world.document("v")["status"] == "ready"
    assert world.store.temp_objects(upload.upload_id) == ()
    assert world.receive() == ([], [])


def test_a_process_killed_while_it_refuses_a_package(world: World) -> None:
    files = {**files_of("refused"), "v/s1.ts": b"no media"}
    upload = world.drop("v", files)
    killed_in(world, upload, "stage, report put and not noted")
    world.store.release_all()
    assert world.store.ready_to_run(clock.now())
    assert world.walk(upload, holder=PATH + "second").state is State.REJECTED
    assert world.inbox() == {f"v/{path}" for path in files} | {"v/_READY", "v/_REJECTED.json"}
    assert world.media() == set()


@pytest.mark.parametrize("renamed", ["some", "all"])
def test_a_gateway_killed_while_it_renames_what_it_took_in(world: World, renamed: str) -> None:
    """What is under its final key already is no longer under the one that the upload names."""
    files = files_of(f"renamed {renamed}")
    upload = arrived(world, files)
    killed_in(world, upload, f"arrival, {renamed} renamed")
    there = world.media()
    left = {key for key in there if key.startswith(keys.ARRIVALS)}
    moved = {key for key in there if key.startswith(("v/r1/media", "v/r1/original"))}
    assert len(moved) + len(left) == len(files)
    assert len(left) == (2 if renamed == "all" else len(files) - 3), "metadata and what no playlist reaches are copied"
    finish(world, upload)
    done = world.store.upload(upload.upload_id)
    for path in published(files):
        if path != "notes.txt":
            assert world.from_gateway(f"{done.root}/{path}") == files[path]
    assert world.media() == {"v/metadata.json", "v/r1/unreferenced/notes.txt"}


def arrived(world: World, files: Files) -> Upload:
    """A package as the gateway has put it."""
    for path, data in files.items():
        world.objects.put(MEDIA, keys.arrival("a", path), data, content_type(path))
    objects = tuple(world.objects.listing(MEDIA, keys.arrival("a")))
    return world.store.receive(Drop("v", MEDIA, keys.arrival("a"), objects, clock.now()), clock.now())


def take_in(world: World, upload: Upload) -> None:
    profile, source = PROFILES[world.settings.ipfs_profile], drops.DropSource(world.objects, upload.drop)
    noted = {path: Reading.of(source.read(path), profile) for path in source.sizes()}
    with work.holding(upload, "gateway", world.store, world.settings, last=True) as lease:
        steps.stage(upload, lease, world.objects, world.nodes, world.store, world.settings, noted)


POINTS_OF_OTHERS: dict[str, tuple[str, Callable[[], None]]] = {
    "arrival, some renamed": ("arrival", lambda: die_at_rename(3)),
    "arrival, all renamed": ("arrival", lambda: before_call(MetadataStore, "objects_put")),
    "stage, report put and not noted": ("stage", lambda: after_call(drops, "refuse")),
}


def die_in(world: World, upload_id: str, point: str) -> None:
    step, prepare = {**POINTS, **POINTS_OF_OTHERS}[point]
    upload = world.store.upload(upload_id)
    if step == "arrival":
        prepare()
        take_in(world, upload)
        return
    names = [*TO_FINAL, "clear_temp_storage"]
    for name in names[: names.index(step)]:
        world.step(name, upload, PATH + "first")
    prepare()
    world.step(step, upload, PATH + "first" if step in TO_FINAL else "hand:first")


def test_a_process_killed_while_it_takes_out_an_unchanged_package(world: World) -> None:
    """Half of the second drop is deleted when the process dies; the rest must not stay in the inbox for ever."""
    first = world.publish_package("v", files_of("unchanged"))
    world.step("clear_temp_storage", first, "hand:clear")
    before = world.store.versions("v"), world.media()
    wait_until(lambda: (clock.now() - first.created_at).total_seconds() > 1.1, "another second, as S3 tells time")
    second = world.drop("v", files_of("unchanged"))
    killed_in(world, second, "stage, half of the inbox deleted")
    assert world.store.upload(second.upload_id).state is State.UNCHANGED
    assert world.inbox() != set()
    assert world.receive() == ([], ["v: a run takes out what was taken in"]), "nobody knows yet that it is dead"
    assert world.inbox() != set()
    world.store.release_all()
    assert world.receive() == ([], [])
    assert world.inbox() == set()
    assert (world.store.versions("v"), world.media()) == before
