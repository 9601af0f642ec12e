"""The commands of the RPC but `add`: each a generator that emits what Kubo emits, field by field.

`Call` gives arguments and options; what is done to stored DAGs is in `node`. The order of fields, and which ones are
left out when empty, are Kubo's. Source: kubo 0.43 core/commands; every shape was compared with the answers of a daemon.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from hls_pipeline.errors import Corruption, PipelineError, ServiceError, UserError
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import links
from hls_pipeline.local.ipfs_node.adding import add
from hls_pipeline.local.ipfs_node.blocks import Session
from hls_pipeline.local.ipfs_node.carv2 import version_1
from hls_pipeline.local.ipfs_node.multipart import Part, parts
from hls_pipeline.local.ipfs_node.node import AGENT, walk
from hls_pipeline.local.ipfs_node.pins import Mode, checked_name
from hls_pipeline.local.ipfs_node.rpc import Call, Entry

_PROGRESS_EVERY = 0.5
"""Seconds between two signs of life of `pin/add`."""

Object = Mapping[str, Any]


def version(call: Call) -> Iterator[Object]:
    system = f"{platform.machine()}/{platform.system().lower()}"
    yield {"Version": AGENT, "Commit": "", "Repo": "1", "System": system, "Golang": ""}


def identify(call: Call) -> Iterator[Object]:
    yield {"ID": call.node.id, "PublicKey": "", "Addresses": None, "AgentVersion": AGENT, "Protocols": None}


def block_stat(call: Call) -> Iterator[Object]:
    cid = call.node.resolve(call.arguments[0], call.load)
    yield {"Key": str(cid), "Size": len(call.load(cid))}


def block_get(call: Call) -> Iterator[bytes]:
    yield call.load(call.node.resolve(call.arguments[0], call.load))


def dag_export(call: Call) -> Iterator[bytes]:
    root = call.node.resolve(call.arguments[0], call.load)
    call.load(root)
    return car.write_car([root], walk([root], call.load))


def dag_stat(call: Call) -> Iterator[Object]:
    """Every block of the DAGs, read and hashed: after this they are known to be whole."""
    progress = call.flag("progress", True)
    unique: set[bytes] = set()
    total = redundant = 0
    stats: list[dict[str, Any]] = []
    for argument in call.arguments:
        root = call.node.resolve(argument, call.load)
        call.load(root)
        stat: dict[str, Any] = {"Cid": str(root), "Size": 0, "NumBlocks": 0}
        stats.append(stat)
        try:
            for cid, data in walk([root], call.load):
                stat["Size"] += len(data)
                stat["NumBlocks"] += 1
                redundant += len(data)
                if bytes(cid) not in unique:
                    unique.add(bytes(cid))
                    total += len(data)
                if progress:
                    yield {"TotalSize": total, "DagStats": stats}
        except PipelineError as error:
            raise ServiceError(f"error traversing DAG: {error}") from error
    yield _summary(len(unique), total, redundant, stats)


def _summary(blocks: int, total: int, redundant: int, stats: list[dict[str, Any]]) -> Object:
    numbers: dict[str, float] = {"UniqueBlocks": blocks, "TotalSize": total, "SharedSize": redundant - total}
    if total:
        ratio = redundant / total
        numbers["Ratio"] = int(ratio) if ratio.is_integer() else ratio
    return {**{name: number for name, number in numbers.items() if number}, "DagStats": stats}


def dag_import(call: Call) -> Iterator[Object]:
    """Blocks of any number of CARs: each verified, all of them durable before the first answer."""
    pin_roots, stats = call.flag("pin-roots", True), call.flag("stats")
    roots: dict[Cid, None] = {}
    blocks = size = 0
    with call.node.store.session() as session:
        for part in parts(call.request):
            for cid, data in _blocks(part, roots):
                call.check_time()
                session.put(cid, data)
                blocks, size = blocks + 1, size + len(data)
        session.flush()
        for root in roots if pin_roots else ():
            yield {"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": _pin_error(call, root, session)}}
        if stats:
            yield {"Stats": {"BlockCount": blocks, "BlockBytesCount": size}}


def _blocks(part: Part, roots: dict[Cid, None]) -> Iterator[car.Block]:
    """The blocks of one CAR; its roots are added to `roots`. Corruption says after which block it broke."""
    previous: Cid | None = None
    try:
        stream = version_1(part)
        roots.update(dict.fromkeys(car.read_roots(stream)))
        for cid, data in car.read_blocks(stream):
            links(cid, data)  # a block whose children cannot be read could never be pinned
            yield cid, data
            previous = cid
    except (Corruption, UserError) as error:
        after = f' after block "{previous}"' if previous else ""
        raise Corruption(f"import failed{after}: {error}") from error


def _pin_error(call: Call, root: Cid, session: Session) -> str:
    try:
        for _ in call.node.pinning(root, "recursive", "", session):
            call.check_time()
    except PipelineError as error:
        return str(error)
    return ""


def pin_add(call: Call) -> Iterator[Object]:
    """The pin is written when its whole DAG was found; until then an older pin on it stays."""
    name = checked_name(call.text("name"))
    mode: Mode = "recursive" if call.flag("recursive", True) else "direct"
    progress = call.flag("progress")
    pinned: list[str] = []
    count = size = 0
    latest = time.monotonic()
    with call.node.store.session() as session:
        for argument in call.arguments:
            cid = call.node.resolve(argument, call.load)
            try:
                for _, length in call.node.pinning(cid, mode, name, session):
                    call.check_time()
                    count, size = count + 1, size + length
                    if progress and time.monotonic() > latest + _PROGRESS_EVERY:
                        yield {"Progress": count, "Bytes": size}
                        latest = time.monotonic()
            except PipelineError as error:
                raise ServiceError(f"pin: {error}") from error
            pinned.append(str(cid))
    if progress and count:
        yield {"Progress": count, "Bytes": size}
    yield {"Pins": pinned}


def pin_rm(call: Call) -> Iterator[Object]:
    recursive = call.flag("recursive", True)
    removed = []
    for argument in call.arguments:
        cid = call.node.resolve(argument, call.load)
        call.node.unpin(cid, recursive)
        removed.append(str(cid))
    yield {"Pins": removed}


def pin_update(call: Call) -> Iterator[Object]:
    old, new = (call.node.resolve(argument, call.load) for argument in call.arguments[:2])
    with call.node.store.session() as session:
        for _ in call.node.updating(old, new, call.flag("unpin", True), session):
            call.check_time()
    yield {"Pins": [str(old), str(new)]}


def pin_ls(call: Call) -> Iterator[Object]:
    kind = call.text("type", "all")
    if kind not in ("direct", "indirect", "recursive", "all"):
        raise UserError(f"invalid type '{kind}', must be one of {{direct, indirect, recursive, all}}")
    part = call.text("name")
    named = call.flag("names") or bool(part)
    found = _asked(call, kind) if call.arguments else _listed(call, kind, part)
    shown = ((str(cid), pinned_as, name if named else "") for cid, pinned_as, name in found)
    if call.flag("stream"):
        for cid, pinned_as, name in shown:
            yield {"Cid": cid, **({"Name": name} if name else {}), "Type": pinned_as}
        return
    keys = {cid: {"Type": pinned_as, "Name": name} for cid, pinned_as, name in shown}
    yield {"Keys": keys} if keys else {}


_Listed = tuple[Cid, str, str]
"""Content id, how it is pinned, and the pin's name."""


