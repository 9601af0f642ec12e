"""When each node last gave each root back in full, and how far a look at all stores has come.

Revision 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replica_proof",
        sa.Column("root", sa.String(length=128), nullable=False),
        sa.Column("peer_id", sa.String(length=128), nullable=False, comment="of the node, whatever its address"),
        sa.Column("proven_at", sa.String(length=24), nullable=False, comment="every block was given back and hashed"),
        sa.PrimaryKeyConstraint("root", "peer_id"),
    )
    op.create_table(
        "checkpoint",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("time", sa.String(length=24), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
