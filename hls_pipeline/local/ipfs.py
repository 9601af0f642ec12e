"""Which IPFS node the local stack runs: Kubo when a recent enough one is on PATH, otherwise the embedded node.

How Kubo is set up is in `kubo.py`, the embedded node is `ipfs_node/`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hls_pipeline.errors import UsageError
from hls_pipeline.local import kubo
from hls_pipeline.settings import Settings


@dataclass(frozen=True)
class Node:
    title: str
    reason: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def choose(settings: Settings, folder: Path, rpc: str, gateway: str) -> Node:
    """The node, prepared to be started; `rpc` and `gateway` are `host:port`. Each kind keeps a repository of its own.

    Raises UsageError when Kubo is asked for and there is none, or an old one.
    """
    found = kubo.find() if settings.local_ipfs != "embedded" else None
    version = _version(found) if found else None
    if found and version and version >= kubo.MINIMUM_VERSION:
        return _kubo(folder / "kubo", rpc, gateway, f"{found} is Kubo {_dotted(version)}")
    if settings.local_ipfs == "embedded":
        return _embedded(folder / "embedded", rpc, gateway, "HLS_LOCAL_IPFS says so")
    reason = "there is no `ipfs` on PATH"
    if found:
        reason = f"{found} is {_dotted(version) if version else 'no Kubo'}, older than {_dotted(kubo.MINIMUM_VERSION)}"
    if settings.local_ipfs == "kubo":
        raise UsageError(f"HLS_LOCAL_IPFS asks for Kubo, but {reason}; install it, or leave the setting at auto")
    return _embedded(folder / "embedded", rpc, gateway, reason)


def _kubo(repo: Path, rpc: str, gateway: str, reason: str) -> Node:
    kubo.prepare(repo, rpc, gateway)
    ours = {name: value for name, value in kubo.environment(repo).items() if os.environ.get(name) != value}
    return Node("IPFS (Kubo)", reason, tuple(kubo.command(repo)), ours)


def _embedded(repo: Path, rpc: str, gateway: str, reason: str) -> Node:
    repo.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = (sys.executable, "-m", "hls_pipeline.local.ipfs_node")
    arguments = ("--repo", str(repo), "--rpc", rpc, "--gateway", gateway)
    return Node("IPFS (embedded node)", reason, command + arguments)


def _version(executable: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([executable, "version", "-n"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
