"""Metrics of daemon, worker and gateway as Prometheus gets them; the reference page and the dashboard say the same."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from hls_pipeline import clock, failures, metrics
from hls_pipeline.errors import ProofMissing, UsageError
from hls_pipeline.local.ports import held
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.upkeep import alerts, anchors
from hls_pipeline.uploads import State
from tests.gateway.conftest import Gateway, gateway, gateway_with  # noqa: F401
from tests.services import World, doubled, package, wait_until
from tests.test_metadata_store import published, received

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "metrics.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "hls-pipeline.json"
WRITE = "WRITE_METRICS_PAGE"

HEAD = """# Metrics

The daemon answers at `HLS_DAEMON_METRICS_PORT`, the workers at `HLS_WORKER_METRICS_PORT` (of those on one machine, the
code server among them, one answers for all), the gateway at `/metrics` of its own port, to those who may read. The two
others need no key: keep `HLS_METRICS_HOST` on a private network. A dashboard for Grafana is in
[deploy/grafana](../../deploy/grafana/hls-pipeline.json). The usual `process_…` metrics are there as well.
"""
TITLES = {
    "daemon": "Of the daemon: what is so, for the whole installation",
    "worker": "Of a worker: what it did",
    "gateway": "Of a gateway: what it answered",
}

Families = dict[str, Metric]


def families(text: str) -> Families:
    return {family.name: family for family in text_string_to_metric_families(text)}


def scraped(port: int) -> Families:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return families(answer.read().decode())


def value(found: Families, name: str, sample: str | None = None, **labels: str) -> float:
    (one,) = (
        each.value
        for each in found[name].samples
        if each.name == (sample or name) and labels.items() <= each.labels.items()
    )
    return one


def unheld_ports(count: int) -> list[int]:
    """Steps are told by UDP, on the very port that `free_ports` would hold."""
    with held(map(str, range(count))) as found:
        return list(found.values())


@pytest.fixture
def serving(world: World) -> World:
    """The same world with daemon and worker metrics on ports of their own."""
    daemon, worker = unheld_ports(2)
    serving = world.having(daemon_metrics_port=daemon, worker_metrics_port=worker)
    metrics.serve_daemon(serving.store, serving.nodes, serving.settings)
    metrics.serve_worker(serving.settings)
    return serving


def ports(world: World) -> tuple[int, int]:
    daemon, worker = world.settings.daemon_metrics_port, world.settings.worker_metrics_port
    assert daemon
    assert worker
    return daemon, worker


def test_the_daemon_tells_what_is_so_and_the_worker_what_it_did(serving: World, request: pytest.FixtureRequest) -> None:
    daemon, worker = ports(serving)
    before = scraped(daemon)
    assert value(before, "hls_uploads", state="published") == 0
    assert value(before, "hls_queue_age_seconds") == 0
    upload = serving.publish_package("v", package(request.node.name))
    serving.drop("w", package(f"{request.node.name} 2"))
    found = scraped(daemon)
    assert value(found, "hls_uploads", state="published") == 1
    assert value(found, "hls_uploads", state="received") == 1
    assert 0 < value(found, "hls_queue_age_seconds") < 60
    waiting = sum(item.size for item in serving.store.temp_objects(upload.upload_id))
    assert value(found, "hls_temp_storage_bytes", due="yes") == waiting > 0
    assert value(found, "hls_state_changes", "hls_state_changes_total", state="published") == 1
    assert value(found, "hls_stage_seconds", "hls_stage_seconds_count", state="staged") == 1
    assert value(found, "hls_database_up") == 1
    wait_until(lambda: scraped(daemon)["hls_node_up"].samples, "a look at the nodes")
    assert value(scraped(daemon), "hls_node_up", node=serving.nodes[0].name) == 1
    assert metrics._asked(serving.nodes[0]).pins == len(list(serving.nodes[0].pins())) >= 2

    def counted() -> bool:
        steps = scraped(worker)["hls_step_seconds"].samples
        return {each.labels["step"] for each in steps} == set(PATH_STEPS)

    wait_until(counted, "all steps to be counted")


PATH_STEPS = ("stage", "write_s3_manifest", "publish", "write_ipfs_manifest", "finalize")


def test_a_step_that_fails_is_counted_by_its_error_code(serving: World, request: pytest.FixtureRequest) -> None:
    daemon, worker = ports(serving)
    upload = serving.drop("v", package(request.node.name))
    with pytest.raises(ProofMissing):
        serving.having(ipfs_quorum=2, **doubled(serving.settings)).walk(upload)
    wait_until(
        lambda: any(
            each.labels.get("outcome") == "proof_missing" for each in scraped(worker)["hls_step_seconds"].samples
        ),
        "the failed step",
    )
    assert value(scraped(daemon), "hls_failed_tries", "hls_failed_tries_total", code="proof_missing") == 1


def test_without_a_port_nothing_listens_and_what_is_no_report_is_ignored(world: World) -> None:
    metrics.serve_daemon(world.store, world.nodes, world.settings)
    metrics.serve_worker(world.settings)
    metrics.note_step(world.settings, "stage", "done", 1)
    (port,) = unheld_ports(1)
    settings = world.settings.model_copy(update={"worker_metrics_port": port})
    metrics.note_step(settings, "stage", "done", 1)  # to nobody
    metrics.serve_worker(settings)
    for step, outcome in (("x" * 9999, "y"), ("stage", "done")):
        metrics.note_step(settings, step, outcome, 1)
    wait_until(lambda: scraped(port)["hls_step_seconds"].samples, "the report")
    assert {each.labels["step"] for each in scraped(port)["hls_step_seconds"].samples} == {"stage"}


def test_of_several_workers_on_a_machine_one_answers_for_all_and_another_takes_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one environment, and so has the code server: all but the first ended with an error."""
    monkeypatch.setattr(metrics, "_PORT_SECONDS", 0.1)
    (port,) = unheld_ports(1)
    settings = world.settings.model_copy(update={"worker_metrics_port": port})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
        another.bind(("127.0.0.1", port))
        metrics.serve_worker(settings)
        metrics.note_step(settings, "publish", "done", 1)
        assert json.loads(another.recv(512)) == ["publish", "done", 1]

    def counted() -> bool:
        metrics.note_step(settings, "stage", "done", 1)
        with suppress(OSError):
            return bool(scraped(port)["hls_step_seconds"].samples)
        return False

    wait_until(counted, "another to answer")


