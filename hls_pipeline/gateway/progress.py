"""How far an upload has come, as programs and pages are shown it.

Steps that ended are known; how much of the one under way is done is judged by the time it usually takes, and never
said to be complete before it is.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hls_pipeline import clock
from hls_pipeline.errors import NotFound
from hls_pipeline.gateway.records import Records
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import IN_WORK, State, Upload

History = tuple[tuple[State, datetime, str | None], ...]


@dataclass(frozen=True)
class Step:
    """One step as people read it: what is true afterwards, and the percent reached then."""

    name: str
    title: str
    reached: frozenset[State]
    percent: int


_ON = (State.STAGED, State.PINNED, State.PUBLISHED, State.CLEARED)

STEPS = (
    Step("received", "Received", frozenset(State), 10),
    Step("staged", "Checked and playable from S3", frozenset(_ON), 30),
    Step("pinned", "Proven on IPFS", frozenset(_ON[1:]), 85),
    Step("published", "Published", frozenset(_ON[2:]), 100),
    Step("cleared", "S3 copies removed", frozenset(_ON[3:]), 100),
)


def percent(upload: Upload, since: datetime, expected: datetime | None, now: datetime) -> int:
    """Of the way to `published`. `since` is when the present state began, `expected` the promised end."""
    reached = [step for step in STEPS if _state(upload) in step.reached]
    done = reached[-1].percent if reached else 0
    if upload.state not in IN_WORK or len(reached) == len(STEPS):
        return done
    ahead = STEPS[len(reached)].percent - done
    if expected is None or expected <= since:
        return done
    part = (now - since) / (expected - since)
    return done + int(ahead * min(max(part, 0.0), 0.95))


def _state(upload: Upload) -> State:
    return upload.failed_in or upload.state


def about(upload: Upload, store: MetadataStore, *, full: bool = False) -> dict[str, Any]:
    """With `full` also the history, the report, and the estimate."""
    shown: dict[str, Any] = {
        "video_id": upload.video_id,
        "upload_id": upload.upload_id,
        "state": str(upload.state),
        "revision": upload.revision,
        "title": title(upload),
        "bytes": upload.size if upload.size is not None else upload.drop.bytes,
        "received_at": clock.text(upload.created_at),
        "updated_at": clock.text(upload.updated_at),
        "attempts": upload.attempts,
    }
    if not full:
        return shown
    now = clock.now()
    expected = estimated(upload, store)
    history = store.history(upload.upload_id)
    since = history[-1][1] if history else upload.updated_at
    left = max(0.0, (expected - now).total_seconds()) if expected and upload.state in IN_WORK else None
    return {
        **shown,
        "percent": percent(upload, since, expected, now),
        "estimated_completion": clock.seconds_text(expected) if expected else None,
        "eta_seconds": None if left is None else round(left, 1),
        "estimate_off_seconds": _off(expected, history),
        "retry_at": clock.text(upload.not_before) if upload.not_before and upload.state in IN_WORK else None,
        "troubled": bool(upload.error) and upload.state in (IN_WORK | {State.FAILED}),
        "steps": [
            {"name": step.name, "title": step.title, "at": at, "done": at is not None}
            for step, at in ((step, _when(step, history)) for step in STEPS)
        ],
        "report": upload.report,
    }


def title(upload: Upload) -> str | None:
    found = (upload.metadata or {}).get("title")
    return found if isinstance(found, str) else None


def estimated(upload: Upload, store: MetadataStore) -> datetime | None:
    """What the temporary document promised; None before there is one."""
    try:
        return _promised(store, upload.video_id, upload.revision) if upload.revision else None
    except NotFound:
        return None


@functools.lru_cache(maxsize=4096)
def _promised(store: MetadataStore, video_id: str, revision: int) -> datetime:
    """Kept, because it never changes and every look at a status asks for it. Raises NotFound."""
    document = Records(store).first_document(video_id, revision)
    promise = json.loads(document).get("estimated_completion") if document else None
    if promise is None:
        raise NotFound(f"nothing was promised for revision {revision} of video {video_id}")
    return clock.parse(promise)


def _off(promised: datetime | None, history: History) -> float | None:
    """Seconds from the promised to the real completion."""
    done = next((time for state, time, _ in history if state is State.PUBLISHED), None)
    return round((done - promised).total_seconds(), 1) if done and promised else None


def _when(step: Step, history: History) -> str | None:
    return next((clock.text(time) for state, time, _ in history if state == step.name), None)
