"""The tables of the metadata store, the same in SQLite and PostgreSQL.

Times are texts of `clock.text`, documents are texts too: what a hash covers must come back byte for byte. A change
here needs a migration in `migrations/versions/`; a test compares both.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock

metadata = sa.MetaData()


class Json(sa.types.TypeDecorator[Any]):
    """JSON as text: PostgreSQL's own JSON types refuse U+0000 and do not keep what they were given."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware datetime as `clock.text`."""

    impl = sa.String(24)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else clock.text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else clock.parse(value)


video = sa.Table(
    "video",
    metadata,
    sa.Column("video_id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64)),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("versions", sa.Integer, nullable=False, default=0, comment="documents so far"),
    sa.Column("current_version", sa.Integer, comment="the document readers get"),
    sa.Column("current_revision", sa.Integer, comment="the highest revision that is ready"),
    sa.Column("mirrored_version", sa.Integer, comment="the document last copied to S3"),
)

upload = sa.Table(
    "upload",
    metadata,
    sa.Column("upload_id", sa.String(32), primary_key=True),
    sa.Column("video_id", sa.ForeignKey("video.video_id"), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("drop", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.Column("revision", sa.Integer),
    sa.Column("failed_in", sa.String(16)),
    sa.Column("launches", sa.Integer, nullable=False, default=0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", Moment),
    sa.Column("profile", sa.String(32)),
    sa.Column("playlist", sa.Text),
    sa.Column("root", sa.String(128)),
    sa.Column("record", sa.String(128)),
    sa.Column("manifest", sa.String(128), comment="root playlist with ipfs:// references"),
    sa.Column("size", sa.BigInteger),
    sa.Column("blocks", sa.BigInteger),
    sa.Column("dag_bytes", sa.BigInteger),
    sa.Column("facts", Json),
    sa.Column("metadata", Json),
    sa.Column("report", Json),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("video_id", "revision"),
    sa.Index("upload_by_video", "video_id", "created_at"),
    sa.Index("upload_by_time", "created_at", "upload_id"),
    sa.Index("upload_by_state", "state", "not_before"),
)

state_change = sa.Table(
    "state_change",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("time", Moment, nullable=False),
    sa.Column("run_id", sa.String(64)),
)

inventory = sa.Table(
    "inventory",
    metadata,
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, comment="order of the playlists, depth first"),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("role", sa.String(24), nullable=False),
    sa.Column("content_type", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False, comment="bytes as published"),
    sa.Column("cid", sa.String(128), nullable=False, comment="content id as published"),
    sa.Column("dag_size", sa.BigInteger, nullable=False, comment="bytes of its DAG, repeated blocks counted"),
    sa.Column("dag_blocks", sa.BigInteger, nullable=False, comment="blocks of its DAG, repeated ones counted"),
    sa.Column("key", sa.Text, comment="in the media bucket"),
    sa.Column("source_key", sa.Text, comment="in the inbox"),
    sa.UniqueConstraint("upload_id", "path"),
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("video_id", sa.ForeignKey("video.video_id"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False, comment="canonical JSON, RFC 8785"),
    sa.Column("document_sha256", sa.String(64), nullable=False),
    sa.Column("previous_hash", sa.String(64)),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64)),
    sa.Column("time", Moment, nullable=False),
    sa.Column("shown", sa.Boolean, nullable=False, server_default=sa.true(), comment="current from its time on"),
)

document_copy = sa.Table(
    "document_copy",
    metadata,
    sa.Column("video_id", sa.String(64), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cid", sa.String(128), nullable=False, comment="of the canonical JSON"),
    sa.ForeignKeyConstraint(["video_id", "n"], ["version.video_id", "version.n"]),
)

temp_storage = sa.Table(
    "temp_storage",
    metadata,
    sa.Column("cid", sa.Text, primary_key=True, comment="the object's s3:// address"),
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content_id", sa.String(128), comment="what IPFS calls the same bytes"),
    sa.Column("etag", sa.Text),
    sa.Column("version_id", sa.Text),
    sa.Column("due_at", Moment, index=True),
)

video_lease = sa.Table(
    "video_lease",
    metadata,
    sa.Column("video_id", sa.ForeignKey("video.video_id"), primary_key=True),
    sa.Column("upload_id", sa.String(32), nullable=False),
    sa.Column("holder", sa.String(64), comment="the run; empty when released"),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
)
_held = video_lease.c.holder.is_not(None)
sa.Index("held_leases", video_lease.c.expires_at, sqlite_where=_held, postgresql_where=_held)

claim = sa.Table(
    "claim",
    metadata,
    sa.Column("root", sa.String(128), primary_key=True),
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), primary_key=True, index=True),
    sa.Column("released_at", Moment, comment="being unpinned since"),
)

receipt = sa.Table(
    "receipt",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), nullable=False),
    sa.Column("kind", sa.String(24), nullable=False, comment="proof, deletion, finding, restoration or withdrawal"),
    sa.Column("content", Json, nullable=False),
    sa.Column("time", Moment, nullable=False),
    sa.Column("run_id", sa.String(64)),
    sa.Column("hash", sa.String(64), comment="of it and the one before"),
    sa.Index("receipt_by_upload", "upload_id", "id"),
)

