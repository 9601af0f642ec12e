"""What the tests share: one SeaweedFS, two embedded IPFS nodes and one PostgreSQL for the session, each started when
the first test asks for it; an empty inbox, an empty media bucket and a new database for each test.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from playwright.sync_api import Browser, sync_playwright

from hls_pipeline import metadata_store
from hls_pipeline.gateway import vendor
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.settings import Settings
from tests import services
from tests.local import ipfs_node_fixture
from tests.local.ipfs_node_fixture import EmbeddedNode
from tests.services import CopiesOf, Postgres, World

# By default an example that takes 200 ms fails, and drawing that takes seconds: on a busy machine any of them does.
hypothesis.settings.register_profile(
    "any-machine", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")

MET = pytest.StashKey[set[str]]()
"""Which IPFS nodes were there to be tested, and their versions: the log says so, whichever process met them."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["met"] = sorted(session.config.stash.get(MET, set()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash.setdefault(MET, set()).update(getattr(node, "workeroutput", {}).get("met", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in sorted(config.stash.get(MET, set())):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that reach the session's SeaweedFS."""
    with services.running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(scope="session")
def ipfs_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNode]:
    with ipfs_node_fixture.running(tmp_path_factory.mktemp("ipfs")) as node:
        yield node


@pytest.fixture(scope="session")
def second_ipfs_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNode]:
    with ipfs_node_fixture.running(tmp_path_factory.mktemp("ipfs-2")) as node:
        yield node


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with services.running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return services.migrated_sqlite(tmp_path_factory.mktemp("template") / "metadata.sqlite")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    return services.copy_sqlite(sqlite_template, tmp_path / "metadata.sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database with the newest schema, once of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        with server.new_database() as url:
            yield url


@pytest.fixture
def store(database_url: str) -> Iterator[MetadataStore]:
    store = metadata_store.connect(database_url)
    yield store
    store._engine.dispose()


@pytest.fixture
def s3_and_ipfs(s3: Settings, ipfs_node: EmbeddedNode) -> Settings:
    """Settings that reach both, without a metadata store. Drops start at once, and what fails is tried at once."""
    return s3.model_copy(
        update={
            "ipfs_rpc_urls": (f"http://{ipfs_node.rpc}",),
            "ipfs_gateway_urls": (f"http://{ipfs_node.gateway}",),
            "inbox_quiet_seconds": 0.0,
            "retry_seconds": 0.01,
        }
    )


@pytest.fixture
def world(s3_and_ipfs: Settings, sqlite_url: str) -> World:
    return _empty_world(s3_and_ipfs, sqlite_url)


@pytest.fixture
def world_on_each_database(s3_and_ipfs: Settings, database_url: str) -> World:
    return _empty_world(s3_and_ipfs, database_url)


@pytest.fixture
def world_on_postgres(s3_and_ipfs: Settings, postgres: Postgres) -> Iterator[World]:
    with postgres.new_database() as url:
        yield _empty_world(s3_and_ipfs, url)


@pytest.fixture
def copies_of(request: pytest.FixtureRequest, tmp_path: Path) -> CopiesOf:
    """One world after the other with a copy of the given one's database as it is now; S3 and IPFS stay shared."""

    def copies(world: World) -> Iterator[World]:
        url = world.settings.database_url
        world.store._engine.dispose()
        for number in itertools.count():
            if url.startswith("sqlite"):
                source = Path(url.removeprefix("sqlite:///"))
                yield world.over(services.copy_sqlite(source, tmp_path / f"copy-{number}.sqlite"))
            else:
                server: Postgres = request.getfixturevalue("postgres")
                with server.new_database(template=url.rpartition("/")[2]) as copy:
                    yield world.over(copy)

    return copies


@pytest.fixture
def as_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], None]:
    """Makes settings those of every command that is run from now on."""

    def set_all(settings: Settings) -> None:
        secret = settings.s3_secret_key
        assert secret
        monkeypatch.setenv("HLS_S3_SECRET_KEY", secret.get_secret_value())
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        for name in ("database_url", "s3_endpoint", "s3_access_key", "s3_inbox", "s3_media"):
            monkeypatch.setenv(f"HLS_{name.upper()}", str(getattr(settings, name)))
        for name in ("ipfs_rpc_urls", "ipfs_gateway_urls"):
            monkeypatch.setenv(f"HLS_{name.upper()}", json.dumps(getattr(settings, name)))

    return set_all


def _empty_world(settings: Settings, database_url: str) -> World:
    world = World.of(settings.model_copy(update={"database_url": database_url}))
    world.empty_buckets()
    return world


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; a process can have one only."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    arguments.append("--autoplay-policy=no-user-gesture-required")
    vendor.fetch()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield launched
        launched.close()
