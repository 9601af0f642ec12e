"""How much one caller may ask of one gateway process: requests, uploads at once, bytes.

Counted in memory: a limit protects this process, and a second gateway has limits of its own. A token bucket refills
evenly, so that a burst of a few seconds passes.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.problems import Refused

_REMEMBERED = 10_000
"""Callers whose buckets are kept; the one not seen for longest is forgotten first, and starts full again."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class _Buckets:
    """Token buckets by caller. `size` tokens fit, and that many flow in within `seconds`."""

    def __init__(self, size: float, seconds: float) -> None:
        self._size, self._rate = size, size / seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str, tokens: float) -> float:
        """0 when they were there, otherwise the seconds until they are, if nobody takes others meanwhile."""
        bucket = self._filled(caller)
        if bucket.tokens < tokens:
            return (tokens - bucket.tokens) / self._rate
        bucket.tokens -= tokens
        return 0.0

    def give_back(self, caller: str, tokens: float) -> None:
        self._filled(caller).tokens += tokens  # what is too much flows over at the next look

    def _filled(self, caller: str) -> _Bucket:
        now = time.monotonic()
        bucket = self._buckets.pop(caller, None) or _Bucket(self._size, now)
        bucket.tokens = min(self._size, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[caller] = bucket
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket


class Limits:
    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._requests = _Buckets(settings.requests_per_minute, 60)
        self._bytes = _Buckets(settings.bytes_per_hour, 3600)
        self._sign_ins = _Buckets(10, 60)
        self._lines = _Buckets(settings.requests_per_minute, 60)
        self._unlogged = 0
        self._uploading: Counter[str] = Counter()

    def count_request(self, caller: str) -> None:
        """Raises Refused (429)."""
        self._refuse_until(self._requests.take(caller, 1), "too_many_requests", "too many requests")

    def count_sign_in(self, address: str) -> None:
        """Raises Refused (429): keys are not to be guessed."""
        self._refuse_until(self._sign_ins.take(address, 1), "too_many_requests", "too many attempts to sign in")

    def log_line(self, caller: str) -> dict[str, int] | None:
        """What its line says of those left out since the last one; None when it is left out itself. A caller gets as
        many lines as requests, or whoever is refused all day fills the disk."""
        if self._lines.take(caller, 1):
            self._unlogged += 1
            return None
        unlogged, self._unlogged = self._unlogged, 0
        return {"unlogged": unlogged} if unlogged else {}

    def count_bytes(self, caller: str, count: int) -> None:
        """Before they are sent, where their number is known. Raises Refused (429, or 413 for more than can ever be)."""
        if count > self._settings.bytes_per_hour:
            text = f"this key may upload {self._settings.bytes_per_hour:,} bytes an hour"
            raise Refused(413, "too_large", text)
        self._refuse_until(self._bytes.take(caller, count), "too_many_bytes", "this key has uploaded too much lately")

    def not_sent(self, caller: str, count: int) -> None:
        """So many of the bytes counted never came."""
        self._bytes.give_back(caller, count)

    @contextmanager
    def uploading(self, caller: str) -> Iterator[None]:
        """One of the caller's uploads runs. Raises Refused (429, or 503 when all places are taken)."""
        if self._uploading[caller] >= self._settings.uploads_per_key:
            raise Refused(
                429,
                "too_many_uploads",
                f"{self._uploading[caller]} uploads of this key run already",
                {"Retry-After": "5"},
            )
        if self._uploading.total() >= self._settings.uploads_at_once:
            raise Refused(503, "busy", "all places for uploads are taken; try again in a moment", {"Retry-After": "5"})
        self._uploading[caller] += 1
        try:
            yield
        finally:
            self._uploading[caller] -= 1
            if not self._uploading[caller]:
                del self._uploading[caller]

    @property
    def uploads(self) -> int:
        return self._uploading.total()

    def _refuse_until(self, seconds: float, code: str, text: str) -> None:
        if seconds:
            raise Refused(429, code, f"{text}; slow down", {"Retry-After": str(math.ceil(seconds))})
