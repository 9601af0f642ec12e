"""Log lines: JSON, one object each, with the ids of the request, the video and the run they belong to.

`frame.py` opens the ids of a request, `about` adds to them wherever something is learnt, also in threads that work for
it. Addresses with queries and headers are never logged; should a key or a signature get into a text all the same, it is
blotted out here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_ids: ContextVar[dict[str, str] | None] = ContextVar("hls_log_ids", default=None)
_SECRETS = re.compile(
    r"(hls_[0-9a-f]{12}_|X-Amz-(?:Signature|Credential|Security-Token)(?:=|%3D))[^\s&\"'@]+"
    r"|(://[^:/@\s]*:)[^\s\"']+(?=@)",  # a password; what follows a host is its port
    re.IGNORECASE,
)
_NOISY = ("botocore", "boto3", "s3transfer", "urllib3")


@contextmanager
def belonging(**ids: str) -> Iterator[None]:
    """Lines of the block carry these ids, and those said by `about` in it."""
    token = _ids.set(dict(ids))
    try:
        yield
    finally:
        _ids.reset(token)


def about(**ids: str) -> None:
    """What this request turns out to be about."""
    if (known := _ids.get()) is not None:
        known.update(ids)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_ids.get() or {}),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _SECRETS.sub(r"\1\2***", json.dumps(line, ensure_ascii=False))


def to_stderr() -> None:
    """All lines of the process, from INFO on, go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