def _asked(call: Call, kind: str) -> list[_Listed]:
    """How each argument is pinned. UserError if one is not, or not in this way."""
    return [_how(call, argument, kind) for argument in call.arguments]


def _how(call: Call, argument: str, kind: str) -> _Listed:
    cid = call.node.resolve(argument, call.load)
    pin = call.node.pins.get(cid)
    if pin and kind in ("all", pin.mode):
        return cid, pin.mode, pin.name
    if kind in ("all", "indirect"):
        for below, root in call.node.indirect():
            call.check_time()
            if below == cid:
                return cid, f"indirect through {root}", ""
    raise UserError(f"path '{argument}' is not pinned")


def _listed(call: Call, kind: str, part: str) -> Iterator[_Listed]:
    pins = call.node.pins.all()
    for pin in pins:
        if kind in ("all", pin.mode) and part in pin.name:
            yield pin.cid, pin.mode, pin.name
    if kind in ("all", "indirect") and not part:
        roots = {pin.cid for pin in pins}
        for cid, _ in call.node.indirect():
            call.check_time()
            if cid not in roots:
                yield cid, "indirect", ""


def repo_stat(call: Call) -> Iterator[Object]:
    """`StorageMax` is what there could be: the blocks and the room that the disk has left."""
    count, size = call.node.store.usage()
    most = size + shutil.disk_usage(call.node.repo).free
    if call.flag("size-only"):
        yield {"RepoSize": size, "StorageMax": most, "NumObjects": 0, "RepoPath": "", "Version": ""}
        return
    path = str(call.node.repo)
    yield {"RepoSize": size, "StorageMax": most, "NumObjects": count, "RepoPath": path, "Version": "embedded@1"}


def repo_gc(call: Call) -> Iterator[Object]:
    silent = call.flag("silent")
    for cid in call.node.collect_garbage():
        if not silent:
            yield {"Key": {"/": str(cid)}}


COMMANDS: Mapping[str, Entry] = {
    "version": Entry(version, single=True),
    "id": Entry(identify, single=True),
    "add": Entry(add, files=True),
    "block/get": Entry(block_get, ("cid",), content_type="application/vnd.ipld.raw"),
    "block/stat": Entry(block_stat, ("cid",), single=True),
    "dag/export": Entry(dag_export, ("root",), content_type="application/vnd.ipld.car"),
    "dag/import": Entry(dag_import, files=True),
    "dag/stat": Entry(dag_stat, ("root",)),
    "pin/add": Entry(pin_add, ("ipfs-path",)),
    "pin/ls": Entry(pin_ls),
    "pin/rm": Entry(pin_rm, ("ipfs-path",), single=True),
    "pin/update": Entry(pin_update, ("from-path", "to-path"), single=True),
    "repo/gc": Entry(repo_gc),
    "repo/stat": Entry(repo_stat, single=True),
}
