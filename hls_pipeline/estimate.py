"""How long a package will take, judged by how long the last ones took."""

from __future__ import annotations

from datetime import datetime, timedelta

from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import Upload

_FIXED_SECONDS = 2.0
"""What a package takes beside its bytes: starting, walking and confirming."""
_FIRST_GUESS = 40e6
"""Bytes per second until there is something to go by."""


def completion(upload: Upload, store: MetadataStore, now: datetime) -> datetime:
    """When the final document will be there: fixed part, its own bytes, and the bytes queued before it."""
    past = store.recent_publications(20)
    moving = sum(max(seconds - _FIXED_SECONDS, 0.05) for _, seconds in past)
    rate = sum(size for size, _ in past) / moving if past else _FIRST_GUESS
    ahead = store.bytes_in_work(before=upload)
    return now + timedelta(seconds=_FIXED_SECONDS + ((upload.size or 0) + ahead) / max(rate, 1.0))
