"""Alembic runs inside a connection that the caller opened: there is no configuration file to keep in step."""

from alembic import context

from broadcaster.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
