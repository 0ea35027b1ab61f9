"""Alembic's entry: runs the steps on the connection that `migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    # SQLite cannot alter a table in place; alembic then makes a new one.
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
