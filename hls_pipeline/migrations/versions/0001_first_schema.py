"""The first schema.

Revision 0001. Versions are only ever added: triggers refuse UPDATE and DELETE in both databases.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "video",
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False, comment="documents so far"),
        sa.Column("current_version", sa.Integer(), nullable=True, comment="the document readers get"),
        sa.Column("current_revision", sa.Integer(), nullable=True, comment="the highest revision that is ready"),
        sa.Column("mirrored_version", sa.Integer(), nullable=True, comment="the document last copied to S3"),
        sa.PrimaryKeyConstraint("video_id"),
    )
    op.create_table(
        "upload",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("drop", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("updated_at", sa.String(length=24), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("failed_in", sa.String(length=16), nullable=True),
        sa.Column("launches", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.String(length=24), nullable=True),
        sa.Column("profile", sa.String(length=32), nullable=True),
        sa.Column("playlist", sa.Text(), nullable=True),
        sa.Column("root", sa.String(length=128), nullable=True),
        sa.Column("record", sa.String(length=128), nullable=True),
        sa.Column("manifest", sa.String(length=128), nullable=True, comment="root playlist with ipfs:// references"),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("blocks", sa.BigInteger(), nullable=True),
        sa.Column("dag_bytes", sa.BigInteger(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["video_id"],
            ["video.video_id"],
        ),
        sa.PrimaryKeyConstraint("upload_id"),
        sa.UniqueConstraint("video_id", "revision"),
    )
    op.create_index("upload_by_state", "upload", ["state", "not_before"], unique=False)
    op.create_index("upload_by_video", "upload", ["video_id", "created_at"], unique=False)
    op.create_table(
        "version",
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False, comment="canonical JSON, RFC 8785"),
        sa.Column("document_sha256", sa.String(length=64), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("time", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(
            ["video_id"],
            ["video.video_id"],
        ),
        sa.PrimaryKeyConstraint("video_id", "n"),
    )
    op.create_table(
        "video_lease",
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True, comment="the run; empty when released"),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(
            ["video_id"],
            ["video.video_id"],
        ),
        sa.PrimaryKeyConstraint("video_id"),
    )
    op.create_index(op.f("ix_video_lease_expires_at"), "video_lease", ["expires_at"], unique=False)
    op.create_table(
        "claim",
        sa.Column("root", sa.String(length=128), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["upload.upload_id"],
        ),
        sa.PrimaryKeyConstraint("root", "upload_id"),
    )
    op.create_table(
        "inventory",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, comment="order of the playlists, depth first"),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=24), nullable=False),
        sa.Column("content_type", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes as published"),
        sa.Column("cid", sa.String(length=128), nullable=False, comment="content id as published"),
        sa.Column("dag_size", sa.BigInteger(), nullable=False, comment="bytes of its DAG, repeated blocks counted"),
        sa.Column("dag_blocks", sa.BigInteger(), nullable=False, comment="blocks of its DAG, repeated ones counted"),
        sa.Column("key", sa.Text(), nullable=True, comment="in the media bucket"),
        sa.Column("source_key", sa.Text(), nullable=True, comment="in the inbox"),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["upload.upload_id"],
        ),
        sa.PrimaryKeyConstraint("upload_id", "position"),
        sa.UniqueConstraint("upload_id", "path"),
    )
    op.create_table(
        "receipt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column(
            "kind", sa.String(length=24), nullable=False, comment="proof, deletion, finding, provenance or pinning"
        ),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("time", sa.String(length=24), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["upload.upload_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_receipt_upload_id"), "receipt", ["upload_id"], unique=False)
    op.create_table(
        "state_change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("time", sa.String(length=24), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["upload.upload_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_state_change_upload_id"), "state_change", ["upload_id"], unique=False)
    op.create_table(
        "temp_storage",
        sa.Column("cid", sa.Text(), nullable=False, comment="the object's s3:// address"),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content_id", sa.String(length=128), nullable=True, comment="what IPFS calls the same bytes"),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("due_at", sa.String(length=24), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["upload.upload_id"],
        ),
        sa.PrimaryKeyConstraint("cid"),
    )
    op.create_index(op.f("ix_temp_storage_due_at"), "temp_storage", ["due_at"], unique=False)
    op.create_index(op.f("ix_temp_storage_upload_id"), "temp_storage", ["upload_id"], unique=False)

    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER version_refuses_{action.lower()} BEFORE {action} ON version "
                "BEGIN SELECT RAISE(ABORT, 'versions are only ever added'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION version_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'versions are only ever added'; END $$"
        )
        op.execute(
            "CREATE TRIGGER version_refuses_change BEFORE UPDATE OR DELETE ON version "
            "FOR EACH ROW EXECUTE FUNCTION version_is_append_only()"
        )
        op.execute(
            "CREATE TRIGGER version_refuses_truncate BEFORE TRUNCATE ON version "
            "FOR EACH STATEMENT EXECUTE FUNCTION version_is_append_only()"
        )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
