"""What Prometheus is told by the daemon and by each worker; the gateway has metrics of its own.

The daemon, of which there is one, tells what is so: it reads the database when it is asked, the nodes once a minute. A
worker tells what it did: its steps run in child processes, which report each one by a datagram to the port on which
their parent answers, or another worker of this machine. `docs/reference/metrics.md` and the Grafana dashboard are
tested against what they answer.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hls_pipeline import clock, tables
from hls_pipeline.errors import PipelineError, UsageError
from hls_pipeline.metadata_store import MetadataStore, rows
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import IN_WORK, State

if TYPE_CHECKING:
    from hls_pipeline.ipfs.kubo import Kubo

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_NODE_SECONDS = 60.0
_PORT_SECONDS = 10.0
_STAGE_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
_DATAGRAM = 512  # bytes
_LONGEST_NAME = 64


# ---- the daemon --------------------------------------------------------------------------------------------------


def serve_daemon(store: MetadataStore, nodes: Sequence[Kubo], settings: Settings) -> None:
    """Answers on HLS_DAEMON_METRICS_PORT for as long as the process lives; without the setting, nothing happens."""
    if settings.daemon_metrics_port is None:
        return
    registry = daemon_registry(store, nodes)
    with _taking("HLS_DAEMON_METRICS_PORT"):
        start_http_server(settings.daemon_metrics_port, settings.metrics_host, registry)


def daemon_registry(store: MetadataStore, nodes: Sequence[Kubo]) -> CollectorRegistry:
    """Its nodes are looked at once, now, and then once a minute by a thread."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    watch = _Nodes(nodes)
    threading.Thread(target=watch.look_for_ever, name="node-metrics", daemon=True).start()
    registry.register(_Changes(store, registry))
    registry.register(_Facts(store))
    registry.register(watch)
    list(registry.collect())  # changes count from now on
    return registry


