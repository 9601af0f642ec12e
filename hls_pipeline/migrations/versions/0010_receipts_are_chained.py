"""Each receipt of an upload carries a hash of itself and of the one before it.

Revision 0010. Receipts from before have none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("receipt", sa.Column("hash", sa.String(length=64), nullable=True, comment="of it and the one before"))
    # With the id, or PostgreSQL looks for an upload's newest receipt among all of them, from the last one back.
    op.drop_index("ix_receipt_upload_id", "receipt")
    op.create_index("receipt_by_upload", "receipt", ["upload_id", "id"])


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
