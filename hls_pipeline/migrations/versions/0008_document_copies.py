"""Which version documents are on IPFS, and under which content id.

Revision 0008. A table of its own: rows of versions are never changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "document_copy",
        sa.Column("video_id", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("cid", sa.String(length=128), nullable=False, comment="of the canonical JSON"),
        sa.ForeignKeyConstraint(["video_id", "n"], ["version.video_id", "version.n"]),
        sa.PrimaryKeyConstraint("video_id", "n"),
    )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
