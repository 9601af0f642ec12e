"""What an upload is, the states it passes through, and when a folder in the inbox becomes one.

States and allowed moves are the two tables below; nothing else in the package decides a move. The judgement of an
inbox folder is a pure function of its listing, what is known of the video, and the clock. No I/O happens here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import rfc8785

from hls_pipeline import keys
from hls_pipeline.errors import Conflict


class State(StrEnum):
    RECEIVED = "received"  # a complete package is in the inbox
    STAGED = "staged"  # its files are in `media`, the temporary document is a version
    PINNED = "pinned"  # proven on a quorum of IPFS nodes
    PUBLISHED = "published"  # the final document is a version
    CLEARED = "cleared"  # and its S3 copies are gone
    REJECTED = "rejected"  # it breaks a rule; the report says which
    FAILED = "failed"  # tries used up; can be resumed
    SUPERSEDED = "superseded"  # something newer took its place
    UNCHANGED = "unchanged"  # same content and metadata as the current revision
    WITHDRAWN = "withdrawn"


MOVES: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset(
        {State.STAGED, State.REJECTED, State.UNCHANGED, State.FAILED, State.SUPERSEDED, State.WITHDRAWN}
    ),
    State.STAGED: frozenset({State.PINNED, State.FAILED, State.SUPERSEDED, State.WITHDRAWN}),
    State.PINNED: frozenset({State.PUBLISHED, State.FAILED, State.SUPERSEDED, State.WITHDRAWN}),
    State.PUBLISHED: frozenset({State.CLEARED, State.WITHDRAWN}),
    State.CLEARED: frozenset({State.WITHDRAWN}),
    State.FAILED: frozenset({State.RECEIVED, State.STAGED, State.PINNED, State.SUPERSEDED, State.WITHDRAWN}),
    State.SUPERSEDED: frozenset({State.WITHDRAWN}),
    State.REJECTED: frozenset(),
    State.UNCHANGED: frozenset(),
    State.WITHDRAWN: frozenset(),
}

IN_WORK = frozenset({State.RECEIVED, State.STAGED, State.PINNED})
"""States from which the path goes on by itself."""

READY = frozenset({State.PUBLISHED, State.CLEARED})
"""States in which all of the revision is on IPFS, and its final document a version."""

TAKEN_IN = READY | {State.UNCHANGED}
"""States in which nothing of the drop is needed in the inbox any more."""

PRIVATE_KEYS = "private_keys"
"""Fact of an upload: paths of the keys that lie in the private bucket, with their sizes."""

ACCEPTED_UNDER = "accepted_under"
"""Fact of an upload: `Policy.recorded` of the day it was accepted."""

ON_RECORD = frozenset({State.STAGED, State.PINNED, State.PUBLISHED, State.CLEARED})
"""States in which the revision's files, manifests or pins are to be kept."""


def check_move(upload_id: str, old: State, new: State) -> None:
    """Raises Conflict when the table does not allow the move; staying where one is, is always allowed."""
    if new is not old and new not in MOVES[old]:
        raise Conflict(f"upload {upload_id} is {old} and cannot become {new}")


@dataclass(frozen=True)
class DropObject:
    """One object of a drop, as S3 listed it when the drop was frozen."""

    key: str
    etag: str
    size: int  # bytes
    modified: datetime


