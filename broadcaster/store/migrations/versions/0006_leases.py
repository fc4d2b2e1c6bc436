"""A sender takes a stretch of the queue in hand by one row, and not each letter by a change of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HELD = sa.text("state = 1")
_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_PLACE = ("first_due_at", "first_subscriber_id", "last_due_at", "last_subscriber_id")


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _PLACE),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_leases_delivery", "leases", ["delivery_id"])
    op.create_index("ix_leases_worker", "leases", ["worker_id"])
    # Whoever held these is no longer running: a sender does not start before the tables are as it expects them.
    op.execute("UPDATE recipients SET state = 0, is_in_doubt = true WHERE state = 1")
    op.drop_index("ix_recipients_held", table_name="recipients", sqlite_where=_HELD, postgresql_where=_HELD)
    op.drop_column("recipients", "worker_id")


def downgrade() -> None:
    op.add_column("recipients", sa.Column("worker_id", sa.BigInteger(), nullable=True))
    op.create_index("ix_recipients_held", "recipients", ["worker_id"], sqlite_where=_HELD, postgresql_where=_HELD)
    op.execute(
        "UPDATE recipients SET is_in_doubt = true WHERE state = 0 AND delivery_id IN (SELECT delivery_id FROM leases)"
    )
    op.drop_table("leases")
