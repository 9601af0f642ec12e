"""Time as this package writes it down: UTC, milliseconds, RFC 3339 with `Z`.

The fixed width makes texts compare like the instants they name, in both databases.
"""

from __future__ import annotations

from datetime import UTC, datetime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


def text(moment: datetime) -> str:
    """`2026-01-05T15:05:00.123Z`"""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse(value: str) -> datetime:
    return datetime.fromisoformat(value)


def seconds_text(moment: datetime) -> str:
    """`2026-01-05T15:05:00Z`, for documents that people read."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
