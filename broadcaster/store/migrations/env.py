"""Alembic runs inside a connection that the caller opened: there is no configuration file to keep in step.

One at a time: on SQLite the transaction has the only write lock from its beginning; on PostgreSQL, where two would both
find no tables and both make them, the second waits for the first and then finds nothing left to do.
"""

from alembic import context
from sqlalchemy import text

from broadcaster.store.tables import metadata

_UPGRADE = 7301308
"""The advisory lock's number; the audit chain's is the next one."""

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _UPGRADE})
    context.run_migrations()
