"""The gateway's own tables: keys, idempotency, presigned uploads, webhooks.

Revision 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("expires_at", sa.String(length=24), nullable=True),
        sa.Column("revoked_at", sa.String(length=24), nullable=True),
        sa.Column("session_of", sa.String(length=16), nullable=True, comment="the key a browser session acts for"),
        sa.ForeignKeyConstraint(
            ["session_of"],
            ["api_key.key_id"],
        ),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index(op.f("ix_api_key_session_of"), "api_key", ["session_of"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column(
            "request", sa.Text(), nullable=False, comment="what was asked, to tell another request from a repeat"
        ),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True, comment="empty while the first request is under way"),
        sa.Column("body", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["api_key.key_id"],
        ),
        sa.PrimaryKeyConstraint("key_id", "idempotency_key"),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"], unique=False)
    op.create_table(
        "presigned_upload",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("files", sa.Text(), nullable=False, comment="path, size and, for files in parts, the S3 upload"),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("expires_at", sa.String(length=24), nullable=False),
        sa.Column("completed_at", sa.String(length=24), nullable=True),
        sa.Column("upload_id", sa.String(length=32), nullable=True, comment="the arrival it became"),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["api_key.key_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_presigned_upload_expires_at"), "presigned_upload", ["expires_at"], unique=False)
    op.create_table(
        "webhook",
        sa.Column("webhook_id", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("video_id", sa.String(length=64), nullable=True, comment="only this video; empty for all of the key"),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False, comment="signs; the receiver has it too"),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("seen", sa.Integer(), nullable=False, comment="the last state_change that was looked at"),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["api_key.key_id"],
        ),
        sa.PrimaryKeyConstraint("webhook_id"),
    )
    op.create_index(op.f("ix_webhook_key_id"), "webhook", ["key_id"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("delivery_id", sa.String(length=32), nullable=False),
        sa.Column("webhook_id", sa.String(length=32), nullable=False),
        sa.Column("state_change", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=24), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.String(length=24), nullable=True, comment="empty once it is delivered or given up"),
        sa.Column("delivered_at", sa.String(length=24), nullable=True),
        sa.Column(
            "answer", sa.Text(), nullable=True, comment="what the receiver said last, or why it could not be asked"
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhook.webhook_id"],
        ),
        sa.PrimaryKeyConstraint("delivery_id"),
        sa.UniqueConstraint("webhook_id", "state_change"),
    )
    op.create_index(op.f("ix_delivery_due_at"), "delivery", ["due_at"], unique=False)
    op.create_index(op.f("ix_delivery_webhook_id"), "delivery", ["webhook_id"], unique=False)


def downgrade() -> None:
    for table in ("delivery", "webhook", "presigned_upload", "idempotency", "api_key"):
        op.drop_table(table)
