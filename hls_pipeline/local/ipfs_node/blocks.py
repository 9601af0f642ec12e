"""Blocks on disk: one file per block, named by its SHA-256, written durably and verified on every read.

A block is written to a temporary file, synced, and renamed into one of 256 folders; the folders are synced when a
session is flushed, and only then may anybody be told that the block is there. So a crash at any point leaves whole
blocks and stray temporary files, which the next start removes. What blocks mean belongs to `dag`; pins to `pins`.

**Sessions and garbage.** Whoever needs blocks to stay (an import, an add, a pin being made) opens a session, and every
block it writes or finds gets a fresh timestamp under the gate, a lock that the collector holds for the length of one
look-and-remove. A collection fixes its horizon before it reads the pins: the earliest start of the sessions then open,
or now. It removes what no pin reaches *and* is older than the horizon. A block of an open session is newer; a block of
a session that ended before the horizon is reached by the pin that session made, or nobody asked to keep it. Nobody
waits for anybody: imports go on while garbage is collected. Timestamps come from one monotonic clock per process.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from hls_pipeline.errors import Corruption, NotFound, ServiceError
from hls_pipeline.ipfs.car import MAX_BLOCK
from hls_pipeline.ipfs.cid import IDENTITY, Cid

_WRITERS = 8
"""Threads that write and sync; on one disk more of them gain nothing (measured: 1 → 260 MiB/s, 4-16 → 1 GiB/s)."""
_IN_FLIGHT = 12
"""Blocks waiting to be written, over all sessions: at most 24 MiB."""
_COARSE_TIME = 2_000_000_000
"""Nanoseconds."""


class BlockMissing(NotFound):
    """The node does not hold a block. The words are those of Kubo offline."""

    def __init__(self, cid: Cid) -> None:
        super().__init__(f"block was not found locally (offline): ipld: could not find {cid}")
        self.cid = cid


class BlockStore:
    def __init__(self, repo: Path) -> None:
        """Open or create the blocks below `repo`, which the caller has locked. ServiceError if that cannot be."""
        self._blocks = repo / "blocks"
        self._temporary = repo / "tmp"
        self._numbers = itertools.count()
        self._gate = threading.Lock()
        self._sessions: dict[int, int] = {}
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._room = threading.BoundedSemaphore(_IN_FLIGHT)
        self._writers = ThreadPoolExecutor(_WRITERS, "block-writer")
        try:
            self._prepare()
        except OSError as error:
            raise ServiceError(f"the block store in {repo} cannot be used: {error}") from error

    def _prepare(self) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True)
        for stray in self._temporary.iterdir():
            stray.unlink()
        if not self._blocks.is_dir():
            fresh = self._temporary.with_name("blocks.new")
            for byte in range(256):
                (fresh / f"{byte:02x}").mkdir(parents=True, exist_ok=True)
            sync_folder(fresh)
            fresh.rename(self._blocks)
            sync_folder(self._blocks.parent)
            sync_folder(self._blocks.parent.parent)
        self._slack = 0 if self._keeps_nanoseconds() else _COARSE_TIME

    def _keeps_nanoseconds(self) -> bool:
        """Whether the file system keeps timestamps as they are set. Old ones round them down, by up to two seconds."""
        probe = self._temporary / "probe"
        probe.touch()
        os.utime(probe, ns=(1, 1))
        exact = probe.stat().st_mtime_ns == 1
        probe.unlink()
        return exact

    def close(self) -> None:
        """Let the writes under way end. New ones are refused."""
        self._writers.shutdown()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """While this is open, garbage collection leaves alone what it wrote or kept."""
        with self._gate:
            start = self.now()
            number = next(self._numbers)
            self._sessions[number] = start
        session = Session(self)
        try:
            yield session
        finally:
            session.wait()
            with self._gate:
                del self._sessions[number]

    def read(self, cid: Cid) -> bytes:
        """The block, hashed again. BlockMissing; Corruption if what lies on disk is not what was stored."""
        if cid.hash == IDENTITY:
            return cid.digest
        try:
            with open(self.path(cid), "rb", buffering=0) as file:
                data = file.read(MAX_BLOCK + 1)
        except FileNotFoundError as error:
            raise BlockMissing(cid) from error
        except OSError as error:
            raise Corruption(f"block {cid} cannot be read from disk: {error}") from error
        if not cid.verifies(data):
            raise Corruption(f"block {cid} is damaged on disk; import it again from another copy")
        return data

    def size(self, cid: Cid) -> int:
        """Bytes of the block, which is looked for but not read. BlockMissing."""
        if cid.hash == IDENTITY:
            return len(cid.digest)
        try:
            return self.path(cid).stat().st_size
        except FileNotFoundError as error:
            raise BlockMissing(cid) from error

    def usage(self) -> tuple[int, int]:
        """How many blocks there are and their bytes."""
        count = total = 0
        for entry in self._entries():
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                continue
            count += 1
        return count, total

    def horizon(self) -> int:
        """Read this before the pins: `sweep` then spares what open and later sessions touch."""
        with self._gate:
            return min((self.now(), *self._sessions.values())) - self._slack

    def sweep(self, keep: Container[bytes], horizon: int) -> Iterator[bytes]:
        """Remove the blocks whose digests are not in `keep` and that are older than `horizon`; yield their digests."""
        for entry in self._entries():
            digest = bytes.fromhex(entry.name)
            if digest not in keep and self._remove_if_older(Path(entry.path), horizon):
                yield digest

    def _remove_if_older(self, path: Path, horizon: int) -> bool:
        with self._gate:
            try:
                if path.stat().st_mtime_ns >= horizon:
                    return False
                path.unlink()
            except FileNotFoundError:  # another collection was quicker
                return False
            return True

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for folder in sorted(self._blocks.iterdir()):
            with os.scandir(folder) as entries:
                yield from entries

    def path(self, cid: Cid) -> Path:
        """Where the block is or would be. Content ids of one digest share one file, whatever their version or codec."""
        name = cid.digest.hex()
        return self._blocks / name[:2] / name

    def now(self) -> int:
        """Nanoseconds that never go back while the process lives, whatever happens to the system's clock."""
        return self._epoch + time.monotonic_ns()

    def submit(self, cid: Cid, data: bytes) -> Future[None]:
        """Begin to write a block whose hash was checked; waits while too many are under way."""
        self._room.acquire()
        try:
            future = self._writers.submit(self._write, self.path(cid), data)
        except RuntimeError as error:
            self._room.release()
            raise ServiceError("the node is stopping") from error
        future.add_done_callback(lambda _: self._room.release())
        return future

    def sync(self, folders: Iterable[Path]) -> list[Future[None]]:
        """Begin to make the names of the blocks in `folders` durable."""
        return [self._writers.submit(sync_folder, folder) for folder in folders]

    def touch(self, path: Path) -> bool:
        """Give a block a fresh timestamp, so that the collector spares it; False if it is not there."""
        now = self.now()
        with self._gate:
            try:
                os.utime(path, ns=(now, now))
            except FileNotFoundError:
                return False
        return True

    def _write(self, path: Path, data: bytes) -> None:
        """Write a block unless the same bytes are there: a damaged file is replaced, so importing again repairs it."""
        if self.touch(path) and _holds(path, data):
            return
        temporary = self._temporary / str(next(self._numbers))
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write_all(file, data)
                now = self.now()
                os.utime(file, ns=(now, now))
                os.fsync(file)
            finally:
                os.close(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class Session:
    """Blocks that one request needs. Get one from `BlockStore.session`; used by one thread."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._pending: list[Future[None]] = []
        self._folders: set[Path] = set()

    def put(self, cid: Cid, data: bytes) -> None:
        """Store a block whose hash was checked; durable after `flush`. ServiceError, also for an earlier block."""
        if cid.hash == IDENTITY:
            return
        if len(self._pending) > 2 * _IN_FLIGHT:
            self._settle(self._pending[:_IN_FLIGHT])
            del self._pending[:_IN_FLIGHT]
        self._folders.add(self._store.path(cid).parent)
        self._pending.append(self._store.submit(cid, data))

    def keep(self, cid: Cid) -> None:
        """Hold on to a block that is there. Whoever wrote it may not have flushed it: do so. BlockMissing."""
        if cid.hash == IDENTITY:
            return
        path = self._store.path(cid)
        if not self._store.touch(path):
            raise BlockMissing(cid)
        self._folders.add(path.parent)

    def flush(self) -> None:
        """Return when everything put or kept so far would survive a power cut. ServiceError."""
        pending, self._pending = self._pending, []
        self._settle(pending)
        folders, self._folders = self._folders, set()
        self._settle(self._store.sync(folders))

    def wait(self) -> None:
        """Return when no write of this session is under way any more, whatever became of it."""
        for future in self._pending:
            future.exception()

    @staticmethod
    def _settle(futures: list[Future[None]]) -> None:
        wait(futures)  # all of them: whoever hears of a failure finds no other write still under way
        for future in futures:
            try:
                future.result()
            except OSError as error:
                # In small letters as Go has it: clients look for "no space left on device".
                reason = (error.strerror or str(error)).lower()
                raise ServiceError(f"a block could not be written: {reason}") from error


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
