"""When keys were last used. Kept in memory and written once in a while: a write for each request would cost more than
the request."""

from __future__ import annotations

from datetime import datetime

from hls_pipeline import clock
from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway.records import Records


class LastUse:
    def __init__(self, records: Records) -> None:
        self._records = records
        self._seen: dict[str, datetime] = {}

    def note(self, key_id: str) -> None:
        self._seen[key_id] = clock.now()

    def write(self) -> None:
        """What was noted since the last time. Raises Outage; then it is kept for the next."""
        seen, self._seen = self._seen, {}
        try:
            if seen:
                self._records.note_use(seen)
        except PipelineError:
            self._seen = seen | self._seen
            raise
