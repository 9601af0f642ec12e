"""What Prometheus is told: requests, uploads, how long each stage took, how far estimates were off.

One registry per app. Stages and estimates are noted by `deliveries.Observer` as uploads move, whoever moved them.
"""

from __future__ import annotations

import statistics
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 1800)
_STAGE_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
_SHOWN = 20
"""Estimates by which pages say how far they usually are off."""
_OFF_SECONDS = (-3600, -600, -120, -30, -10, -5, -2, 0, 2, 5, 10, 30, 120, 600, 3600)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "hls_gateway_request_seconds",
            "Time until the answer began, by route, method and status.",
            ("route", "method", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.uploads = Histogram(
            "hls_gateway_accept_seconds",
            "Last byte of an upload to its answer, by outcome.",
            ("outcome",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.upload_bytes = Counter("hls_gateway_upload_bytes", "Bytes of packages received.", registry=self.registry)
        self.uploading = Gauge("hls_gateway_uploads", "Uploads being sent now.", registry=self.registry)
        self.stages = Histogram(
            "hls_stage_seconds",
            "Time an upload spent in a state before it moved on.",
            ("state",),
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.estimate_off = Histogram(
            "hls_estimate_off_seconds",
            "Completion minus estimated completion; positive means later than promised.",
            buckets=_OFF_SECONDS,
            registry=self.registry,
        )
        self._latest_off: deque[float] = deque(maxlen=_SHOWN)
        self.deliveries = Counter(
            "hls_webhook_deliveries", "Webhook deliveries tried, by outcome.", ("outcome",), registry=self.registry
        )

    def note_estimate(self, off: float) -> None:
        """`off`: seconds from the estimated to the real completion."""
        self.estimate_off.observe(off)
        self._latest_off.append(off)

    def usually_off(self) -> float | None:
        """Seconds by which the latest estimates were off, in either direction, at the median; None without any."""
        return statistics.median(map(abs, self._latest_off)) if self._latest_off else None
