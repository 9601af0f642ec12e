"""SQLite refuses to replace a version too.

Revision 0007. `INSERT OR REPLACE` takes the old row away without asking the triggers for DELETE.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER version_refuses_replace BEFORE INSERT ON version WHEN EXISTS "
            "(SELECT 1 FROM version WHERE (video_id = NEW.video_id AND n = NEW.n) OR rowid = NEW.rowid) "
            "BEGIN SELECT RAISE(ABORT, 'versions are only ever added'); END"
        )


def downgrade() -> None:
    raise RuntimeError("the audit trail is not dropped; restore a backup instead")
