"""How long a package will take, judged by how long the last ones took in each stage of the way.

A stage takes some seconds whatever the size, and some for every byte. Both are fitted to the newest publications; as
far as those are too alike in size to tell the two apart, the first guess of the throughput stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean

from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import Upload

_PAST = 20
_DOUBT = 100e6
"""Bytes by which sizes must differ before they say more about the throughput than the first guess does."""


@dataclass(frozen=True)
class Pace:
    """Of one stage."""

    fixed: float  # seconds
    per_byte: float  # seconds

    def seconds(self, size: int) -> float:
        return self.fixed + self.per_byte * size


_TO_IPFS, _TO_FINAL = Pace(1.5, 1 / 40e6), Pace(0.5, 0.0)
"""First guesses: staged to pinned, and pinned to published."""


def completion(upload: Upload, store: MetadataStore, now: datetime) -> datetime:
    """When the final document will be there: its own way, after the bytes that are queued before it."""
    past = store.recent_publications(_PAST)
    to_ipfs = pace([(done.size, done.to_pinned) for done in past], _TO_IPFS)
    to_final = pace([(done.size, done.to_published) for done in past], _TO_FINAL)
    size, ahead = upload.size or 0, store.bytes_in_work(before=upload)
    return now + timedelta(seconds=to_ipfs.seconds(size) + to_final.seconds(size) + to_ipfs.per_byte * ahead)


def pace(past: Sequence[tuple[int, float]], guess: Pace) -> Pace:
    """Fitted to (bytes, seconds): least squares, drawn towards the guess by the doubt."""
    if not past:
        return guess
    size, took = fmean(size for size, _ in past), fmean(seconds for _, seconds in past)
    together = sum((each - size) * (seconds - took) for each, seconds in past)
    spread = sum((each - size) ** 2 for each, _ in past)
    per_byte = max(0.0, (together + guess.per_byte * _DOUBT**2) / (spread + _DOUBT**2))
    return Pace(max(0.0, took - per_byte * size), per_byte)
