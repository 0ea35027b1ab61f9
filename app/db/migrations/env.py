"""Alembic's entry: runs the steps on the connection it is handed."""

from alembic import context

from app.server.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a table in place; alembic then makes a new one.
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
