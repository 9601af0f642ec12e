"""What the commands print with `--json`, one type for each; `docs/schema/` is written from them.

A command that gains `--json` needs its line in `OUTPUTS`. Where a command prints a model or the fields of a dataclass,
that one is named and not written down again.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from hls_pipeline.commands.doctor import Health
from hls_pipeline.documents import FinalDocument, TemporaryDocument, WithdrawnDocument
from hls_pipeline.evidence import Evidence
from hls_pipeline.gateway.shapes import Accepted, Report
from hls_pipeline.queue.broker import DeadLetter, QueueState
from hls_pipeline.upkeep.alerts import Problem
from hls_pipeline.upkeep.drift import Finding as Difference
from hls_pipeline.uploads import State

# ---- packages on this computer ------------------------------------------------------------------------------------


class Check(Report):
    package: str


class Reference(TypedDict):
    line: int
    tag: str
    attribute: str | None
    kind: str
    uri: str
    byterange: str | None


class HashedFile(TypedDict):
    path: str
    cid: str
    size: int


class Hashed(TypedDict):
    cid: str
    profile: str
    size: int
    files: list[HashedFile]


# ---- videos -------------------------------------------------------------------------------------------------------


class Video(TypedDict):
    video_id: str
    state: State
    revision: int | None
    upload_id: str
    received_at: str
    updated_at: str
    bytes: int | None
    ipfs_directory: str | None
    attempts: int
    next_try: str | None
    error: str | None


class Since(TypedDict):
    state: State
    since: str
    run_id: str | None


class InS3(TypedDict):
    objects: int
    bytes: int
    due_at: str | None


class Status(Video):
    history: list[Since]
    report: Report | None
    in_s3: InS3
    findings: list[dict[str, Any]]
    document: TemporaryDocument | FinalDocument | WithdrawnDocument | None


class Change(TypedDict):
    path: str
    kind: Literal["added", "removed", "changed"]
    old: NotRequired[Any]
    new: NotRequired[Any]


class Version(TypedDict):
    n: int
    revision: int
    document: dict[str, Any]
    document_sha256: str
    previous_hash: str | None
    hash: str
    actor: str
    reason: str
    run_id: str | None
    time: str
    shown: bool
    cid: str | None
    hash_holds: bool
    changes: list[Change]


class Versions(TypedDict):
    video_id: str
    versions: list[Version]


class Withdrawn(TypedDict):
    video_id: str
    document: WithdrawnDocument
    left: list[str]


class Rehydrated(TypedDict):
    video_id: str
    restored: int
    bytes: int
    in_s3: InS3


class Exported(TypedDict):
    video_id: str
    file: str
    root: str
    bytes: int


class Imported(TypedDict):
    video_id: str
    revision: int
    state: State
    root: str


class AtService(TypedDict):
    service: str
    root: str
    at: str
    status: str
    requestid: NotRequired[str | None]
    reason: NotRequired[str]


class Pinning(TypedDict):
    video_id: str
    services: list[AtService]


class Checked(TypedDict):
    """With `--check`."""

    video_id: str
    revision: int
    root: str
    holds: bool
    problems: list[str]


# ---- the installation ---------------------------------------------------------------------------------------------


class Doctor(TypedDict):
    ok: bool
    checks: list[Health]


class Setup(TypedDict):
    made: list[str]
    changed: list[str]
    versioned: bool
    dagster: bool


class Node(TypedDict):
    node: str
    peer_id: str | None
    unreachable: str | None
    pins: int
    missing: int
    proven: int
    damaged: int
    mended: int
    left: int
    oldest_proof: str | None


class Repin(TypedDict):
    healthy: bool
    wanted: int
    quorum: int
    nodes: list[Node]
    short: int
    lost: int
    problems: list[str]
    more: int


class Backfill(TypedDict):
    videos: int
    backfill: str | None
    link: str | None


class Total(TypedDict):
    findings: int
    count: int
    bytes: int
    done: int


class Reconcile(TypedDict):
    clean: bool
    applied: bool
    began: str
    resumed: bool
    objects: int
    foreign_objects: int
    foreign_pins: int
    kinds: dict[str, Total]
    findings: list[Difference]


class Break(TypedDict):
    video_id: str
    version: int
    what: str


class Verified(TypedDict):
    holds: bool
    videos: int
    versions: int
    first_break: Break | None
    anchor: NotRequired[str]


class Anchored(TypedDict):
    root: str
    key: str
    time: str
    videos: int


class Totals(TypedDict):
    published: int
    refused: int
    failed: int
    success: float | None
    bytes_published: int
    bytes_per_second: float | None
    promises_kept: float | None
    files: int
    bytes: int
    bytes_in_s3: int
    bytes_saved: int
    bytes_unproven: int
    oldest_proof_days: float


Rows = list[dict[str, str | float | None]]


class Reported(TypedDict):
    at: str
    since: str
    totals: Totals
    volume: Rows
    stages: Rows
    throughput: Rows
    promises: Rows
    storage: Rows
    replication: Rows
    proof_age: Rows
    failures: Rows
    refusals: Rows
    content: Rows


class Queues(TypedDict):
    queues: list[QueueState]


class DeadLetters(TypedDict):
    dead_letters: list[DeadLetter]


class KeyMade(TypedDict):
    key: str
    name: str
    scopes: list[str]


class Key(TypedDict):
    key_id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


OUTPUTS: dict[str, Any] = {
    "alerts": Problem,
    "audit anchor": Anchored,
    "audit verify": Verified,
    "backfill": Backfill,
    "check": Check,
    "cid": Hashed,
    "doctor": Doctor,
    "export": Exported,
    "import": Imported,
    "keys list": Key,
    "keys make": KeyMade,
    "list": Video,
    "pinning": Pinning,
    "proof": Evidence | Checked,
    "queue dead": DeadLetters,
    "queue status": Queues,
    "reconcile": Reconcile,
    "rehydrate": Rehydrated,
    "repin": Repin,
    "report": Reported,
    "retry": Video,
    "rewrite": Reference,
    "setup": Setup,
    "status": Status,
    "submit": Accepted,
    "versions": Versions,
    "withdraw": Withdrawn,
}
"""Command → what one line of its output is."""
