"""A gateway for tests: the real app on a real server in a thread, over the session's S3 and IPFS node and a database of
its own; and a client that speaks to it as any program would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from hls_pipeline import clock
from hls_pipeline.gateway import access
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.records import Records
from hls_pipeline.gateway.server import server
from hls_pipeline.settings import Settings
from tests import services
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import World, free_ports, wait_until


@dataclass(frozen=True)
class Gateway:
    url: str
    world: World
    settings: GatewaySettings
    key: str
    """May do everything."""

    @property
    def records(self) -> Records:
        return Records(self.world.store)

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def make_key(self, *scopes: Scope) -> dict[str, str]:
        """A header with a new key."""
        key = access.make_key(self.records, "test", frozenset(scopes), clock.now())
        return {"Authorization": f"Bearer {key}"}

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Without key unless `headers` has one; redirects are not followed."""
        return requests.request(method, self.url + path, timeout=60, allow_redirects=False, **more)

    def get(self, path: str, **headers: str) -> requests.Response:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def play(self, video_id: str, path: str, **headers: str) -> requests.Response:
        return self.get(f"/v1/videos/{video_id}/play/{path}", **headers)


@contextmanager
def serving(world: World, **changes: Any) -> Iterator[Gateway]:
    """A gateway over the services of `world`, with other settings where `changes` says so."""
    values = {**world.settings.model_dump(), "public_read": True, "retry_seconds": 0.01, **changes}
    settings = GatewaySettings(**values)
    (port,) = free_ports(1)
    web = server(settings, "127.0.0.1", port)
    thread = threading.Thread(target=web.run)
    thread.start()
    try:
        wait_until(lambda: web.started, "the gateway")
        key = access.make_key(Records(world.store), "test", frozenset({Scope.ADMIN}), clock.now())
        yield Gateway(f"http://127.0.0.1:{port}", world, settings, key)
    finally:
        web.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the gateway did not stop"


@pytest.fixture
def gateway(world: World) -> Iterator[Gateway]:
    with serving(world) as running:
        yield running


@pytest.fixture(scope="session")
def stern(s3: Settings, ipfs_node: EmbeddedNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """For tests in which everything is refused: one gateway for all of them, in which nothing ever stays."""
    database = services.migrated_sqlite(tmp_path_factory.mktemp("stern") / "metadata.sqlite")
    more = {
        "database_url": f"sqlite:///{database}",
        "ipfs_rpc_urls": (f"http://{ipfs_node.rpc}",),
        "ipfs_gateway_urls": (f"http://{ipfs_node.gateway}",),
    }
    with serving(World.of(s3.model_copy(update=more))) as running:
        yield running


@pytest.fixture
def gateway_with(world: World) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways with settings of their own; they end with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(serving(world, **changes))
