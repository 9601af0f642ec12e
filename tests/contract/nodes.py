"""Real IPFS nodes for tests, each a process of its own on a private repository: the embedded one, and Kubo."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hls_pipeline.errors import Outage
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.local import kubo
from tests.local.ipfs_node_fixture import block_file

START_SECONDS = 60
KINDS = ("embedded", "kubo") if kubo.find() else ("embedded",)
"""Kubo is tested wherever `ipfs` is on PATH."""


@dataclass(frozen=True)
class IpfsNode:
    kind: str
    repo: Path
    rpc_url: str
    gateway_url: str
    process: subprocess.Popen[bytes]

    def client(self, stall_seconds: float = 60) -> Kubo:
        return Kubo(self.rpc_url, self.gateway_url, stall_seconds=stall_seconds)

    def block_file(self, data: bytes) -> Path:
        """Where the block with these bytes is on its disk."""
        return self.path_of(Cid.of(data))

    def path_of(self, cid: Cid) -> Path:
        if self.kind == "embedded":
            return block_file(self.repo, cid)
        name = base64.b32encode(b"\x12\x20" + cid.digest).decode().rstrip("=")
        return next(self.repo.glob(f"blocks/*/{name}.data"))

    def kill(self) -> None:
        """As a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(kind: str, repo: Path, *arguments: str) -> Iterator[IpfsNode]:
    """A node over `repo`, which it makes if it is not there. Answering when this is entered, gone afterwards."""
    rpc, gateway = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
    if kind == "kubo":
        kubo.prepare(repo, rpc, gateway)
        command, environment = kubo.command(repo), kubo.environment(repo)
    else:
        command = [sys.executable, "-m", "hls_pipeline.local.ipfs_node"]
        command += ["--repo", str(repo), "--rpc", rpc, "--gateway", gateway]
        environment = dict(os.environ)
    log = repo.with_suffix(".log")
    with open(log, "ab") as output:
        process = subprocess.Popen([*command, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT)
    node = IpfsNode(kind, repo, f"http://{rpc}", f"http://{gateway}", process)
    try:
        _wait_until_it_answers(node, log)
        yield node
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(node: IpfsNode, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and node.process.poll() is None:
        try:
            with node.client() as client:
                client.version()
        except Outage:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the {node.kind} node did not start:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
