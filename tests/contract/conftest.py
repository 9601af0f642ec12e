"""The node that a contract test runs against: each kind there is on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hls_pipeline.ipfs.kubo import Kubo
from tests.conftest import MET
from tests.contract.nodes import KINDS, IpfsNode, running


@pytest.fixture(scope="session", params=KINDS)
def ipfs_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsNode]:
    with running(request.param, tmp_path_factory.mktemp(request.param) / "repo") as node, node.client() as client:
        met = f"IPFS contract tested against: {node.kind} {client.version()}"
        request.config.stash.setdefault(MET, set()).add(met)
        yield node


@pytest.fixture
def client(ipfs_node: IpfsNode) -> Iterator[Kubo]:
    with ipfs_node.client() as opened:
        yield opened
