"""The node behind both ports: its repository, and what pinning and collecting garbage mean.

Add here what changes or walks stored DAGs; what a request looks like belongs to `rpc` and `gateway`. A walk yields each
block once, parents before children and siblings in their order, as Kubo's exports do. The node talks to nobody: what
it does not hold is missing.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from hls_pipeline.errors import NotFound, ServiceError, UsageError, UserError
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import RAW, Cid
from hls_pipeline.ipfs.unixfs import links, resolve
from hls_pipeline.local.ipfs_node.blocks import BlockMissing, BlockStore, Session, sync_folder
from hls_pipeline.local.ipfs_node.pins import Mode, Pin, Pins

AGENT = "hls-pipeline-embedded/0.1.0"
"""What the node calls itself, so that nobody takes it for Kubo or expects peers of it."""

Load = Callable[[Cid], bytes]
Seen = tuple[Cid, int]
"""A block of a walk and its bytes."""


class Node:
    def __init__(self, repo: Path, gc_grace: float = 0) -> None:
        """Open or create a repository, alone. `gc_grace`: seconds for which a collection spares unpinned blocks.

        UsageError if another node has it, ServiceError if it cannot be used.
        """
        self.repo = repo.absolute()
        self.gc_grace = gc_grace
        self._lock = _lock(self.repo)
        self.id = _identity(self.repo)
        self.store = BlockStore(self.repo)
        self.pins = Pins(self.repo)

    def close(self) -> None:
        self.store.close()
        self.pins.close()
        os.close(self._lock)

    def pinning(self, cid: Cid, mode: Mode, name: str, session: Session) -> Iterator[Seen]:
        """Pin a DAG, or one block, that is here: yields each block walked; the pin stands once this is exhausted.

        BlockMissing and Corruption leave what was pinned before as it was.
        """
        before = self.pins.get(cid)
        if mode == "direct" and before and before.mode == "recursive":
            raise UserError(f"{cid} already pinned recursively")
        yield from self._holding(cid, mode, session)
        self.pins.put(Pin(cid, mode, name))

    def updating(self, old: Cid, new: Cid, unpin: bool, session: Session) -> Iterator[Seen]:
        """Pin `new` under the name of `old`, whose pin goes if told to, as Kubo's `pin update`. See `pinning`."""
        before = self.pins.get(old)
        if before is None or before.mode != "recursive":
            raise UserError("'from' cid was not recursively pinned already")
        if old == new:
            return
        existing = self.pins.get(new)
        if existing and existing.mode == "recursive":
            raise UserError("'to' cid was already recursively pinned")
        yield from self._holding(new, "recursive", session)
        self.pins.put(Pin(new, "recursive", before.name), instead_of=old if unpin else None)

    def unpin(self, cid: Cid, recursive: bool) -> None:
        before = self.pins.get(cid)
        if before is None:
            raise UserError("not pinned or pinned indirectly")
        if before.mode == "recursive" and not recursive:
            raise UserError(f"{cid} is pinned recursively")
        self.pins.remove(cid)

    def _holding(self, cid: Cid, mode: Mode, session: Session) -> Iterator[Seen]:
        """Keep a DAG from the collector while it is walked. Raw leaves are looked for, link nodes are read."""

        def load(block: Cid) -> bytes:
            session.keep(block)
            return self._skeleton(block)

        for block, _ in walk([cid], load) if mode == "recursive" else [(cid, load(cid))]:
            yield block, self.store.size(block)
        session.flush()

    def indirect(self) -> Iterator[tuple[Cid, Cid]]:
        """Every block below a recursive pin, once, with the pin that holds it."""
        seen: set[bytes] = set()
        for pin in self.pins.all():
            if pin.mode == "recursive":
                for cid, _ in walk([pin.cid], self._skeleton, seen):
                    if cid != pin.cid:
                        yield cid, pin.cid

    def collect_garbage(self) -> Iterator[Cid]:
        """Remove what no pin and no session needs; yield each removed block as a raw content id.

        Nothing is removed if a pinned DAG cannot be read to its end: BlockMissing, Corruption.
        """
        horizon = self.store.horizon() - int(self.gc_grace * 1e9)
        pins = self.pins.all()
        keep = {pin.cid.digest for pin in pins}
        roots = (pin.cid for pin in pins if pin.mode == "recursive")
        keep.update(cid.digest for cid, _ in walk(roots, self._skeleton))
        return (Cid(1, RAW, digest) for digest in self.store.sweep(keep, horizon))

    def _skeleton(self, cid: Cid) -> bytes:
        return b"" if cid.codec == RAW else self.store.read(cid)

    def resolve(self, path: str, load: Load | None = None) -> Cid:
        """The content id that `CID`, `/ipfs/CID/…`, `ipfs://CID/…` or `CID/…` names. UserError; NotFound."""
        parts = [part for part in path.removeprefix("ipfs:/").removeprefix("/ipfs").split("/") if part]
        if path.startswith("ipfs://"):
            parts = [unquote(part, errors="surrogateescape") for part in parts]
        if not parts:
            raise UserError(f'invalid path "{path}": path does not have enough components')
        try:
            root = Cid.parse(parts[0])
        except UserError as error:
            raise UserError(f'invalid path "{path[:200]}": {error}') from error
        return self.descend(root, parts[1:], load)

    def descend(self, root: Cid, names: Iterable[str], load: Load | None = None) -> Cid:
        """The content id at a path below a directory. NotFound in Kubo's words."""
        at = root
        for name in names:
            try:
                at = resolve(at, [name], load or self.store.read)
            except BlockMissing:
                raise
            except NotFound as error:
                raise NotFound(f'no link named "{name}" under {at}') from error
        return at


def walk(roots: Iterable[Cid], load: Load, seen: set[bytes] | None = None) -> Iterator[Block]:
    """The blocks of DAGs, each once, depth first and parents first. What `load` raises passes; Corruption."""
    seen = set() if seen is None else seen
    branches: list[Iterator[Cid]] = [iter(roots)]
    while branches:
        cid = next(branches[-1], None)
        if cid is None:
            branches.pop()
        elif bytes(cid) not in seen:
            seen.add(bytes(cid))
            data = load(cid)
            yield cid, data
            branches.append(iter(links(cid, data)))


def _lock(repo: Path) -> int:
    """Hold the repository until the process ends, however it ends."""
    try:
        repo.mkdir(parents=True, exist_ok=True)
        handle = os.open(repo / "repo.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ServiceError(f"the repository {repo} cannot be used: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise UsageError(f"another node is using {repo}; stop it, or give this one its own --repo") from error
    return handle


def _identity(repo: Path) -> str:
    """A name for this repository that receipts can rely on. It is no peer id: there is no key behind it."""
    file = repo / "id"
    try:
        if not file.exists() or not file.read_text().strip():
            fresh = file.with_suffix(".new")
            with open(fresh, "w") as waiting:
                waiting.write(f"embedded-{uuid.uuid4().hex}\n")
                waiting.flush()
                os.fsync(waiting.fileno())
            fresh.replace(file)
            sync_folder(repo)
        return file.read_text().strip()
    except OSError as error:
        raise ServiceError(f"the repository {repo} cannot be used: {error}") from error
