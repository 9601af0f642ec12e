"""An index of the leases that somebody holds, in place of one of all there ever were.

Revision 0006. Each video keeps its lease row; those that are held are as many as there are workers.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HELD = sa.text("holder IS NOT NULL")


def upgrade() -> None:
    op.drop_index(op.f("ix_video_lease_expires_at"), "video_lease")
    op.create_index("held_leases", "video_lease", ["expires_at"], sqlite_where=HELD, postgresql_where=HELD)


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
