"""Is a node fit to be trusted with the only copy? What is wrong with it, and what to change.

`judge` asks a running node about itself and leaves one tiny block there, by which its gateway is known. What a node
does not let us see is a finding too. Only Kubo is asked for its configuration: other nodes that speak its RPC have
none. Sources: kubo docs/config.md, docs/datastores.md, core/commands/{config,sysdiag}.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hls_pipeline.errors import ServiceError, ServiceRefused
from hls_pipeline.ipfs.kubo import Kubo, RepoStat
from hls_pipeline.ipfs.proof import require_own_gateway

MINIMUM_VERSION = (0, 43, 1)
"""Older ones have known security faults and other directory shards."""
_ROOM = 1 << 30
"""Bytes that must be free for the next package."""
_GIB = 1 << 30
_BATCH, _SLICES = 128, 4
"""Kubo's blocks per batch, and into how many of these we let it be cut before we say something."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    ok: bool
    detail: str
    advice: str = ""
    """What to change; also for what is good enough but could be better."""


def judge(node: Kubo, profile: str = "unixfs-v1-2025") -> list[Finding]:
    """Everything there is to say about a node, the worst first. `profile` is the one we compute content ids by. Raises
    Outage when it does not answer at all."""
    version = node.version()
    findings = [_version(version), _gateway(node), _room(node.repo_stat())]
    if _number(version):
        findings += _configured(node, profile)
    return sorted(findings, key=lambda finding: (finding.ok, not finding.advice))


