"""Webhooks of one upload; indexes for a list by time and for thinning the log of deliveries.

Revision 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "webhook",
        sa.Column("upload_id", sa.String(length=32), nullable=True, comment="only this upload; empty for all"),
    )
    op.create_index("ix_webhook_upload_id", "webhook", ["upload_id"])
    op.add_column(
        "presigned_upload",
        sa.Column("webhook", sa.Text(), nullable=True, comment="who is to be told of it, as it was asked for"),
    )
    op.create_index("upload_by_time", "upload", ["created_at", "upload_id"])
    op.create_index("ix_delivery_created_at", "delivery", ["created_at"])


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