def test_a_port_that_something_else_has_is_named(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as something:
        port = something.getsockname()[1]
        settings = world.settings.model_copy(update={"worker_metrics_port": port, "daemon_metrics_port": port})
        with pytest.raises(UsageError, match="HLS_WORKER_METRICS_PORT: Address already in use"):
            metrics.serve_worker(settings)
        with pytest.raises(UsageError, match="HLS_DAEMON_METRICS_PORT: Address already in use"):
            metrics.serve_daemon(world.store, (), settings)


def test_each_database_is_asked_in_its_own_tongue(store: MetadataStore) -> None:
    registry = metrics.daemon_registry(store, ())
    published(store, due_at=10**9)
    failures.note(store, received(store, "w"), "service_error", "no", clock.now())
    found = {family.name: family for family in registry.collect()}
    assert [each.value for each in found["hls_database_up"].samples] == [1.0]
    waiting = {each.labels["due"]: each.value for each in found["hls_temp_storage_bytes"].samples}
    assert waiting == {"yes": 0, "no": 376}
    assert value(found, "hls_stage_seconds", "hls_stage_seconds_sum", state="pinned") == 1
    assert value(found, "hls_failed_tries", "hls_failed_tries_total", code="service_error") == 1


def test_a_database_that_is_down_is_told_and_no_error(world: World, tmp_path: Path) -> None:
    gone = world.over(f"sqlite:///{tmp_path / 'nothing' / 'there.sqlite'}")
    registry = metrics.daemon_registry(gone.store, ())
    found = {family.name: family for family in registry.collect()}
    assert [each.value for each in found["hls_database_up"].samples] == [0.0]
    assert "hls_uploads" not in found


# ---- the page and the dashboard -----------------------------------------------------------------------------------


@pytest.fixture
def everything(serving: World, request: pytest.FixtureRequest) -> dict[str, Families]:
    """Real output of all three, after something of each kind happened."""
    daemon, worker = ports(serving)
    with_gateway: Gateway = request.getfixturevalue("gateway_with")(worker_metrics_port=worker)
    files = package(request.node.name)
    answer = with_gateway.ask(
        "POST", "/v1/videos", headers=with_gateway.bearer,
        files=[("metadata", ("metadata.json", files["metadata.json"])),
               *(("files", (path, data)) for path, data in files.items() if path != "metadata.json")],
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    wait_until(lambda: scraped(worker)["hls_step_seconds"].samples, "a step of the gateway's")
    upload = serving.store.latest_upload(answer.json()["video_id"])
    assert upload
    failures.note(serving.store, upload, "service_unavailable", "down", clock.now())
    serving.walk(upload, "publish", "write_ipfs_manifest", "finalize", holder="path:x")
    alerts.open_(serving.store, alerts.Problem("node_full:x", "node_full", "t", "c", "a", "l"), clock.now())
    anchors.make(serving.store, serving.objects, serving.nodes, serving.settings, clock.now())
    wait_until(lambda: scraped(daemon)["hls_node_up"].samples, "a look at the nodes")

    def noticed() -> Families | None:
        found = families(with_gateway.get("/metrics").text)
        return found if found["hls_estimate_off_seconds"].samples and found["hls_stage_seconds"].samples else None

    wait_until(noticed, "the gateway to notice")
    of_gateway = families(with_gateway.get("/metrics").text)
    return {"daemon": scraped(daemon), "worker": scraped(worker), "gateway": of_gateway}


def page(everything: dict[str, Families]) -> str:
    lines = [HEAD]
    for part, title in TITLES.items():
        lines += [f"## {title}", "", "| metric | type | labels | what |", "|---|---|---|---|"]
        for name, family in sorted(everything[part].items()):
            if name.startswith("hls_") and not name.endswith("_created"):
                labels = sorted(labels_of(family))
                shown = f"{name}_total" if family.type == "counter" else name
                what = family.documentation
                lines.append(f"| `{shown}` | {family.type} | {', '.join(f'`{each}`' for each in labels)} | {what} |")
        lines.append("")
    return "\n".join(lines).replace("|  |", "| |")


KNOWN = {"hls_webhook_deliveries": {"outcome"}}
"""Labels of what does not happen here."""


def labels_of(family: Metric) -> set[str]:
    return {name for each in family.samples for name in each.labels if name != "le"} | KNOWN.get(family.name, set())


def test_page_and_dashboard_are_those_of_the_real_output(everything: dict[str, Families]) -> None:
    if os.environ.get(WRITE):
        PAGE.write_text(page(everything))
    assert PAGE.read_text() == page(everything), "write it anew: python -m tests.test_metrics"
    names: dict[str, set[str]] = {}
    for found in everything.values():
        for family in found.values():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            for suffix in suffixes:
                names.setdefault(family.name + suffix, set()).update(
                    labels_of(family), {"le"} if suffix == "_bucket" else ()
                )
    asked = list(queries(json.loads(DASHBOARD.read_text())))
    assert len(asked) >= 20
    for query in asked:
        metric_names = re.findall(r"\b((?:hls|process)_[a-z_]+)\b", query)
        assert metric_names, query
        for metric in metric_names:
            assert metric in names, query
        grouped = [name for group in re.findall(r"by \(([^)]*)\)", query) for name in re.split(r",\s*", group)]
        grouped += re.findall(r'[{,]\s*([a-z_]+)\s*=~?"', query)
        for label in grouped:
            assert all(label in names[metric] for metric in metric_names), f"{label} in {query}"
        for states in re.findall(r'state=~?"([^"]*)"', query):
            assert set(states.split("|")) <= {str(state) for state in State}, query


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


if __name__ == "__main__":
    os.environ[WRITE] = "1"
    sys.exit(pytest.main([__file__, "-q", "-k", "page_and_dashboard"]))
