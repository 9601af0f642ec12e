"""A webhook is told of the state changes after a number, not after a time: clocks differ.

Revision 0011. Those from before go on where they are; of the changes that are looked at again, in case PostgreSQL
shows a lower number late, those from before the webhook are left out as they were.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    since = sa.Column(
        "since", sa.Integer(), nullable=False, server_default="0", comment="told of later state_changes alone"
    )
    op.add_column("webhook", since)
    op.execute(
        "UPDATE webhook SET since = coalesce((SELECT max(id) FROM state_change"
        " WHERE id > webhook.seen - 200 AND time < webhook.created_at), 0)"
    )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
