"""Traces, as a collector gets them over OTLP: one per upload, a span per step, whoever ran it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hls_pipeline import tracing
from hls_pipeline.errors import ProofMissing
from hls_pipeline.uploads import State
from tests.services import STEPS, World, doubled, free_ports, package
from tests.test_metrics import PATH_STEPS


@dataclass
class Collector:
    url: str
    spans: list[Any] = field(default_factory=list)
    requests: int = 0

    def named(self, name: str) -> Any:
        (found,) = (span for span in self.spans if span.name == name)
        return found


@contextmanager
def collector(status: int = 200) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.requests += 1
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found.spans.extend(scope.spans)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_one_trace_goes_from_the_arrival_to_the_clean_up(world: World, request: pytest.FixtureRequest) -> None:
    with collector() as found:
        traced = world.having(otlp_endpoint=found.url)
        upload = traced.publish_package("v", package(request.node.name))
        cleared = traced.walk(upload, "clear_temp_storage", holder="path:clear")
    assert cleared.state is State.CLEARED
    assert [span.name for span in found.spans] == [*PATH_STEPS, "clear_temp_storage", "upload"]
    assert set(PATH_STEPS) | {"clear_temp_storage"} == set(STEPS)
    assert {span.trace_id.hex() for span in found.spans} == {upload.upload_id}
    whole = found.named("upload")
    assert whole.parent_span_id == b""
    assert {span.parent_span_id for span in found.spans if span is not whole} == {whole.span_id}
    assert whole.start_time_unix_nano == int(upload.created_at.timestamp() * 10**9)
    assert all(whole.start_time_unix_nano <= span.start_time_unix_nano for span in found.spans)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano <= whole.end_time_unix_nano for span in found.spans)
    about = attributes(found.named("publish"))
    assert (about["hls.video_id"], about["hls.state"], about["hls.root"]) == ("v", "pinned", upload.root)


def test_a_process_of_its_own_writes_into_the_same_trace(world: World, request: pytest.FixtureRequest) -> None:
    code = """
import json, sys
from hls_pipeline.settings import Settings
from hls_pipeline.tracing import span
from hls_pipeline.uploads import Drop, State, Upload
from hls_pipeline import clock
upload = Upload(sys.argv[2], "v", State.PINNED, Drop("v", "b", "v/", (), None), clock.now(), clock.now())
with span(Settings(otlp_endpoint=sys.argv[1]), upload, "elsewhere"):
    pass
"""
    with collector() as found:
        upload = world.having(otlp_endpoint=found.url).walk(world.drop("v", package(request.node.name)), "stage")
        subprocess.run([sys.executable, "-c", code, found.url, upload.upload_id], check=True)
    assert [span.name for span in found.spans] == ["stage", "elsewhere"]
    assert len({(span.trace_id, span.parent_span_id) for span in found.spans}) == 1


def test_a_step_that_fails_is_an_error_with_its_code(world: World, request: pytest.FixtureRequest) -> None:
    with collector() as found, pytest.raises(ProofMissing):
        world.having(otlp_endpoint=found.url, ipfs_quorum=2, **doubled(world.settings)).publish_package(
            "v", package(request.node.name)
        )
    status = found.named("publish").status
    assert status.code == status.STATUS_CODE_ERROR
    assert status.message.startswith("proof_missing: fewer than 2 node(s)")


def test_a_collector_that_is_away_is_asked_once_and_stops_nothing(world: World, request: pytest.FixtureRequest) -> None:
    (port,) = free_ports(1)
    silent = world.having(otlp_endpoint=f"http://127.0.0.1:{port}")
    assert silent.publish_package("v", package(request.node.name)).state is State.PUBLISHED
    with collector(status=400) as found:
        refused = world.having(otlp_endpoint=found.url)
        assert refused.publish_package("w", package(f"{request.node.name} 2")).state is State.PUBLISHED
    assert found.requests == 1


def test_while_it_is_off_nothing_of_it_is_imported() -> None:
    """Its interfaces may be there already: libraries of others import them."""
    code = "import sys, hls_pipeline.steps, hls_pipeline.cli"
    names = "[name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    done = subprocess.run([sys.executable, "-c", f"{code}; print({names})"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert tracing.Settings().otlp_endpoint is None
