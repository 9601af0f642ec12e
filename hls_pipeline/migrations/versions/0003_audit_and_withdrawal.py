"""Which versions readers got, which claims are being given up, and what look-ups by upload need.

Revision 0003. A version from before counts as shown.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No batch mode here: it would make the table anew and lose the triggers that protect it.
    op.add_column(
        "version",
        sa.Column("shown", sa.Boolean(), nullable=False, server_default=sa.true(), comment="current from its time on"),
    )
    op.add_column(
        "claim", sa.Column("released_at", sa.String(length=24), nullable=True, comment="being unpinned since")
    )
    op.create_index(op.f("ix_claim_upload_id"), "claim", ["upload_id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        kinds = "proof, deletion, finding, restoration or withdrawal"
        op.alter_column("receipt", "kind", existing_type=sa.String(length=24), existing_nullable=False, comment=kinds)


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
