"""OpenTelemetry: one trace per upload, one span per step, whoever runs it; off unless HLS_OTLP_ENDPOINT is set.

The trace id is the upload id (both have 128 bits), so gateway, workers and clean-up write into one trace without
telling each other anything. The span over all of it is written when the upload has come to its end. Nothing of
OpenTelemetry is imported while it is off, and a collector that is away costs no step more than a moment.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec

from hls_pipeline import failures, metrics
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import IN_WORK, State, Upload

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_PATIENCE = 2  # seconds for one export
_PAUSE = 60.0  # seconds without a try after one that failed
_NANO = 10**9


def observed(step: Callable[_P, Upload]) -> Callable[_P, Upload]:
    """A step whose time is counted and, where tracing is on, a span of its upload's trace."""
    name = step.__name__

    @functools.wraps(step)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> Upload:
        settings = next(arg for arg in (*args, *kwargs.values()) if isinstance(arg, Settings))
        upload = next(arg for arg in (*args, *kwargs.values()) if isinstance(arg, Upload))
        began, outcome = time.perf_counter(), "done"
        with span(settings, upload, name) as about:
            try:
                reached = step(*args, **kwargs)
            except Exception as error:
                outcome = failures.code_of(error)
                raise
            finally:
                metrics.note_step(settings, name, outcome, time.perf_counter() - began)
            about["hls.state"] = str(reached.state)
        if settings.otlp_endpoint and _ended(reached):
            _write_whole(settings, reached)
        return reached

    return run


def _ended(upload: Upload) -> bool:
    return upload.state not in IN_WORK | {State.PUBLISHED}


@contextmanager
def span(settings: Settings, upload: Upload, name: str) -> Iterator[dict[str, Any]]:
    """A span in the trace of `upload`; what the block puts into the dictionary becomes its attributes."""
    about: dict[str, Any] = {}
    if not settings.otlp_endpoint:
        yield about
        return
    began, error = time.time_ns(), None
    try:
        yield about
    except BaseException as raised:
        error = raised
        raise
    finally:
        _write(settings, upload, name, began, time.time_ns(), None, {**_facts(upload), **about}, error)


def _write_whole(settings: Settings, upload: Upload) -> None:
    """The span that all others of the upload name as their parent: from its arrival until now."""
    _write(settings, upload, "upload", _nanoseconds(upload.created_at), time.time_ns(), _root(upload), _facts(upload))


def _facts(upload: Upload) -> dict[str, Any]:
    known = {
        "hls.upload_id": upload.upload_id,
        "hls.video_id": upload.video_id,
        "hls.state": str(upload.state),
        "hls.revision": upload.revision,
        "hls.bytes": upload.size,
        "hls.root": upload.root,
    }
    return {name: value for name, value in known.items() if value is not None}


def trace_id(upload: Upload) -> int:
    return int(upload.upload_id, 16)


def _root(upload: Upload) -> int:
    """The id of the span over the whole upload, known before it is written."""
    return int.from_bytes(hashlib.sha256(upload.upload_id.encode()).digest()[:8]) or 1


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * _NANO)


def _write(
    settings: Settings,
    upload: Upload,
    name: str,
    began: int,
    ended: int,
    span_id: int | None,
    about: Mapping[str, Any],
    error: BaseException | None = None,
) -> None:
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

    provider = _provider(settings)
    parent = SpanContext(trace_id(upload), _root(upload), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracer = provider.get_tracer("hls_pipeline")
    made: Any = tracer.start_span(
        name, trace.set_span_in_context(NonRecordingSpan(parent)), start_time=began, attributes=dict(about)
    )
    if span_id is not None:  # the one that others have named as their parent already; it has none itself
        made._context = SpanContext(trace_id(upload), span_id, is_remote=False, trace_flags=parent.trace_flags)
        made._parent = None
    if error is not None:
        made.set_status(Status(StatusCode.ERROR, f"{failures.code_of(error)}: {error}"))
    made.end(ended)


@functools.cache
def _provider(settings: Settings) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Patient(SpanExporter):
        """Exports at once, so that no process ends with spans in its hands; leaves a collector alone that is away."""

        def __init__(self) -> None:
            address = f"{str(settings.otlp_endpoint).rstrip('/')}/v1/traces"
            self._exporter: SpanExporter = OTLPSpanExporter(endpoint=address, timeout=_PATIENCE)
            self._not_before = 0.0

        def export(self, spans: Any) -> SpanExportResult:
            if time.monotonic() < self._not_before:
                return SpanExportResult.FAILURE
            result = self._exporter.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._not_before = time.monotonic() + _PAUSE
                log.warning("no trace reaches %s; tried again in a minute", settings.otlp_endpoint)
            return result

        def shutdown(self) -> None:
            self._exporter.shutdown()

    provider = TracerProvider(resource=Resource.create({"service.name": "hls-pipeline"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Patient()))
    return provider
