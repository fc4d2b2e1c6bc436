"""What a part of a thread drags along, and how much of a push went out on a day, is found along an index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WENT_OUT = sa.text("kind = 'push' AND state = 2")
_AFTER = sa.text("after_id IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_deliveries_went_out",
        "deliveries",
        ["channel", "mode", "settled_at"],
        sqlite_where=_WENT_OUT,
        postgresql_where=_WENT_OUT,
    )
    op.create_index("ix_deliveries_after", "deliveries", ["after_id"], sqlite_where=_AFTER, postgresql_where=_AFTER)


def downgrade() -> None:
    op.drop_index("ix_deliveries_after", "deliveries")
    op.drop_index("ix_deliveries_went_out", "deliveries")
