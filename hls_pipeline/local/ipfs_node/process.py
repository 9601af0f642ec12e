"""Starting and stopping the node: repository, two ports, signals."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from hls_pipeline.local.ipfs_node import gateway, rpc
from hls_pipeline.local.ipfs_node.commands import COMMANDS
from hls_pipeline.local.ipfs_node.node import Node
from hls_pipeline.local.ipfs_node.server import Server

_GRACE = 1.5
"""Seconds that requests under way are given at the end."""
_ENDING = (signal.SIGTERM, signal.SIGINT)


def run(repo: Path, rpc_address: str, gateway_address: str, gc_grace: float = 0) -> None:
    """Serve until SIGTERM or SIGINT; call it from the main thread. Addresses are `host:port`, port 0 means any.

    UsageError if another node has the repository or an address is malformed, ServiceError if either cannot be had.
    """
    # Blocked in every thread and waited for: a handler may come just before the main thread begins to wait, unheard.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    node = Node(repo, gc_grace)
    servers: list[Server] = []
    try:
        servers.append(Server(rpc_address, rpc.app(node, COMMANDS)))
        servers.append(Server(gateway_address, gateway.app(node)))
        for server in servers:
            server.start()
        print(f"RPC {servers[0].url}  gateway {servers[1].url}  (no peers)", flush=True)
        signal.sigwait(_ENDING)
    finally:
        deadline = time.monotonic() + _GRACE
        for server in servers:
            server.stop(deadline)
        node.close()
