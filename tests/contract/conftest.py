"""The node that a contract test runs against: each kind there is on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hls_pipeline.ipfs.kubo import Kubo
from tests.contract.nodes import KINDS, IpfsNode, running

NODES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The log says which nodes were there to be tested, and their versions."""
    for line in config.stash.get(NODES, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", params=KINDS)
def ipfs_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsNode]:
    with running(request.param, tmp_path_factory.mktemp(request.param) / "repo") as node, node.client() as client:
        met = f"IPFS contract tested against: {node.kind} {client.version()}, peer {client.peer_id()}"
        request.config.stash.setdefault(NODES, []).append(met)
        yield node


@pytest.fixture
def client(ipfs_node: IpfsNode) -> Iterator[Kubo]:
    with ipfs_node.client() as opened:
        yield opened