@dataclass(frozen=True)
class Drop:
    """The frozen listing of a package where it arrived, without `_READY` and `_REJECTED.json`."""

    video_id: str
    bucket: str
    prefix: str
    """What all keys start with; the rest of a key is the path inside the package."""
    objects: tuple[DropObject, ...] = field(repr=False)
    ready: datetime | None
    """When it was marked ready; None for an inbox folder that started by being quiet."""

    @property
    def in_inbox(self) -> bool:
        """Whether the creator can write there: the gateway's own uploads are its alone."""
        return self.prefix == keys.inbox(self.video_id)

    def path(self, item: DropObject) -> str:
        return item.key.removeprefix(self.prefix)

    @property
    def upload_id(self) -> str:
        """Hash of the drop. `_READY`'s time is part of it, so that the same bytes sent again are a new arrival."""
        listing = [[item.key, item.etag, item.size] for item in self.objects]
        arrival = self.ready or max(item.modified for item in self.objects)
        frozen: Any = {"video_id": self.video_id, "objects": listing, "arrival": arrival.isoformat()}
        return hashlib.sha256(rfc8785.dumps(frozen)).hexdigest()[:32]

    @property
    def bytes(self) -> int:
        return sum(item.size for item in self.objects)

    def to_json(self) -> dict[str, Any]:
        return {
            "video_id": self.video_id,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "ready": self.ready and self.ready.isoformat(),
            "objects": [[o.key, o.etag, o.size, o.modified.isoformat()] for o in self.objects],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Drop:
        return cls(
            video_id=data["video_id"],
            bucket=data["bucket"],
            prefix=data["prefix"],
            ready=data["ready"] and datetime.fromisoformat(data["ready"]),
            objects=tuple(DropObject(k, e, s, datetime.fromisoformat(m)) for k, e, s, m in data["objects"]),
        )


@dataclass(frozen=True)
class Upload:
    """One arrival of a package and how far it has come. A value: the metadata store hands out a new one after
    each change."""

    upload_id: str
    video_id: str
    state: State
    drop: Drop = field(repr=False)
    created_at: datetime
    updated_at: datetime
    revision: int | None = None
    failed_in: State | None = None
    launches: int = 0
    attempts: int = 0
    not_before: datetime | None = None
    profile: str | None = None
    playlist: str | None = None
    """Package path of the root playlist."""
    root: str | None = None
    """CID of the published directory."""
    record: str | None = None
    """CID of the record directory: the `ipfs://` playlists, the original ones and the inventory."""
    manifest: str | None = None
    """CID of the root playlist with `ipfs://` references."""
    size: int | None = None
    """Bytes of the published directory's files."""
    blocks: int | None = None
    """Distinct blocks of the published directory."""
    dag_bytes: int | None = None
    """Bytes of those blocks."""
    facts: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    report: dict[str, Any] | None = None
    error: str | None = None

    @property
    def private_keys(self) -> dict[str, DropObject]:
        """Package path → object of the drop, for each key that goes to the private bucket and is not published."""
        paths = (self.facts or {}).get(PRIVATE_KEYS)
        return {path: item for item in self.drop.objects if (path := self.drop.path(item)) in paths} if paths else {}

    @property
    def incomplete(self) -> bool:
        """Whether a folder that nobody marked ready was found to miss files, and may yet get them."""
        return self.state is State.RECEIVED and self.revision is None and self.report is not None


# ---- when a folder becomes an upload --------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """An inbox folder as S3 lists it now, markers apart."""

    video_id: str
    bucket: str
    objects: tuple[DropObject, ...]
    ready: DropObject | None
    rejected: bool

    @property
    def last_write(self) -> datetime:
        return max((item.modified for item in self.objects), default=datetime.min.replace(tzinfo=UTC))

    def freeze(self) -> Drop:
        ready = self.ready.modified if self.ready else None
        return Drop(self.video_id, self.bucket, keys.inbox(self.video_id), self.objects, ready)

    def left_as_it_was(self, drop: Drop) -> bool:
        """Whether nothing was written here after `drop` was frozen (objects of it may be gone)."""
        known = {(item.key, item.etag, item.modified) for item in drop.objects}
        same_mark = self.ready is None or self.ready.modified == drop.ready
        return same_mark and all((o.key, o.etag, o.modified) in known for o in self.objects)


def folder_of(video_id: str, bucket: str, listing: Sequence[DropObject]) -> Folder:
    """Sorts a listing of `{video_id}/` into package and markers."""
    marks = {keys.inbox(video_id, keys.READY), keys.inbox(video_id, keys.REJECTED)}
    by_key = {item.key: item for item in listing}
    return Folder(
        video_id=video_id,
        bucket=bucket,
        objects=tuple(o for o in listing if o.key not in marks and not o.key.endswith("/")),
        ready=by_key.get(keys.inbox(video_id, keys.READY)),
        rejected=keys.inbox(video_id, keys.REJECTED) in by_key,
    )


@dataclass(frozen=True)
class Wait:
    """Why a folder does not start yet; shown in the sensor's tick."""

    reason: str


class TakenIn:
    """What lies in the folder has been taken in already, byte for byte: it may go."""


def judge(folder: Folder, latest: Upload | None, now: datetime, quiet: timedelta) -> Drop | Wait | TakenIn:
    """Whether a folder is a new drop. `latest` is the newest upload of the same video.

    A folder starts when `_READY` is younger than everything else in it, or when it has been quiet for `quiet` and
    was never judged. While an upload of the video is in work, or when the folder only holds what an earlier upload
    left there, it waits.
    """
    if not folder.objects and folder.ready is None:
        return Wait("empty")
    as_it_was = latest is not None and folder.left_as_it_was(latest.drop)
    if latest and latest.state in IN_WORK and (as_it_was or not latest.incomplete):
        return Wait(f"upload {latest.upload_id} of this video is in work")
    late_mark = latest is not None and latest.drop.ready is None and not folder.objects
    if latest and latest.state in TAKEN_IN and (as_it_was or late_mark):
        return TakenIn()
    if latest and as_it_was:
        return Wait(f"already judged: upload {latest.upload_id} is {latest.state}")
    marked = folder.ready is not None and folder.last_write <= folder.ready.modified
    if latest and latest.state is State.REJECTED and folder.rejected and not marked:
        return Wait("refused; write _READY again once it is corrected")
    if marked:
        return folder.freeze()
    if not folder.objects:
        return Wait("empty")
    if now - folder.last_write < quiet:
        return Wait("still being written")
    return folder.freeze()


def back_off(tries: int, first: float, ceiling: float = 300.0) -> timedelta:
    """Wait before try `tries` + 1: doubles from `first` seconds up to `ceiling` seconds."""
    return timedelta(seconds=min(ceiling, first * 2 ** min(tries, 16)))


def diagram() -> str:
    """The table of moves as a Mermaid state diagram; the README holds a copy that a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> received"]
    lines += [f"    {old} --> {new}" for old, news in MOVES.items() for new in sorted(news)]
    return "\n".join(lines)