# ---- the gateway's own ------------------------------------------------------------------------------------------

api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("revoked_at", Moment),
    sa.Column("session_of", sa.ForeignKey("api_key.key_id"), index=True, comment="the key a browser session acts for"),
    sa.Column("last_used_at", Moment, comment="to the minute"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("key_id", sa.ForeignKey("api_key.key_id"), primary_key=True),
    sa.Column("idempotency_key", sa.String(255), primary_key=True),
    sa.Column("request", sa.Text, nullable=False, comment="what was asked, to tell another request from a repeat"),
    sa.Column("created_at", Moment, nullable=False, index=True),
    sa.Column("status", sa.Integer, comment="empty while the first request is under way"),
    sa.Column("body", sa.Text),
)

presigned_upload = sa.Table(
    "presigned_upload",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.ForeignKey("api_key.key_id"), nullable=False),
    sa.Column("video_id", sa.String(64), nullable=False),
    sa.Column("files", Json, nullable=False, comment="path, size and, for files in parts, the S3 upload"),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False, index=True),
    sa.Column("completed_at", Moment),
    sa.Column("upload_id", sa.String(32), comment="the arrival it became"),
    sa.Column("webhook", Json, comment="who is to be told of it, as it was asked for"),
)

webhook = sa.Table(
    "webhook",
    metadata,
    sa.Column("webhook_id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.ForeignKey("api_key.key_id"), nullable=False, index=True),
    sa.Column("video_id", sa.String(64), comment="only this video; empty for all of the key"),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.String(64), nullable=False, comment="signs; the receiver has it too"),
    sa.Column("events", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("since", sa.Integer, nullable=False, server_default="0", comment="told of later state_changes alone"),
    sa.Column("seen", sa.Integer, nullable=False, comment="the last state_change that was looked at"),
    sa.Column("upload_id", sa.String(32), index=True, comment="only this upload; empty for all"),
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("delivery_id", sa.String(32), primary_key=True),
    sa.Column("webhook_id", sa.ForeignKey("webhook.webhook_id"), nullable=False, index=True),
    sa.Column("state_change", sa.Integer, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", Moment, index=True, comment="empty once it is delivered or given up"),
    sa.Column("delivered_at", Moment),
    sa.Column("answer", sa.Text, comment="what the receiver said last, or why it could not be asked"),
    sa.UniqueConstraint("webhook_id", "state_change"),
)

# ---- for those who operate it -----------------------------------------------------------------------------------

failure = sa.Table(
    "failure",
    metadata,
    sa.Column("upload_id", sa.ForeignKey("upload.upload_id"), primary_key=True),
    sa.Column("state", sa.String(16), primary_key=True, comment="the upload was in"),
    sa.Column("code", sa.String(64), primary_key=True, comment="of the error, see errors.py"),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", Moment, nullable=False),
    sa.Column("last_at", Moment, nullable=False),
    sa.Column("message", sa.Text, nullable=False, comment="of the last one"),
)

anchor = sa.Table(
    "anchor",
    metadata,
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", Moment, nullable=False),
    sa.Column("root", sa.String(128), nullable=False, comment="directory on IPFS that holds the heads"),
    sa.Column("key", sa.Text, nullable=False, comment="of the same bytes in the media bucket"),
    sa.Column("videos", sa.Integer, nullable=False),
)

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True, comment="what is wrong with what"),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("link", sa.Text, nullable=False),
    sa.Column("opened_at", Moment, nullable=False),
    sa.Column("closed_at", Moment),
    sa.Column("told", Json, nullable=False, comment="channel to when it was told"),
)

replica_proof = sa.Table(
    "replica_proof",
    metadata,
    sa.Column("root", sa.String(128), primary_key=True),
    sa.Column("peer_id", sa.String(128), primary_key=True, comment="of the node, whatever its address"),
    sa.Column("proven_at", Moment, nullable=False, comment="every block was given back and hashed"),
)

checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("time", Moment, nullable=False),
    sa.Column("content", Json, nullable=False),
)