class _Facts(Collector):
    """What is so now, by the database."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        return []  # it is not asked before somebody scrapes

    def collect(self) -> Iterator[Metric]:
        try:
            with self._store.reading() as db:
                found = list(_facts(db, clock.now()))
        except PipelineError as error:
            log.warning("metrics: %s", error)
            found = []
        yield GaugeMetricFamily("hls_database_up", "Whether the metadata store answers.", value=float(bool(found)))
        yield from found


def _facts(db: sa.Connection, now: datetime) -> Iterator[Metric]:
    upload, temp = tables.upload, tables.temp_storage
    uploads = GaugeMetricFamily("hls_uploads", "Uploads by state.", labels=["state"])
    counts = dict(db.execute(sa.select(upload.c.state, sa.func.count()).group_by(upload.c.state)).tuples().all())
    for state in State:
        uploads.add_metric([str(state)], counts.get(str(state), 0))
    yield uploads

    waits = sa.select(sa.func.min(upload.c.updated_at)).where(
        upload.c.state.in_(IN_WORK), ~rows.is_held(upload.c.video_id, now)
    )
    since = db.execute(waits).scalar()
    age = (now - since).total_seconds() if since else 0.0
    yield GaugeMetricFamily("hls_queue_age_seconds", "Longest time an unfinished upload has been waiting.", value=age)

    waiting = GaugeMetricFamily("hls_temp_storage_bytes", "Bytes in S3 that wait for removal.", labels=["due"])
    due = sa.case((temp.c.due_at <= now, "yes"), else_="no")
    sums = dict(db.execute(sa.select(due, sa.func.sum(temp.c.size)).group_by(due)).tuples().all())
    for name in ("yes", "no"):
        waiting.add_metric([name], float(sums.get(name, 0)))
    yield waiting

    failures = CounterMetricFamily("hls_failed_tries", "Failed tries, by error code.", labels=["code"])
    table = tables.failure
    for code, count in db.execute(sa.select(table.c.code, sa.func.sum(table.c.count)).group_by(table.c.code)):
        failures.add_metric([code], float(count))
    yield failures

    alerts = GaugeMetricFamily("hls_alerts", "Open alerts, by kind.", labels=["kind"])
    kinds = sa.select(tables.alert.c.kind, sa.func.count()).where(tables.alert.c.closed_at.is_(None))
    for kind, count in db.execute(kinds.group_by(tables.alert.c.kind)):
        alerts.add_metric([kind], count)
    yield alerts

    anchored = db.execute(sa.select(sa.func.max(tables.anchor.c.time))).scalar()
    anchor_age = (now - anchored).total_seconds() if anchored else float("nan")
    yield GaugeMetricFamily("hls_anchor_age_seconds", "Age of the newest anchor of the versions.", value=anchor_age)


class _Changes(Collector):
    """How long uploads stayed in each state, counted as they move on."""

    def __init__(self, store: MetadataStore, registry: CollectorRegistry) -> None:
        self._store = store
        self._seen: int | None = None
        self._lock = threading.Lock()
        self._stages = Histogram(
            "hls_stage_seconds",
            "Time an upload spent in a state before it moved on.",
            ("state",),
            buckets=_STAGE_SECONDS,
            registry=None,
        )
        self._moves = Counter("hls_state_changes", "Uploads that reached a state.", ("state",), registry=None)
        for state in State:
            self._moves.labels(str(state))
            self._stages.labels(str(state))

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            try:
                self._look()
            except PipelineError as error:
                log.warning("metrics: %s", error)
        yield from self._stages.collect()
        yield from self._moves.collect()

    def _look(self) -> None:
        change = tables.state_change
        with self._store.reading() as db:
            if self._seen is None:
                self._seen = db.execute(sa.select(sa.func.max(change.c.id))).scalar() or 0
            found = db.execute(_changes_after(self._seen)).all()
        for row in found:
            self._moves.labels(row.state).inc()
            if row.before:
                self._stages.labels(row.before).observe((row.time - row.since).total_seconds())
            self._seen = row.id


def _changes_after(seen: int) -> sa.Select[Any]:
    change, before = tables.state_change, tables.state_change.alias("before")
    previous = (
        sa.select(sa.func.max(before.c.id))
        .where(before.c.upload_id == change.c.upload_id, before.c.id < change.c.id)
        .correlate(change)
        .scalar_subquery()
    )
    last = tables.state_change.alias("last")
    return (
        sa.select(change.c.id, change.c.state, change.c.time, last.c.state.label("before"), last.c.time.label("since"))
        .select_from(change)
        .outerjoin(last, last.c.id == previous)
        .where(change.c.id > seen)
        .order_by(change.c.id)
    )


@dataclass(frozen=True)
class _Node:
    up: bool
    pins: int = 0
    bytes: int = 0
    limit: int = 0


class _Nodes(Collector):
    """What the IPFS nodes say of themselves; counting pins takes a while, so nobody waits for it."""

    def __init__(self, nodes: Sequence[Kubo]) -> None:
        self._nodes = nodes
        self._found: dict[str, _Node] = {}

    def look_for_ever(self) -> None:
        pause = threading.Event()
        while True:
            for node in self._nodes:
                self._found = {**self._found, node.name: _asked(node)}
            pause.wait(_NODE_SECONDS)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families = {
            "up": GaugeMetricFamily("hls_node_up", "Whether the IPFS node answers.", labels=["node"]),
            "pins": GaugeMetricFamily("hls_node_pins", "Recursive pins of the node.", labels=["node"]),
            "bytes": GaugeMetricFamily("hls_node_repo_bytes", "Bytes the node stores.", labels=["node"]),
            "limit": GaugeMetricFamily("hls_node_repo_limit_bytes", "Bytes it may store.", labels=["node"]),
        }
        for name, found in self._found.items():
            for field, family in families.items():
                if found.up or field == "up":
                    family.add_metric([name], float(getattr(found, field)))
        yield from families.values()


def _asked(node: Kubo) -> _Node:
    try:
        stat = node.repo_stat()
        return _Node(True, sum(1 for _ in node.pins()), stat.bytes, stat.limit)
    except PipelineError:
        return _Node(False)


# ---- a worker ----------------------------------------------------------------------------------------------------


def serve_worker(settings: Settings) -> None:
    """Answers on HLS_WORKER_METRICS_PORT, and listens there for the steps of all processes on this machine. Of several
    workers on one machine the first answers for all, and another takes its place when it has gone. Without the setting,
    nothing happens."""
    if settings.worker_metrics_port is None:
        return
    if listener := _listener(settings.worker_metrics_port):
        with _taking("HLS_WORKER_METRICS_PORT"):
            _count_steps(listener, settings)
    else:
        threading.Thread(target=_wait_for_the_port, args=(settings,), name="step-metrics", daemon=True).start()


def _listener(port: int) -> socket.socket | None:
    """None where another process listens there already."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        listener.bind((_LOOPBACK, port))
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise UsageError(f"HLS_WORKER_METRICS_PORT: {error.strerror}") from error
        return None
    return listener


def _wait_for_the_port(settings: Settings) -> None:
    assert settings.worker_metrics_port
    while (listener := _listener(settings.worker_metrics_port)) is None:
        time.sleep(_PORT_SECONDS)
    try:
        _count_steps(listener, settings)
    except OSError as error:
        log.warning("HLS_WORKER_METRICS_PORT: %s", error)


def _count_steps(listener: socket.socket, settings: Settings) -> None:
    assert settings.worker_metrics_port
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    steps = Histogram(
        "hls_step_seconds",
        "Time of a step, by what came of it: done, or an error code.",
        ("step", "outcome"),
        buckets=_STAGE_SECONDS,
        registry=registry,
    )
    start_http_server(settings.worker_metrics_port, settings.metrics_host, registry)
    threading.Thread(target=_listen, args=(listener, steps), name="step-metrics", daemon=True).start()


@contextmanager
def _taking(setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{setting}: {error.strerror}; choose another port") from error


def _listen(listener: socket.socket, steps: Histogram) -> None:
    while True:
        try:
            step, outcome, seconds = json.loads(listener.recv(_DATAGRAM))
            steps.labels(str(step)[:_LONGEST_NAME], str(outcome)[:_LONGEST_NAME]).observe(float(seconds))
        except (ValueError, TypeError):
            continue  # not one of ours


def note_step(settings: Settings, step: str, outcome: str, seconds: float) -> None:
    """Told to whoever listens; nobody needs to."""
    if settings.worker_metrics_port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(json.dumps([step, outcome, seconds]).encode(), (_LOOPBACK, settings.worker_metrics_port))
        except OSError as error:
            log.debug("a step was not counted: %s", error)