def _number(version: str) -> tuple[int, ...] | None:
    """Kubo's own; others put a name in front."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else None


def _version(version: str) -> Finding:
    number, wanted = _number(version), ".".join(map(str, MINIMUM_VERSION))
    if number and number < MINIMUM_VERSION:
        return Finding("version", False, f"it is Kubo {version}", f"update it to {wanted} or newer")
    return Finding("version", True, version)


def _gateway(node: Kubo) -> Finding:
    try:
        require_own_gateway(node)
    except ServiceError as error:
        return Finding("gateway", False, str(error), "check HLS_IPFS_GATEWAY_URLS and the node's Addresses.Gateway")
    return Finding("gateway", True, "it serves what the node has")


def _room(repository: RepoStat) -> Finding:
    stored = f"{repository.bytes / _GIB:.2f} GiB stored"
    if 0 < repository.limit < repository.bytes + _ROOM:
        detail = f"{stored}, of at most {repository.limit / _GIB:.2f} GiB"
        return Finding("space", False, detail, "raise Datastore.StorageMax, or unpin and collect what is not needed")
    return Finding("space", True, stored)


def _configured(node: Kubo, profile: str) -> Iterator[Finding]:
    system = _system(node)
    try:
        config = node.tell("config/show")
    except ServiceRefused:
        advice = "look at it on the node itself: Datastore.Spec sync, Gateway.NoFetch, Import, no --enable-gc"
        yield Finding("configuration", True, "the node does not show it to us", advice)
    else:
        yield _sync(_part(config, "Datastore").get("Spec"))
        yield _mending(_part(config, "Datastore"))
        yield _no_fetch(_part(config, "Gateway"))
        yield _profile(_part(config, "Import"), profile)
        yield from _batches(_part(config, "Import"), _part(system, "runtime").get("numcpu"))
    yield _garbage_collection(node)
    yield from _disk(node.repo_stat(), _part(system, "diskinfo"))


def _system(node: Kubo) -> Mapping[str, Any]:
    try:
        return node.tell("diag/sys")
    except ServiceError:
        return {}


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _sync(spec: object) -> Finding:
    if any(not store.get("sync") for store in _flatfs(spec)):
        advice = 'set "sync": true for flatfs in Datastore.Spec (config only, no migration) and restart it'
        return Finding(
            "durability", False, "a power cut can empty blocks that it said it has: flatfs sync is off", advice
        )
    return Finding("durability", True, "blocks are synced to its disk")


def _mending(datastore: Mapping[str, Any]) -> Finding:
    if datastore.get("BlockKeyCacheSize") != 0:
        advice = "set Datastore.BlockKeyCacheSize to 0 and restart it; a restart alone lets nothing be mended"
        return Finding("mending", True, "its cache keeps blocks that are damaged on disk from being replaced", advice)
    return Finding("mending", True, "blocks that are damaged on disk can be replaced")


def _flatfs(spec: object) -> Iterator[Mapping[str, Any]]:
    """The flatfs stores in a datastore's specification, however deep they are mounted."""
    if isinstance(spec, dict):
        if spec.get("type") == "flatfs":
            yield spec
        for value in spec.values():
            yield from _flatfs(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from _flatfs(value)


def _no_fetch(gateway: Mapping[str, Any]) -> Finding:
    if gateway.get("NoFetch") is not True:
        advice = (
            "set Gateway.NoFetch to true: else anybody can fill its disk, and it may prove itself with others' blocks"
        )
        return Finding("NoFetch", False, "its gateway fetches what it does not have", advice)
    return Finding("NoFetch", True, "its gateway serves only what the node has")


_IMPORT = ("CidVersion", "UnixFSRawLeaves", "UnixFSChunker", "UnixFSFileMaxLinks")
_PROFILES: Mapping[str, tuple[object, ...]] = {
    "unixfs-v1-2025": (1, True, "size-1048576", 1024),
    "unixfs-v0-2015": (0, False, "size-262144", 174),  # what Kubo does where nothing is set
}


def _profile(chosen: Mapping[str, Any], ours: str) -> Finding:
    """Our own content ids do not depend on it; those of people who run `ipfs add` to compare do."""
    pairs = zip(_IMPORT, _PROFILES["unixfs-v0-2015"], strict=True)
    found = tuple(default if chosen.get(name) is None else chosen[name] for name, default in pairs)
    if found != _PROFILES[ours]:
        advice = f"`ipfs config profile apply {ours}`, if people compare with `ipfs add`"
        return Finding("profile", True, "`ipfs add` there gives other content ids than ours", advice)
    return Finding("profile", True, ours)


def _batches(chosen: Mapping[str, Any], cores: object) -> Iterator[Finding]:
    """Kubo divides the limits of a batch by the number of its cores (go-ipld-format batch.go)."""
    if isinstance(cores, int) and (chosen.get("BatchMaxNodes") or _BATCH) < _BATCH * cores / _SLICES:
        advice = f"set Import.BatchMaxNodes to {_BATCH * cores} and Import.BatchMaxSize to {cores * 64 << 20}"
        yield Finding("batches", True, f"on its {cores} cores it writes few blocks at a time", advice)


def _garbage_collection(node: Kubo) -> Finding:
    """The daemon's own flag decides, and only its command line tells (Go's pprof, on the RPC port)."""
    try:
        command = node.command_line()
    except ServiceError:
        advice = "make sure that it runs without --enable-gc"
        return Finding("garbage collection", True, "the node does not show whether it collects by itself", advice)
    if any(word.lstrip("-") in ("enable-gc", "enable-gc=true") for word in command):
        advice = "run it without --enable-gc: between import and pin nothing protects blocks; collect by `ipfs repo gc`"
        return Finding("garbage collection", False, "it collects garbage by itself", advice)
    return Finding("garbage collection", True, "only when told")


def _disk(repository: RepoStat, disk: Mapping[str, Any]) -> Iterator[Finding]:
    """Kubo promises StorageMax whether the disk has it or not."""
    try:
        free = min(int(disk["free_space"]), int(disk["total_space"]))  # Kubo has had the two the wrong way round
    except (LookupError, TypeError, ValueError):
        return
    if free < _ROOM:
        yield Finding("disk", False, f"{free / _GIB:.2f} GiB are free on its disk", "make room on the node's disk")
    elif repository.limit > 0 and free < repository.limit - repository.bytes:
        detail = f"StorageMax allows {repository.limit / _GIB:.1f} GiB, its disk has {free / _GIB:.1f} GiB left"
        yield Finding("disk", True, detail, "set Datastore.StorageMax to what the disk really has")
    else:
        yield Finding("disk", True, f"{free / _GIB:.1f} GiB are free on its disk")
