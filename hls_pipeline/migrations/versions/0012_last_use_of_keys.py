"""When a key was last used.

Revision 0012.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("last_used_at", sa.String(length=24), nullable=True, comment="to the minute"))


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
