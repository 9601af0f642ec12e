"""Dagster's web app behind the guard: what other sites try is refused, what the app itself does works.

One real web app with a real code server: each test makes the request that a browser would make.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hls_pipeline.dagster_client import LOCATION, DagsterClient
from hls_pipeline.errors import ServiceRefused
from hls_pipeline.local import dagster_home, probes
from tests.services import free_ports
from tests.stack_fixture import wait_until

MUTATION = """mutation {addDynamicPartition(
  partitionsDefName: "none", partitionKey: "k",
  repositorySelector: {repositoryLocationName: "hls_pipeline", repositoryName: "__repository__"}
) {__typename}}"""
QUERY = "{version}"
LITTLE = """import dagster as dg

@dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="videos"))
def s3_segments() -> None: ...

defs = dg.Definitions([s3_segments])
"""


@dataclass(frozen=True)
class Site:
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        """The status and the text. A header `Content_Type` is sent as Content-Type."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def graphql(self, query: str, **headers: str) -> tuple[int, str]:
        return self.ask(
            "POST", "/graphql", json.dumps({"query": query}), **{"Content_Type": "application/json"} | headers
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ui")
    (folder / "little.py").write_text(LITTLE)
    code_port, ui_port = free_ports(2)
    workspace = dagster_home.write(folder / "dagster", code_port)
    code = ("dagster", "api", "grpc", "-f", str(folder / "little.py"), "-h", "127.0.0.1")
    commands = (
        (*code, "-p", str(code_port), "--location-name", LOCATION),
        (
            "hls_pipeline.cli",
            "ui",
            "--port",
            str(ui_port),
            "--workspace",
            str(workspace),
            "--allow-host",
            "ui.test",
            "--behind-proxy",
        ),
    )
    dagster_home.make_tables(folder / "dagster")
    environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster")}
    started = [subprocess.Popen([sys.executable, "-m", *command], env=environment) for command in commands]
    try:
        wait_until(lambda: probes.webserver_answers(f"http://127.0.0.1:{ui_port}"), 60, lambda: "the web app")
        yield Site(ui_port)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # Dagster's own server now and then hangs on its way out
                process.kill()
                process.wait()


def test_the_page_and_its_scripts_are_served(site: Site) -> None:
    status, page = site.ask("GET", "/")
    assert status == 200
    assert '<div id="root">' in page
    script = next(part.split('"')[0] for part in page.split('src="') if ".js" in part.split('"')[0])
    assert site.ask("GET", script)[0] == 200


def test_the_app_asks_and_changes_as_it_is_used_to(site: Site) -> None:
    assert site.graphql(QUERY, Origin=f"http://{site.host}")[0] == 200
    status, text = site.graphql(MUTATION, Origin=f"http://{site.host}")
    assert status == 200
    assert "addDynamicPartition" in text


def test_behind_a_proxy_the_host_it_was_given_is_its_own(site: Site) -> None:
    assert site.graphql(QUERY, Host="ui.test", Origin="https://ui.test")[0] == 200


def test_the_explorer_page_is_served_though_it_shares_the_path(site: Site) -> None:
    status, page = site.ask("GET", "/graphql", Accept="text/html")
    assert status == 200
    assert "graphiql" in page.lower()


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "evil.test:80", "", "[", "127.0.0.1@evil.test"])
def test_a_foreign_host_is_refused_so_that_rebinding_a_name_gains_nothing(site: Site, host: str) -> None:
    assert site.graphql(QUERY, Host=host)[0] in (400, 421)
    assert site.ask("GET", "/", Host=host)[0] in (400, 421)


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "http://127.0.0.1:1", "http://127.0.0.1", "null", "", "ui.test"]
)
def test_a_foreign_origin_is_refused(site: Site, origin: str) -> None:
    assert site.graphql(QUERY, Origin=origin)[0] == 403


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/%67raphql", "//graphql"])
@pytest.mark.parametrize("name", ["query", "%71uery", "a&query", "a;query=x&query"])
def test_nothing_is_executed_by_get(site: Site, path: str, name: str) -> None:
    status, text = site.ask("GET", f"{path}?{name}={quote(MUTATION)}")
    assert status == 405, text
    assert site.ask("HEAD", f"{path}?{name}={quote(MUTATION)}")[0] == 405


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/plain; a=application/json", "application/x-www-form-urlencoded", "application/graphql", ""],
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/a"])
def test_a_change_that_a_plain_form_could_send_is_refused(site: Site, path: str, kind: str) -> None:
    status, _ = site.ask("POST", f"{path}?query={quote(MUTATION)}", json.dumps({"query": MUTATION}), Content_Type=kind)
    assert status == 415


def test_a_post_without_a_content_type_is_refused(site: Site) -> None:
    assert site.ask("POST", f"/graphql?query={quote(MUTATION)}")[0] == 415


def test_subscriptions_work_for_the_app_and_for_nobody_else(site: Site) -> None:
    address = f"ws://{site.host}/graphql"
    with connect(address, origin=f"http://{site.host}", subprotocols=["graphql-ws"]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(60)) == {"type": "connection_ack"}
        query = "subscription {locationStateChangeEvents {event {eventType}}}"
        socket.send(json.dumps({"id": "1", "type": "start", "payload": {"query": query}}))
        with pytest.raises(TimeoutError):  # it waits for events: no error was sent back
            socket.recv(1)
    with pytest.raises(InvalidStatus) as refused, connect(address, origin="https://evil.test"):
        pass
    assert refused.value.response.status_code == 403


def test_a_backfill_is_of_assets_and_knows_videos_that_dagster_had_forgotten(site: Site) -> None:
    """Dagster re-executes the rest of a backfill of assets that was cancelled, and nothing of a job's. Videos at
    rest are taken out of its list."""
    dagster, keys = DagsterClient(f"http://{site.host}"), [f"v{n}" for n in range(501)]
    dagster.ask(MUTATION.replace("none", "videos").replace('"k"', '"v7"'))
    started = dagster.backfill(["s3_segments"], "videos", keys)
    query = "query ($id: String!) {partitionBackfillOrError(backfillId: $id) {... on PartitionBackfill {%s}}}"
    found = dagster.ask(query % "isAssetBackfill partitionNames", {"id": started})["partitionBackfillOrError"]
    assert (found["isAssetBackfill"], sorted(found["partitionNames"])) == (True, sorted(keys))
    with pytest.raises(ServiceRefused, match="no_such_asset"):
        dagster.backfill(["no_such_asset"], "videos", ["v1"])
