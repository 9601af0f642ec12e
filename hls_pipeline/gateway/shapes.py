"""What requests and answers look like, in `/openapi.json` too: one model for each, with an example that is true.

Routes that answer stored text are only described by these; the others are checked against them before they answer.
Metadata documents are in `hls_pipeline.documents`, webhooks in `webhook_shapes.py`. `openapi.py` makes a description of
all models.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hls_pipeline import keys
from hls_pipeline.documents import FinalDocument, TemporaryDocument, WithdrawnDocument
from hls_pipeline.uploads import State

VIDEO_ID = f"^{keys.VIDEO_ID.pattern}$"

_CID = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
UPLOAD = "9f86d081884c7d659a2feaa0c55ad015"
TIME = "2026-01-05T15:04:12.250Z"

TEMPORARY: dict[str, Any] = {
    "video_id": "video_123",
    "revision": 1,
    "status": "processing",
    "s3_manifest": "s3://media/video_123/r1/s3/master.m3u8",
    "play": "/v1/videos/video_123/play/master.m3u8",
    "estimated_completion": "2026-01-05T15:05:00Z",
    "title": "Aurora",
    "video_assets": {
        "s3_m3u8": "s3://media/video_123/r1/s3/master.m3u8",
        "segments": ["s3://media/video_123/r1/media/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy.ts"],
    },
}
FINAL: dict[str, Any] = {
    "video_id": "video_123",
    "revision": 1,
    "status": "ready",
    "play": "/v1/videos/video_123/play/master.m3u8",
    "completed_at": "2026-01-05T15:04:58Z",
    "replicas": 1,
    "title": "Aurora",
    "video_assets": {
        "ipfs_m3u8": "ipfs://bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4?filename=master.m3u8",
        "ipfs_directory": f"ipfs://{_CID}",
        "ipfs_record": "ipfs://bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        "playlist": "master.m3u8",
        "segments": ["ipfs://bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"],
    },
}
_WITHDRAWN = {
    "video_id": "video_123",
    "revision": 1,
    "status": "withdrawn",
    "withdrawn_at": "2026-02-01T08:00:00Z",
    "reason": "withdrawn by its owner",
}
_FINDING = {
    "code": "URI_MISSING_FILE",
    "path": "v/index.m3u8",
    "line": 8,
    "message": "names 's1.ts', which is not in the package",
    "section": "RFC 8216, 4.3.2.1",
    "advice": "send the file too, or take it out of the playlist",
}
REPORT: dict[str, Any] = {"accepted": False, "root": "master.m3u8", "errors": [_FINDING], "warnings": []}


def example(**values: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


# ---- refusals ---------------------------------------------------------------------------------------------------


class Finding(BaseModel):
    """One broken rule at one place."""

    code: str
    path: str
    line: int | None
    message: str
    section: str | None
    advice: str
    column: int | None = None


class Report(BaseModel):
    """What is wrong with a package."""

    accepted: bool
    root: str | None = Field(description="the root playlist, if one could be told")
    errors: list[Finding]
    warnings: list[Finding]


class Fault(BaseModel):
    place: str
    message: str


class Problem(BaseModel):
    """A refusal (RFC 9457). Rely on `code`."""

    model_config = example(
        type="urn:hls-pipeline:problem:not_found",
        title="Not Found",
        status=404,
        code="not_found",
        detail="video video_123: not known here",
        request_id="4f2a9c01d5e7b386",
    )

    type: str
    title: str
    status: int
    code: str = Field(description="stable; `docs/reference/api.md` lists all")
    detail: str
    request_id: str
    report: Report | None = Field(None, description="what is wrong with a refused package")
    missing: list[str] | None = Field(None, description="files that were announced and did not arrive")
    errors: list[Fault] | None = Field(None, description="which parts of the request do not fit")


# ---- documents --------------------------------------------------------------------------------------------------


class OnRecord(BaseModel):
    """Everything arrived and goes on by itself; there is no document yet."""

    model_config = example(video_id="video_123", upload_id=UPLOAD, status="received")

    video_id: str
    upload_id: str
    status: State


class StatusAlone(BaseModel):
    """A video that never had a document."""

    video_id: str
    revision: None
    status: State
    report: Report | None = None


class FailedDocument(BaseModel):
    """The temporary document of a video whose way ended: its tries are used up, or it was withdrawn."""

    model_config = ConfigDict(extra="allow")

    video_id: str
    revision: int
    status: Literal["failed", "withdrawn"]


Accepted = TemporaryDocument | FinalDocument | OnRecord
Document = TemporaryDocument | FinalDocument | WithdrawnDocument | FailedDocument | StatusAlone


_VERSION: dict[str, Any] = {
    "n": 2,
    "revision": 1,
    "time": TIME,
    "actor": "pipeline",
    "reason": "published",
    "run_id": "6f1d7b8e-2f0c-4d6c-9a66-2f1d8d1b9d10",
    "document": FINAL,
    "document_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "previous_hash": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
    "hash": "baa5a0964d3320fbc0c6a922140453c8513ea24ab8fd0577034804a967248096",
    "cid": None,
}


class VersionItem(BaseModel):
    """A document the video had, with who, when and why."""

    model_config = example(**_VERSION)

    n: int
    revision: int
    time: str
    actor: str
    reason: str
    run_id: str | None
    document: dict[str, Any]
    document_sha256: str
    previous_hash: str | None
    hash: str = Field(description="SHA-256 of RFC 8785 of the other facts and of the hash before")
    cid: str | None = Field(description="of the document on IPFS, where it was put there")


class Versions(BaseModel):
    model_config = example(video_id="video_123", versions=[_VERSION])

    video_id: str
    versions: list[VersionItem] = Field(description="oldest first")


# ---- progress ---------------------------------------------------------------------------------------------------

_ARRIVAL: dict[str, Any] = {
    "video_id": "video_123",
    "upload_id": UPLOAD,
    "state": "staged",
    "revision": 1,
    "title": "Aurora",
    "bytes": 2413920,
    "received_at": "2026-01-05T15:04:11.100Z",
    "updated_at": TIME,
    "attempts": 1,
}


class Arrival(BaseModel):
    """The newest arrival of a video."""

    model_config = example(**_ARRIVAL)

    video_id: str
    upload_id: str
    state: State
    revision: int | None
    title: str | None
    bytes: int
    received_at: str
    updated_at: str
    attempts: int


class VideoList(BaseModel):
    model_config = example(videos=[_ARRIVAL], next=None)

    videos: list[Arrival]
    next: str | None = Field(description="`after` of the next page; null on the last")


class StepItem(BaseModel):
    name: str
    title: str
    at: str | None
    done: bool


_STATUS: dict[str, Any] = {
    **_ARRIVAL,
    "percent": 47,
    "estimated_completion": "2026-01-05T15:05:00Z",
    "eta_seconds": 21.4,
    "estimate_off_seconds": None,
    "retry_at": None,
    "troubled": False,
    "steps": [
        {"name": "received", "title": "Received", "at": "2026-01-05T15:04:11.100Z", "done": True},
        {"name": "published", "title": "Published", "at": None, "done": False},
    ],
    "report": None,
}


class Status(Arrival):
    """How far the newest arrival has come."""

    model_config = example(**_STATUS)

    percent: int = Field(ge=0, le=100)
    estimated_completion: str | None
    eta_seconds: float | None = Field(description="until the estimated completion; null once it goes no further")
    estimate_off_seconds: float | None = Field(description="completion minus its estimate; positive is late")
    retry_at: str | None
    troubled: bool = Field(description="a try did not succeed; the pipeline goes on, or waits for a person if failed")
    steps: list[StepItem]
    report: Report | None


class StatusEvent(Status):
    """What `/events` sends."""

    model_config = example(**_STATUS, version=1)

    version: int | None = Field(description="number of the document that readers get")


class Proof(BaseModel):
    """Which nodes proved to hold the video, and what was removed from S3 on that."""

    model_config = example(
        video_id="video_123",
        revision=1,
        state="cleared",
        directory=_CID,
        record="bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        blocks=14,
        proofs=[{"kind": "proof", "level": "complete", "root": _CID, "peer_id": "12D3KooWExample", "at": TIME}],
        deletions=[],
    )

    video_id: str
    revision: int | None
    state: State
    directory: str | None = Field(description="CID of the published directory")
    record: str | None = Field(description="CID of the record directory")
    blocks: int | None
    proofs: list[dict[str, Any]]
    deletions: list[dict[str, Any]]


class Withdrawn(BaseModel):
    model_config = example(document=_WITHDRAWN, left=0)

    document: WithdrawnDocument
    left: int = Field(ge=0, description="things that the clean-up still has to do")


# ---- presigned uploads ------------------------------------------------------------------------------------------


class FileToSend(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(max_length=1024)
    size: int = Field(ge=0, description="bytes")


Event = Literal["video.processing", "video.ready", "video.failed", "video.cleared", "video.withdrawn"]


class UploadWebhook(BaseModel):
    """Who is to be told of one upload, and of nothing else. The log of its deliveries is under the upload's id."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"url": "https://example.com/hooks/video", "secret": "a-long-secret-of-the-sender"}]
        },
    )

    url: str = Field(max_length=2000)
    secret: str = Field(min_length=16, max_length=64, description="signs the deliveries")
    events: list[Event] = Field(default_factory=lambda: list(get_args(Event)), min_length=1)

    @field_validator("secret")
    @classmethod
    def _can_be_stored(cls, secret: str) -> str:
        if "\0" in secret:
            raise ValueError("it has a NUL")
        return secret


class UploadRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "files": [{"path": "master.m3u8", "size": 312}, {"path": "v/seg_000.ts", "size": 188000}],
                    "video_id": "video_123",
                    "metadata": {"title": "Aurora"},
                }
            ]
        },
    )

    files: list[FileToSend] = Field(min_length=1)
    video_id: str | None = Field(None, json_schema_extra={"pattern": VIDEO_ID})
    metadata: dict[str, Any] | None = Field(None, description="metadata.json; leave it out of `files` then")
    webhook: UploadWebhook | None = Field(None, description="who is to be told of this upload")


class Address(BaseModel):
    part: int
    size: int = Field(description="bytes; signed, so exactly as many must be put")
    url: str


class FileAddresses(BaseModel):
    path: str
    size: int
    urls: list[Address]


class PresignedUpload(BaseModel):
    """What is still missing, with addresses for it."""

    model_config = example(
        id="3b1f0f6f9a6c4a5e8a2f7c9d0e1b2a3c",
        video_id="video_123",
        expires_at="2026-01-05T21:04:12.250Z",
        part_size=67108864,
        complete=False,
        files=[
            {
                "path": "v/seg_000.ts",
                "size": 188000,
                "urls": [
                    {
                        "part": 1,
                        "size": 188000,
                        "url": "https://s3.example.com/media/_uploads/3b1f/v/seg_000.ts?X-Amz-…",
                    }
                ],
            }
        ],
    )

    id: str
    video_id: str
    expires_at: str
    part_size: int
    complete: bool
    files: list[FileAddresses]


# ---- health -----------------------------------------------------------------------------------------------------


class Health(BaseModel):
    model_config = example(status="ok")

    status: Literal["ok"]


class Ready(BaseModel):
    model_config = example(
        status="ready", services={"database": "ok", "s3 media": "ok", "s3 inbox": "ok", "ipfs 0": "ok"}
    )

    status: Literal["ready", "not ready"]
    services: dict[str, str] = Field(description="`ok`, `no_answer`, or the code of what is wrong")
