"""Questions that tell whether a part is ready. Each asks once and answers yes or no within a second.

A probe asks what the part's users will ask, not only whether its port is open.
"""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from hls_pipeline.dagster_client import DagsterClient
from hls_pipeline.errors import ServiceError

_TIMEOUT = 1.0  # seconds

_HEARTBEATS = "{instance {daemonHealth {allDaemonStatuses {daemonType required lastHeartbeatTime}}}}"


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False


def kubo_rpc_answers(url: str) -> bool:
    return _ask(f"{url}/api/v0/version", b"") is not None


def gateway_answers(url: str) -> bool:
    """Asks for the empty raw block, which every gateway knows by its CID (an identity hash)."""
    return _ask(f"{url}/ipfs/bafkqaaa", None) is not None


def webserver_answers(url: str) -> bool:
    return _ask(f"{url}/server_info", None) is not None


def is_healthy(url: str) -> bool:
    """Of a gateway or a worker."""
    return _ask(f"{url}/healthz", None) is not None


def daemons_beat(url: str, since: float) -> bool:
    """Whether every daemon that Dagster wants has reported after `since` (epoch seconds), as its web app sees it."""
    try:
        answer = DagsterClient(url).ask(_HEARTBEATS, seconds=_TIMEOUT)
    except ServiceError:
        return False
    daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    beats = [daemon["lastHeartbeatTime"] or 0.0 for daemon in daemons if daemon["required"]]
    return bool(beats) and min(beats) >= since


def _ask(url: str, body: bytes | None) -> bytes | None:
    # An address on loopback, whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, body, timeout=_TIMEOUT) as answer:
            return bytes(answer.read())
    except (OSError, urllib.error.URLError):
        return None
