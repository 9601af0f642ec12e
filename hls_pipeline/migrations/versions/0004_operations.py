"""Anchors of the version chains, alerts that are open, and what made tries fail.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "failure",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="the upload was in"),
        sa.Column("code", sa.String(length=64), nullable=False, comment="of the error, see errors.py"),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.String(length=24), nullable=False),
        sa.Column("last_at", sa.String(length=24), nullable=False),
        sa.Column("message", sa.Text(), nullable=False, comment="of the last one"),
        sa.ForeignKeyConstraint(["upload_id"], ["upload.upload_id"]),
        sa.PrimaryKeyConstraint("upload_id", "state", "code"),
    )
    op.create_table(
        "anchor",
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time", sa.String(length=24), nullable=False),
        sa.Column("root", sa.String(length=128), nullable=False, comment="directory on IPFS that holds the heads"),
        sa.Column("key", sa.Text(), nullable=False, comment="of the same bytes in the media bucket"),
        sa.Column("videos", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_table(
        "alert",
        sa.Column("key", sa.String(length=200), nullable=False, comment="what is wrong with what"),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.String(length=24), nullable=False),
        sa.Column("closed_at", sa.String(length=24), nullable=True),
        sa.Column("told", sa.Text(), nullable=False, comment="channel to when it was told"),
        sa.PrimaryKeyConstraint("key"),
    )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
