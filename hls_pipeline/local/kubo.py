"""A private, offline Kubo for the local stack and the contract tests: how its repository is made and how it starts.

`prepare` writes the repository and its configuration, `command` and `environment` say how to run the daemon;
nothing here starts a long-lived process. The node never dials out: no bootstrap peers, no routing, nothing
provided, no AutoConf, no telemetry. Blocks are synced to disk before an import answers. Source: kubo
docs/config.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from hls_pipeline.errors import Outage, ServiceRefused, UsageError
from hls_pipeline.ipfs.doctor import MINIMUM_VERSION

__all__ = ["MINIMUM_VERSION", "command", "environment", "find", "prepare"]

PROFILE = "test,unixfs-v1-2025"


def find() -> str | None:
    """The `ipfs` on PATH."""
    return shutil.which("ipfs")


def prepare(repo: Path, rpc: str = "127.0.0.1:0", gateway: str = "127.0.0.1:0") -> None:
    """Make the repository if it is not there, and set what we rely on. `rpc` and `gateway` are `ip:port`."""
    if not (repo / "config").exists():
        repo.mkdir(mode=0o700, parents=True, exist_ok=True)
        _run(repo, "init", "--empty-repo", f"--profile={PROFILE}")
    path = repo / "config"
    config = json.loads(path.read_text())
    config["Addresses"] |= {"API": _multiaddr(rpc), "Gateway": _multiaddr(gateway), "Swarm": []}
    config["Bootstrap"] = []
    config["Routing"] = {"Type": "none"}
    config["Provide"] = {"Enabled": False}
    config["AutoConf"] = {"Enabled": False}
    config["Gateway"] |= {"NoFetch": True}
    # With its cache Kubo does not write a block over that is damaged on disk (boxo blockstore, `Put` asks the cache).
    config["Datastore"]["BlockKeyCacheSize"] = 0
    _sync_flatfs(config["Datastore"]["Spec"])
    waiting = path.with_suffix(".new")
    waiting.write_text(json.dumps(config, indent=2))
    waiting.chmod(0o600)
    waiting.replace(path)


def command(repo: Path) -> list[str]:
    """The daemon's command line; run it with `environment(repo)`."""
    return [_executable(), f"--repo-dir={repo}", "daemon", "--offline"]


def environment(repo: Path) -> dict[str, str]:
    """For every `ipfs` command on this repository."""
    return {**os.environ, "IPFS_PATH": str(repo), "IPFS_TELEMETRY": "off"}


def _multiaddr(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"/ip4/{host}/tcp/{port}"


def _sync_flatfs(spec: object) -> None:
    """Blocks must survive a power cut before S3 copies go; new repositories have sync off (kubo config/init.go)."""
    if isinstance(spec, dict):
        if spec.get("type") == "flatfs":
            spec["sync"] = True
        for value in spec.values():
            _sync_flatfs(value)
    elif isinstance(spec, list):
        for value in spec:
            _sync_flatfs(value)


def _executable() -> str:
    found = find()
    if found is None:
        raise UsageError("there is no `ipfs` on PATH; install Kubo or use the embedded node")
    return found


def _run(repo: Path, *arguments: str) -> None:
    what = f"ipfs {arguments[0]} in {repo}"
    try:
        done = subprocess.run(
            [_executable(), *arguments],
            env=environment(repo),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Outage(f"{what}: {error}") from error
    if done.returncode:
        raise ServiceRefused(f"{what} failed: {done.stderr.strip()[-500:]}")
